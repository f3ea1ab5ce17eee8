"""Addresses and ports of the router that the example makes."""

from appliance.qemu.cloud import VM

PUBLIC, SHOP, STATIC = "203.0.113.10", "203.0.113.11", "203.0.113.12"
GATEWAY = "10.1.1.1"
CONTROL = VM.control_address.partition("/")[0]
SSH = 3922
FORWARDED = 8080
