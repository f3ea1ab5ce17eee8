"""The legacy guard: rules made beside ours with iptables' old back end, which nft does not see.

The kernel filters with them all the same. Where `/proc/net/ip_tables_names` shows that there are
such tables, a child process reads them through libiptc (python-iptables), which can crash its
interpreter; so it never does that to the agent.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.engine.model import Family
from agent.system.run import run

_TIMEOUT = 20.0  # seconds
_ROOT = Path(__file__).parents[2]  # where `python -m` finds this package, installed or not
# Of this thread's network namespace: /proc/net is that of the process.
_NAMES = {
    Family.V4: Path("/proc/thread-self/net/ip_tables_names"),
    Family.V6: Path("/proc/thread-self/net/ip6_tables_names"),
}


@dataclass(frozen=True, slots=True, order=True)
class LegacyRule:
    """A rule, or a policy other than ACCEPT, of a legacy table; `text` as iptables prints it."""

    family: Family
    table: str
    text: str


def tables() -> Sequence[tuple[Family, str]]:
    """The legacy tables that this kernel has; looking makes none."""
    return [
        (family, name)
        for family, path in _NAMES.items()
        if path.exists()
        for name in path.read_text().split()
    ]


def observe() -> tuple[LegacyRule, ...]:
    """Every legacy rule. Costs nothing where there is no table. Raises CommandFailed."""
    found = tables()
    if not found:
        return ()
    answer = json.loads(_child("list", found))
    return tuple(LegacyRule(Family(family), table, text) for family, table, text in answer)


def remove() -> None:
    """Remove every legacy rule and chain, and set the policies to ACCEPT. Raises CommandFailed."""
    found = tables()
    if found:
        _child("remove", found)


def _child(verb: str, found: Sequence[tuple[Family, str]]) -> bytes:
    argv = [sys.executable, "-m", "agent.system.legacy_child", verb]
    argv += [f"{family}:{name}" for family, name in found]
    return run(argv, timeout=_TIMEOUT, cwd=_ROOT).stdout
