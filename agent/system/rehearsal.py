"""The rehearsal: firewall text is loaded in a scratch network before any packet can meet it.

`iptables-nft-restore --test` misses a jump to a chain that is not there, and a restore is atomic
only per table; so the text is really loaded, where there is nothing to filter, and read back.
"""

import contextlib
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from agent.engine.host import CheckFailed
from agent.engine.model import AddressSet
from agent.system import addresssets, xtables
from agent.system.namespaces import Scratch
from agent.system.run import CommandFailed
from agent.system.xtables import Chain, Content, TableKey

_COMMENT = re.compile(r"--comment (?:\"((?:[^\"\\]|\\.)*)\"|(\S+))")
_MATCHED = re.compile(r"--match-set (\S+) ")
_LINE = re.compile(r"\bline:? (\d+)")
_NAMED = re.compile(r"\b[Cc]hain '?([^\s']+)|\b[Ss]et (\S+) doesn't exist")
_NOISE = re.compile(r"Try `|# Warning|Error occurred at line|\s*$")


@dataclass(frozen=True, slots=True)
class _Known:
    """A table that was rehearsed: how each of its rules reads when it is canonical."""

    skeleton: Mapping[str, Chain]
    rules: Mapping[str, str]


class Rehearsal:
    """A scratch network and what was loaded there.

    How a rule reads back depends on the rule alone, and whether the kernel takes it on the rule,
    the chains and the jumps between them. So where chains and jumps are those of the time before,
    only rules that are new are loaded beside them: one rule more costs the same among ten
    thousand as among ten.
    """

    def __init__(self) -> None:
        self._scratch: Scratch | None = None
        self._sets: dict[str, AddressSet] = {}
        self._known: dict[TableKey, _Known] = {}

    def rehearse(
        self, sets: Mapping[str, AddressSet], tables: Mapping[TableKey, str]
    ) -> Mapping[TableKey, str]:
        """Load text with its sets; the canonical text of the tables given. Raises CheckFailed."""
        if any(_retyped(self._sets.get(name), one) for name, one in sets.items()):
            self.close()
        if self._scratch is None:
            self._scratch = Scratch("rehearsal")
        try:
            return self._scratch.do(lambda: self._rehearse(sets, tables))
        except BaseException:
            self.close()  # what it holds now is not what we remember
            raise

    def close(self) -> None:
        """Forget everything."""
        if self._scratch is not None:
            self._scratch.close()
        self._scratch = None
        self._sets, self._known = {}, {}

    def _rehearse(
        self, sets: Mapping[str, AddressSet], tables: Mapping[TableKey, str]
    ) -> Mapping[TableKey, str]:
        for text in tables.values():
            _check_sets(text, sets)
        self._put_sets([one for name, one in sets.items() if self._sets.get(name) != one])
        done = {key: self._put_table(key, text) for key, text in tables.items()}
        for name in self._sets.keys() - sets.keys():
            self._remove_set(name)
        return done

    def _put_sets(self, changed: Sequence[AddressSet]) -> None:
        try:
            addresssets.put(changed)
        except CommandFailed as failure:
            raise CheckFailed("address sets", _said(failure)) from failure
        self._sets |= {one.name: one for one in changed}

    def _remove_set(self, name: str) -> None:
        """Remove a set, or leave it for the next time while rules of an earlier text match it."""
        with contextlib.suppress(CommandFailed):
            addresssets.remove(name, patience=0.0)
            del self._sets[name]

    def _put_table(self, key: TableKey, text: str) -> str:
        """Load what is not known yet; the table's canonical text."""
        table = xtables.read(key[1], text)
        skeleton = _skeleton(table)
        known = self._known.get(key)
        old = known.rules if known is not None and known.skeleton == skeleton else {}
        rules: dict[str, str] = {}
        for rule in (rule for chain in table.chains.values() for rule in chain.rules):
            read = old.get(rule, "")
            rules[read if read == rule else rule] = read  # one string for both
        if known is None or not all(rules.values()):
            rules |= _load(key, _without(table, old, skeleton))
        self._known[key] = _Known(skeleton, rules)
        return _replaced(table, rules).text


def _skeleton(table: Content) -> Mapping[str, Chain]:
    """The chains with only those rules that jump to another."""
    return {
        name: Chain(chain.policy, tuple(r for r in chain.rules if _target(r) in table.chains))
        for name, chain in table.chains.items()
    }


def _without(table: Content, old: Container[str], skeleton: Mapping[str, Chain]) -> Content:
    """The table without rules that are known, unless they belong to its skeleton."""
    return Content(
        table.table,
        {
            name: Chain(
                chain.policy,
                tuple(r for r in chain.rules if r not in old or r in skeleton[name].rules),
            )
            for name, chain in table.chains.items()
        },
    )


def _load(key: TableKey, table: Content) -> Mapping[str, str]:
    """Load a table in the scratch; how each of its rules reads there."""
    family, name = key
    try:
        xtables.load(family, table.text)
    except CommandFailed as failure:
        raise _refusal(key, table.text, failure) from failure
    there = xtables.observe_table(family, name)
    return {
        given: given if given == read else read  # one string for both
        for chain in table.chains
        for given, read in zip(table.chains[chain].rules, there.chains[chain].rules, strict=True)
    }


def _replaced(table: Content, rules: Mapping[str, str]) -> Content:
    return Content(
        table.table,
        {
            name: Chain(chain.policy, tuple(rules[rule] for rule in chain.rules))
            for name, chain in table.chains.items()
        },
    )


def _target(rule: str) -> str:
    return rule.rpartition(" -j ")[2].partition(" ")[0]


def _check_sets(text: str, sets: Container[str]) -> None:
    for rule in text.splitlines():
        for name in _MATCHED.findall(rule):
            if name not in sets:
                what = f"a rule matches the address set {name}, which is not there: {rule}"
                raise CheckFailed("firewall", what, _comment(rule))


def _retyped(was: AddressSet | None, now: AddressSet) -> bool:
    return was is not None and (was.type, was.family) != (now.type, now.family)


def _refusal(key: TableKey, text: str, failure: CommandFailed) -> CheckFailed:
    family, table = key
    rule = _blamed(text, failure.stderr.decode(errors="replace"))
    what = f"firewall, {table} table of IPv{int(family)}"
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
    """The first rule that contains `part`."""
    rules = (line for text in texts for line in text.splitlines())
    return next((rule for rule in rules if rule.startswith("-A") and part in f"{rule}\n"), "")


def _comment(rule: str) -> str:
    found = _COMMENT.search(rule)
    return "" if found is None else found[2] or xtables.unescape(found[1])


def _said(failure: CommandFailed) -> str:
    """What a tool complained of, in one line and without its advice on usage."""
    lines = failure.stderr.decode(errors="replace").splitlines()
    said = " ".join(line.strip() for line in lines if not _NOISE.match(line))
    return re.sub(r"^\S+ v[\d.]+( \(nf_tables\))?:\s*", "", said) or failure.reason
