"""What the restore waits for at boot, where it begins before the system is ready for it.

Its own getting ready (Python, the document, every file) takes longer than all of that, so in most
boots there is nothing left to wait for.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

_PAUSE = 0.02  # seconds between two looks


@dataclass(frozen=True, slots=True)
class Early:
    """Marks that others leave when they have done their part, and for how many seconds they may
    take. What does not come in time is not waited for any longer."""

    firewall: Path = Path("/run/sysvm/firewall-done")  # by sysvm-firewall.service (share/firewall)
    bus: Path = Path("/run/dbus/system_bus_socket")  # by systemd, once sysinit.target is reached
    patience: float = 30.0

    def wait_for_firewall(self) -> None:
        """Until the VM is closed, and both do not load rules at once.

        Nothing depends on it: the restore puts in its own rules before it brings up any link.
        """
        if not self._there(self.firewall):
            log.warning("sysvm-firewall.service has not closed the VM: the restore does")

    def wait_for_bus(self) -> None:
        """Until the system's bus can be connected to."""
        if not self._there(self.bus):
            log.warning("%s is not there", self.bus)

    def _there(self, mark: Path) -> bool:
        deadline = time.monotonic() + self.patience
        while not mark.exists():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE)
        return True
