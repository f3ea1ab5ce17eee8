"""Where the agent keeps things, in one place, so that tests can keep them elsewhere."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Paths:
    """`run` is forgotten at power-off, `state` is not."""

    run: Path = Path("/run/sysvm")
    state: Path = Path("/var/lib/sysvm")

    @property
    def revisions(self) -> Path:
        return self.run / "revisions"

    @property
    def current(self) -> Path:
        """The symlink to the revision that runs."""
        return self.run / "current"

    @property
    def objects(self) -> Path:
        return self.run / "objects"

    @property
    def blobs(self) -> Path:
        return self.state / "blobs"

    @property
    def state_problem(self) -> Path:
        """What the initrd found wrong with the state partition; not there where all is well."""
        return self.run / "state-problem"

    @property
    def state_note(self) -> Path:
        """What the state partition does not take (engine/store.py)."""
        return self.run / "state.json"

    @property
    def lock(self) -> Path:
        return self.run / "lock"

    @property
    def events(self) -> Path:
        """The outbox's folder."""
        return self.state / "events"

    @property
    def spools(self) -> tuple[Path, Path]:
        """Where other processes leave events for the agent to take in; the first that can."""
        return self.events / "spool", self.run / "events"
