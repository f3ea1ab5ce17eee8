"""The firewall as text, by iptables-restore(8) and iptables-save(8) with the nft back end.

Text is canonical when it says what `iptables-save` prints, without comment lines and counters,
built-in chains first and the others in order of their names. A table that nobody made, one
without rules and one that the kernel holds only in part are the same: all built-in chains with
the policy ACCEPT. So equal firewalls are equal strings.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.engine.firewall import BUILT_IN
from agent.engine.model import Count, CounterKey, Family, Table
from agent.system.run import run

TableKey = tuple[Family, Table]

_TIMEOUT = 30.0  # seconds; 10,000 rules take 0.2
# The names with `nft` in them choose the back end, whatever the alternatives system says.
_RESTORE = {Family.V4: "iptables-nft-restore", Family.V6: "ip6tables-nft-restore"}
_SAVE = {Family.V4: "iptables-nft-save", Family.V6: "ip6tables-nft-save"}

_COUNTED = re.compile(
    r"^\[(\d+):(\d+)\] -A (\S+) .*?--comment (?:\"((?:[^\"\\]|\\.)*)\"|(\S+))", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain's policy ("-" for one that is not built in) and its rules, each a line of text."""

    policy: str
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Content:
    """What a table holds: all its built-in chains, and others, by name."""

    table: Table
    chains: Mapping[str, Chain]

    @property
    def text(self) -> str:
        """Canonical, where the rules are."""
        built_in = BUILT_IN[self.table]
        names = [*built_in, *sorted(self.chains.keys() - set(built_in))]
        lines = [f"*{self.table}"]
        lines += [f":{name} {self.chains[name].policy} [0:0]" for name in names]
        for name in names:
            lines += self.chains[name].rules
        return "\n".join([*lines, "COMMIT", ""])


def empty(table: Table) -> str:
    """The canonical text of a table without rules."""
    return read(table, "").text


def read(table: Table, text: str) -> Content:
    """What a table's text, as iptables-save prints or iptables-restore takes it, holds."""
    policies = dict.fromkeys(BUILT_IN[table], "ACCEPT")
    rules: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("-A "):
            rules.setdefault(line[3 : line.index(" ", 3)], []).append(line)
        elif line.startswith(":"):
            chain, policy = line[1:].split(" ")[:2]
            policies[chain] = policy
    return Content(
        table,
        {name: Chain(policy, tuple(rules.get(name, ()))) for name, policy in policies.items()},
    )


def read_all(saved: str) -> Mapping[Table, Content]:
    """What `iptables-save` prints, table by table; of our tables, all are there."""
    found = dict.fromkeys(Table, "") | dict(_parts(saved))
    return {table: read(table, body) for table, body in found.items()}


def _parts(saved: str) -> Iterable[tuple[Table, str]]:
    for part in re.split(r"^\*", saved, flags=re.MULTILINE)[1:]:
        name, _, body = part.partition("\n")
        if name in set(Table):  # there is one more, which nobody of ours uses
            yield Table(name), body


def observe(family: Family) -> dict[TableKey, str]:
    """The canonical text of all four tables of a family, as the kernel holds them."""
    saved = run([_SAVE[family]], timeout=_TIMEOUT).text
    return {(family, table): content.text for table, content in read_all(saved).items()}


def observe_table(family: Family, table: Table) -> Content:
    """One table, as the kernel holds it."""
    return read(table, run([_SAVE[family], "-t", table], timeout=_TIMEOUT).text)


def load(family: Family, text: str) -> None:
    """Replace a table, whole and at once. Raises CommandFailed.

    A table without rules is removed rather than loaded, so that its hooks cost no packet time.
    """
    table = Table(text[1:].partition("\n")[0])
    given = f"*{table}\nCOMMIT\n" if text == empty(table) else text
    run([_RESTORE[family], "-w"], stdin=given.encode(), timeout=_TIMEOUT)


def edit(family: Family, edits: str) -> None:
    """Change a table in place, at once; rules that are not named go on counting."""
    run([_RESTORE[family], "-w", "--noflush"], stdin=edits.encode(), timeout=_TIMEOUT)


def counters() -> Mapping[CounterKey, Count]:
    """What each rule with a comment has seen, since its table was last loaded."""
    counts: dict[CounterKey, Count] = {}
    for family in Family:
        counts |= read_counters(family, run([_SAVE[family], "-c"], timeout=_TIMEOUT).text)
    return counts


def read_counters(family: Family, saved: str) -> Mapping[CounterKey, Count]:
    """Counts by rule from `iptables-save -c`; rules of a chain that share a comment add up."""
    counts: dict[CounterKey, Count] = {}
    for table, body in _parts(saved):
        for packets, size, chain, quoted, plain in _COUNTED.findall(body):
            key = CounterKey(family, table, chain, plain or unescape(quoted))
            count = Count(int(packets), int(size))
            counts[key] = counts[key] + count if key in counts else count
    return counts


def unescape(quoted: str) -> str:
    """A comment without the backslashes that iptables-save puts before quotes and backslashes."""
    return re.sub(r"\\(.)", r"\1", quoted) if "\\" in quoted else quoted
