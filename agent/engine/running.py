"""What runs: for whoever only asks."""

from collections.abc import Mapping

from agent.engine.errors import NothingApplied
from agent.engine.host import Host
from agent.engine.model import Command, Count, CounterKey, Desired, Observed, Plan
from agent.engine.store import Revision, RevisionInfo, State, Store
from agent.engine.target import Target, Targets


class Running:
    """The revision that runs, and the machine beside it; nothing is changed here."""

    def __init__(self, host: Host, store: Store, targets: Targets) -> None:
        self._host = host
        self._store = store
        self._targets = targets

    def state(self) -> State:
        return self._store.state()

    def revisions(self) -> tuple[RevisionInfo, ...]:
        """Those that are kept, newest first."""
        return self._store.revisions()

    def revision(self, number: int) -> Revision:
        """Raises NoSuchRevision."""
        return self._store.revision(number)

    def current(self) -> Revision:
        """The revision that runs. Raises NothingApplied."""
        number = self._store.state().current
        if number is None:
            raise NothingApplied
        return self._store.revision(number)

    def desired(self) -> Desired:
        """What the running revision wants. Raises NothingApplied."""
        return self._current().desired

    def observed(self) -> Observed:
        """The machine, as far as the running revision is about it. Raises NothingApplied."""
        return self._targets.observe(self._current())

    def drift(self) -> Plan:
        """What it would take for the machine to be again what was asked; empty if it is."""
        return self._targets.difference(self._current())

    def inspections(self) -> Mapping[str, tuple[Command, ...]]:
        """What a diagnostics bundle takes of each service that runs. Raises NothingApplied."""
        return self._targets.inspections(self.current().document)

    def counters(self) -> Mapping[CounterKey, Count]:
        """What every rule has counted since it first was."""
        zero = Count(0, 0)
        base = self._store.counters()
        return {key: base.get(key, zero) + now for key, now in self._host.counters().items()}

    def _current(self) -> Target:
        state = self._store.state()
        if state.current is None:
            raise NothingApplied
        return self._targets.running(state.current, state.making)
