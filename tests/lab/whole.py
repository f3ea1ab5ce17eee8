"""What traffic could notice of a lab's system VM, and knocking at it from the lab's internet."""

from contextlib import AbstractContextManager

from appliance.lab import Lab
from appliance.lab import whole as machine
from appliance.lab.whole import Whole

__all__ = ["Whole", "knocking", "whole"]


def whole(lab: Lab) -> Whole:
    """The machine as it is now."""
    return machine.whole(lab.vm)


def knocking(lab: Lab, address: str, port: int) -> AbstractContextManager[list[str]]:
    """Knock from the internet, TCP and UDP, as fast as one thread can; what got in is listed."""
    return machine.knocking(lab.internet, address, port)
