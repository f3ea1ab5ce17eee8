"""NICs at boot: there, and under their final names.

Drivers are loaded and NICs renamed by udev while the boot goes on. The restore needs the NICs of
its own revision and no other device, so it waits for these instead of for all of udev's work.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.engine.model import Link

PAUSE = 0.05  # seconds between two looks


@dataclass(frozen=True, slots=True)
class Udev:
    """What udev has done: udev(7), and sd_device_get_is_initialized(3) for the files."""

    run: Path = Path("/run/udev")
    devices: Path = Path("/sys/class/net")

    def has_named(self, link: Link) -> bool:
        """Has udev done with this NIC? Without udev, as in a container, nobody renames."""
        if not (self.run / "control").exists():
            return True
        try:
            index = (self.devices / link.name / "ifindex").read_text().strip()
        except OSError:  # renamed between the look and now
            return False
        return (self.run / "data" / f"n{index}").exists()


def wait(
    links: Callable[[], Sequence[Link]],
    wanted: Collection[str],
    timeout: float,
    udev: Udev | None = None,
) -> frozenset[str]:
    """Wait until NICs with these MAC addresses, and all that are there, have their names.

    Returns the MAC addresses that did not come within `timeout` seconds.
    """
    udev = udev or Udev()
    deadline = time.monotonic() + timeout
    while True:
        found = links()
        named = {link.mac for link in found if udev.has_named(link)}
        if named >= {*wanted, *(link.mac for link in found)}:
            return frozenset()
        if time.monotonic() >= deadline:
            return frozenset(wanted) - named
        time.sleep(PAUSE)
