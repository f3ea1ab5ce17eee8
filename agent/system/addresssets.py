"""Address sets, by ipset(8): read all, replace one at once, remove one."""

import time
from collections.abc import Iterable, Mapping

from agent.engine.model import AddressSet, Family, SetType
from agent.system.run import CommandFailed, run

_TIMEOUT = 20.0  # seconds
_FAMILIES = {"inet": Family.V4, "inet6": Family.V6}
_WORDS = {family: word for word, family in _FAMILIES.items()}
_DRAFT = ".new"  # a name has at most 31 characters, ours at most 27
# Members of a set at most, for all sets alike: `create -exist` refuses another figure.
_LARGEST = 1024 * 1024
# The kernel lets go of a set only some time after the rule that matched it is gone.
_PATIENCE = 2.0  # seconds
_PAUSE = 0.02


def observe() -> Mapping[str, AddressSet]:
    """Every set of a type that we use, by its name."""
    return parse(run(["ipset", "save"], timeout=_TIMEOUT).text)


def parse(saved: str) -> Mapping[str, AddressSet]:
    """The sets in the output of `ipset save`."""
    kinds: dict[str, tuple[Family, SetType]] = {}
    members: dict[str, list[str]] = {}
    for line in saved.splitlines():
        verb, name, what, *options = line.split(" ")
        if verb == "add" and name in members:
            members[name].append(what)
        elif verb == "create" and what in set(SetType) and not name.endswith(_DRAFT):
            kinds[name] = _FAMILIES[options[options.index("family") + 1]], SetType(what)
            members[name] = []
    return {
        name: AddressSet(name, family, kind, frozenset(members[name]))
        for name, (family, kind) in kinds.items()
    }


def put(sets: Iterable[AddressSet]) -> None:
    """Create these sets, or replace their members, each at once. Raises CommandFailed.

    A set that exists keeps its type and family: rules hold on to it.
    """
    wanted = tuple(sets)
    if not wanted:
        return
    try:
        _restore(wanted)
    except CommandFailed as failure:
        if b"already exists" not in failure.stderr:
            raise
        for one in wanted:  # what a crash has left
            run(["ipset", "destroy", one.name + _DRAFT], timeout=_TIMEOUT, check=False)
        _restore(wanted)


def remove(name: str, patience: float = _PATIENCE) -> None:
    """Remove a set; does nothing where it is not. Raises CommandFailed while a rule matches it."""
    deadline = time.monotonic() + patience
    while True:
        done = run(["ipset", "destroy", name], timeout=_TIMEOUT, check=False)
        if done.returncode == 0 or b"does not exist" in done.stderr:
            return
        if b"in use" not in done.stderr or time.monotonic() >= deadline:
            raise CommandFailed(
                done.argv, f"exit code {done.returncode}", stderr=done.stderr, retryable=True
            )
        time.sleep(_PAUSE)


def _restore(sets: Iterable[AddressSet]) -> None:
    lines: list[str] = []
    for one in sets:
        draft = one.name + _DRAFT
        kind = f"{one.type} family {_WORDS[one.family]} maxelem {_LARGEST}"
        lines.append(f"create {draft} {kind}")
        lines += [f"add {draft} {member}" for member in sorted(one.members)]
        lines.append(f"create {one.name} {kind} -exist")
        lines += [f"swap {draft} {one.name}", f"destroy {draft}"]
    run(["ipset", "restore"], stdin="\n".join([*lines, ""]).encode(), timeout=_TIMEOUT)
