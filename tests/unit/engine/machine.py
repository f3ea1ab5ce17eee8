"""A host in memory, its disk, and an agent that can die and start again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from agent.document.boot import parse as parse_boot
from agent.engine.model import Observed
from agent.engine.store import Store
from agent.engine.transaction import Engine
from tests.unit.engine.documents import BOOT
from tests.unit.engine.memory import MemoryHost, OneWriter, PlainDisk, StillClock
from tests.unit.monitor.heard import Heard


class Machine:
    """A host, its disk, and an agent that can die and start again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = MemoryHost()
        self.memory = folder.with_name(f"{folder.name}-run")
        self.disk = PlainDisk(memory=self.memory)
        self.clock = StillClock()
        self.heard = Heard()
        self.engine = self.start()
        self.engine.restore()

    def start(self) -> Engine:
        store = Store(self.folder, self.disk, note=self.memory / "state.json")
        boot = parse_boot(json.dumps(BOOT).encode())
        return Engine(self.host, store, self.clock, OneWriter(), boot, self.heard)

    def reboot(self) -> None:
        """The kernel forgets everything; the disk does not."""
        self.host = replace(MemoryHost(), deaths=self.host.deaths)
        shutil.rmtree(self.memory, ignore_errors=True)
        self.engine = self.start()
        self.engine.restore()


def same(machine: Observed, wanted: Observed) -> bool:
    """Equal in all that traffic could notice.

    A unit that never ran is one that does not run; a setting of a NIC that is down is none.
    """
    running = [{u for u, s in o.units.items() if s.running} for o in (machine, wanted)]
    sysctls = {key: machine.sysctls.get(key) for key in wanted.sysctls}
    return (
        running[0] == running[1]
        and sysctls == wanted.sysctls
        and replace(machine, units={}, sysctls={}) == replace(wanted, units={}, sysctls={})
    )
