"""The firewall as text, by iptables-restore(8) and iptables-save(8) with the nft back end.

Text is canonical when it is what `iptables-save` prints, without comment lines and counters.
A table that nobody made, one without rules and one that the kernel holds only in part are the
same: all built-in chains with the policy ACCEPT. So equal firewalls are equal strings.
"""

import re
from collections.abc import Iterable, Mapping

from agent.engine.firewall import BUILT_IN
from agent.engine.host import CheckFailed
from agent.engine.model import AddressSet, Count, CounterKey, Family, Table
from agent.system import addresssets
from agent.system.namespaces import Scratch
from agent.system.run import CommandFailed, run

TableKey = tuple[Family, Table]

_TIMEOUT = 30.0  # seconds; 10,000 rules take 0.2
# The names with `nft` in them choose the back end, whatever the alternatives system says.
_RESTORE = {Family.V4: "iptables-nft-restore", Family.V6: "ip6tables-nft-restore"}
_SAVE = {Family.V4: "iptables-nft-save", Family.V6: "ip6tables-nft-save"}

_COUNTED = re.compile(
    r"^\[(\d+):(\d+)\] -A (\S+) .*?--comment (?:\"((?:[^\"\\]|\\.)*)\"|(\S+))", re.MULTILINE
)
_COMMENT = re.compile(r"--comment (?:\"((?:[^\"\\]|\\.)*)\"|(\S+))")
_LINE = re.compile(r"\bline:? (\d+)")
_NAMED = re.compile(r"\b[Cc]hain '?([^\s']+)|\b[Ss]et (\S+) doesn't exist")
_NOISE = re.compile(r"^(Try `|# Warning|\s*$)")


def empty(table: Table) -> str:
    """The canonical text of a table without rules."""
    chains = [f":{name} ACCEPT [0:0]" for name in BUILT_IN[table]]
    return "\n".join([f"*{table}", *chains, "COMMIT", ""])


def canonical(saved: str) -> dict[Table, str]:
    """The canonical text of each of our tables, from what `iptables-save` prints."""
    found = {table: empty(table) for table in Table}
    for part in re.split(r"^\*", saved, flags=re.MULTILINE)[1:]:
        name, _, body = part.partition("\n")
        if name in found:
            table = Table(name)
            found[table] = _canonical_table(table, body)
    return found


def _canonical_table(table: Table, body: str) -> str:
    policies = dict.fromkeys(BUILT_IN[table], "ACCEPT")
    rules = []
    for line in body.splitlines():
        if line.startswith("-A"):
            rules.append(line)
        elif line.startswith(":"):
            chain, policy = line[1:].split(" ")[:2]
            policies[chain] = policy
    chains = [f":{chain} {policy} [0:0]" for chain, policy in policies.items()]
    return "\n".join([f"*{table}", *chains, *rules, "COMMIT", ""])


def observe(family: Family) -> dict[TableKey, str]:
    """The canonical text of all four tables of a family, as the kernel holds them."""
    saved = run([_SAVE[family]], timeout=_TIMEOUT).text
    return {(family, table): text for table, text in canonical(saved).items()}


def load(family: Family, *texts: str) -> None:
    """Replace each table given, whole, at once for itself. Raises CommandFailed.

    A table without rules is removed rather than loaded, so that its hooks cost no packet time.
    """
    given = "".join(_removal(text) or text for text in texts)
    run([_RESTORE[family], "-w"], stdin=given.encode(), timeout=_TIMEOUT)


def _removal(text: str) -> str | None:
    table = Table(text[1:].partition("\n")[0])
    return f"*{table}\nCOMMIT\n" if text == empty(table) else None


def counters() -> Mapping[CounterKey, Count]:
    """What each rule with a comment has seen, since its table was last loaded."""
    counts: dict[CounterKey, Count] = {}
    for family in Family:
        counts |= parse_counters(family, run([_SAVE[family], "-c"], timeout=_TIMEOUT).text)
    return counts


def parse_counters(family: Family, saved: str) -> Mapping[CounterKey, Count]:
    """Counts by rule from `iptables-save -c`; rules of a chain that share a comment add up."""
    counts: dict[CounterKey, Count] = {}
    for part in re.split(r"^\*", saved, flags=re.MULTILINE)[1:]:
        name, _, body = part.partition("\n")
        if name not in set(Table):
            continue
        table = Table(name)
        for packets, size, chain, quoted, plain in _COUNTED.findall(body):
            key = CounterKey(family, table, chain, plain or _unescape(quoted))
            count = Count(int(packets), int(size))
            counts[key] = counts[key] + count if key in counts else count
    return counts


class Rehearsal:
    """A scratch network in which firewall text is loaded before any packet can meet it.

    It remembers what it holds, and loads only sets and tables that changed. After a refusal it
    starts afresh, so that what it remembers is what it holds.
    """

    def __init__(self) -> None:
        self._scratch: Scratch | None = None
        self._sets: dict[str, AddressSet] = {}
        self._given: dict[TableKey, str] = {}
        self._canonical: dict[TableKey, str] = {}

    def rehearse(
        self, sets: Mapping[str, AddressSet], tables: Mapping[TableKey, str]
    ) -> Mapping[TableKey, str]:
        """Load text with its sets; the canonical text of the tables given. Raises CheckFailed."""
        if any(_retyped(self._sets.get(name), one) for name, one in sets.items()):
            self.close()
        if self._scratch is None:
            self._scratch = Scratch("rehearsal")
        try:
            self._scratch.do(lambda: self._load(sets, tables))
        except BaseException:
            self.close()
            raise
        return {key: self._canonical[key] for key in tables}

    def close(self) -> None:
        if self._scratch is not None:
            self._scratch.close()
        self._scratch = None
        self._sets, self._given, self._canonical = {}, {}, {}

    def _load(self, sets: Mapping[str, AddressSet], tables: Mapping[TableKey, str]) -> None:
        self._put_sets(one for name, one in sets.items() if self._sets.get(name) != one)
        for family in Family:
            changed = {
                key: text
                for key, text in tables.items()
                if key[0] is family and self._given.get(key) != text
            }
            if changed:
                self._put_tables(family, changed)
        for name in self._sets.keys() - sets.keys():
            self._remove_set(name)

    def _put_sets(self, sets: Iterable[AddressSet]) -> None:
        changed = tuple(sets)
        try:
            addresssets.put(changed)
        except CommandFailed as failure:
            raise CheckFailed("address sets", _said(failure)) from failure
        self._sets |= {one.name: one for one in changed}

    def _put_tables(self, family: Family, texts: Mapping[TableKey, str]) -> None:
        for key, text in texts.items():
            try:
                load(family, text)
            except CommandFailed as failure:
                raise _refusal(key, text, failure) from failure
        names = [key[1] for key in texts]
        only = ["-t", names[0]] if len(names) == 1 else []
        saved = canonical(run([_SAVE[family], *only], timeout=_TIMEOUT).text)
        for key, text in texts.items():
            self._given[key] = text
            self._canonical[key] = saved[key[1]]

    def _remove_set(self, name: str) -> None:
        try:
            addresssets.remove(name)
        except CommandFailed as failure:
            rule = _first(self._given.values(), f"--match-set {name} ")
            what = f"a rule matches the address set {name}, which is not there"
            raise CheckFailed("firewall", what, _comment(rule)) from failure
        del self._sets[name]


def _retyped(was: AddressSet | None, now: AddressSet) -> bool:
    return was is not None and (was.type, was.family) != (now.type, now.family)


def _refusal(key: TableKey, text: str, failure: CommandFailed) -> CheckFailed:
    family, table = key
    rule = _blamed(text, failure.stderr.decode(errors="replace"))
    what = f"firewall, table {table} of IPv{family}"
    reason = f"{_said(failure)}: {rule}" if rule else _said(failure)
    return CheckFailed(what, reason, _comment(rule))


def _blamed(text: str, said: str) -> str:
    """The rule that a message of iptables-restore is about; empty if none can be told."""
    lines = text.splitlines()
    for number in _LINE.findall(said):
        if 0 < int(number) <= len(lines) and lines[int(number) - 1].startswith("-A"):
            return lines[int(number) - 1]
    for chain, name in _NAMED.findall(said):  # of a missing chain it names the line of COMMIT
        rule = _first([text], f"--match-set {name} " if name else f"-j {chain}\n")
        if rule:
            return rule
    return ""


def _first(texts: Iterable[str], part: str) -> str:
    rules = (line for text in texts for line in text.splitlines())
    return next((rule for rule in rules if rule.startswith("-A") and part in f"{rule}\n"), "")


def _comment(rule: str) -> str:
    found = _COMMENT.search(rule)
    return "" if found is None else found[2] or _unescape(found[1])


def _unescape(quoted: str) -> str:
    return re.sub(r"\\(.)", r"\1", quoted) if "\\" in quoted else quoted


def _said(failure: CommandFailed) -> str:
    """What a tool complained of, in one line and without its advice on usage."""
    lines = failure.stderr.decode(errors="replace").splitlines()
    said = " ".join(line.strip() for line in lines if not _NOISE.match(line))
    return re.sub(r"^\S+ v[\d.]+( \(nf_tables\))?:\s*", "", said) or failure.reason
