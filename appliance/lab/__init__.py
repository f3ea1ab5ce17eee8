"""A whole cloud on one machine: the system VM, guests, an internet, and management.

from appliance.lab import Lab

with Lab.up(name="trial") as lab:
    lab.vm.run(["ip", "-brief", "address"])
    lab.guests["vm1"].dhcp()
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.lab.cloud import Lab as Lab

__all__ = ["Lab"]


def __getattr__(name: str) -> object:
    # The supervisor of a container lives in this package too, and starts without the weight of
    # what a person or a test needs: the name is looked up when somebody asks for it.
    if name == "Lab":
        from appliance.lab.cloud import Lab

        return Lab
    raise AttributeError(f"{__name__} has no {name}")
