"""Boots built images under QEMU, in networks of their own, and proves what they promise."""
