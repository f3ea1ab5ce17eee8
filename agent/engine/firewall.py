"""Firewall text from typed rules, in the language of iptables-restore(8)."""

import difflib
from collections.abc import Iterable, Mapping, Sequence

from agent.engine.model import (
    AddressSet,
    Chain,
    ClampMss,
    Dnat,
    Family,
    Jump,
    NoTrack,
    Protocol,
    Reject,
    Rule,
    Snat,
    Table,
    Target,
    Verdict,
)

# Members of an address set at most; all sets alike, for ipset refuses to create one that is there
# with another figure.
LARGEST_SET = 1024 * 1024

# Edits of a table at most; more are slower than loading it anew.
LARGEST_DELTA = 400

BUILT_IN: Mapping[Table, tuple[str, ...]] = {
    Table.RAW: ("PREROUTING", "OUTPUT"),
    Table.MANGLE: ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    Table.FILTER: ("INPUT", "FORWARD", "OUTPUT"),
    Table.NAT: ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
}


def tables(
    chains: Sequence[Chain], rules: Sequence[Rule], known: Mapping[int, str] | None = None
) -> Mapping[tuple[Family, Table], str]:
    """The text of every table of both families; a table that nobody uses is an empty one.

    Chains stand in order of their names, built-in ones first; rules in their owner's order.
    `known` has lines of rules, by the rule's id, that are the very same objects as before.
    """
    known = known or {}
    lines: dict[tuple[Family, Table, str], list[str]] = {}
    policies: dict[tuple[Family, Table, str], str] = {}
    for family in Family:
        for table, names in BUILT_IN.items():
            for name in names:
                lines[family, table, name] = []
                policies[family, table, name] = "ACCEPT"
    for chain in sorted(chains, key=lambda chain: chain.name):
        key = chain.family, chain.table, chain.name
        lines.setdefault(key, [])
        policies[key] = chain.policy or "-"
    for rule in rules:
        text = known.get(id(rule)) or line(rule)
        lines[rule.family, rule.table, rule.chain].append(text)
    texts: dict[tuple[Family, Table], str] = {}
    for family in Family:
        for table in Table:
            own = [(key[2], body) for key, body in lines.items() if key[:2] == (family, table)]
            whole = [f"*{table}"]
            whole += [f":{name} {policies[family, table, name]} [0:0]" for name, _ in own]
            for _, body in own:
                whole += body
            whole += ["COMMIT", ""]
            texts[family, table] = "\n".join(whole)
    return texts


def delta(was: str, now: str) -> str | None:
    """What `iptables-restore --noflush` needs to make canonical text `now` of `was`.

    Rules that stay are not touched, and count on. None where so much changes that the whole
    table is better loaded anew.
    """
    old_policies, old = _parse(was)
    policies, new = _parse(now)
    lines = [
        f":{chain} {policies[chain]} [0:0]"
        for chain in new
        if policies[chain] != old_policies.get(chain)
    ]
    for chain, rules in new.items():
        edits = _edits(chain, old.get(chain, []), rules)
        if edits is None:
            return None
        lines += edits
    gone = [chain for chain in old if chain not in new]
    lines += [f"-F {chain}" for chain in gone] + [f"-X {chain}" for chain in gone]
    if len(lines) > LARGEST_DELTA:
        return None
    return "\n".join([now.partition("\n")[0], *lines, "COMMIT", ""])


def _parse(text: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Policies and rules by chain, in the text's order."""
    policies: dict[str, str] = {}
    rules: dict[str, list[str]] = {}
    for text_line in text.splitlines():
        if text_line.startswith(":"):
            chain, policy, _ = text_line[1:].split(" ", 2)
            policies[chain] = policy
            rules[chain] = []
        elif text_line.startswith("-A "):
            rules[text_line.split(" ", 2)[1]].append(text_line)
    return policies, rules


def _edits(chain: str, old: list[str], new: list[str]) -> list[str] | None:
    """Deletions from the last to the first, then insertions in order (rule numbers from 1)."""
    if old == new:
        return []
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    before, after = old[start : len(old) - end], new[start : len(new) - end]
    if len(before) + len(after) > LARGEST_DELTA:
        return None
    deletions: list[str] = []
    insertions: list[str] = []
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for verb, first, last, first_new, last_new in matcher.get_opcodes():
        if verb != "equal":
            deletions += [f"-D {chain} {start + n + 1}" for n in range(first, last)]
            insertions += [
                f"-I {chain} {start + n + 1}" + after[n].removeprefix(f"-A {chain}")
                for n in range(first_new, last_new)
            ]
    return deletions[::-1] + insertions


def sets_text(sets: Iterable[AddressSet]) -> str:
    """Address sets in the language of `ipset restore`."""
    lines: list[str] = []
    for address_set in sorted(sets, key=lambda s: s.name):
        family = "inet" if address_set.family is Family.V4 else "inet6"
        members = sorted(address_set.members)
        lines.append(
            f"create {address_set.name} {address_set.type} family {family} maxelem {LARGEST_SET}"
        )
        lines += [f"add {address_set.name} {member}" for member in members]
    return "".join(f"{line}\n" for line in lines)


def line(rule: Rule) -> str:
    """One rule as iptables-restore reads it."""
    words = ["-A", rule.chain]
    words += _addresses(rule)
    if rule.protocol is not None:
        words += ["-p", "ipv6-icmp" if rule.protocol is Protocol.ICMPV6 else rule.protocol]
    words += _transport(rule)
    if rule.source_mac:
        words += ["-m", "mac", "--mac-source", rule.source_mac]
    if rule.user:
        words += ["-m", "owner", "--uid-owner", rule.user]
    words += _tracking(rule)
    for match in rule.sets:
        words += ["-m", "set", *(["!"] if match.negate else [])]
        words += ["--match-set", match.name, match.directions]
    if rule.policy is not None:
        direction, policy = rule.policy.value
        words += ["-m", "policy", "--dir", direction, "--pol", policy]
    if rule.comment:
        words += ["-m", "comment", "--comment", f'"{rule.comment}"']
    words += _target(rule.target, rule.family)
    return " ".join(words)


def _addresses(rule: Rule) -> Iterable[str]:
    if rule.source is not None:
        yield from ("-s", str(rule.source))
    if rule.destination is not None:
        yield from ("-d", str(rule.destination))
    if rule.in_nic:
        yield from ("-i", rule.in_nic)
    if rule.out_nic:
        yield from ("-o", rule.out_nic)


def _transport(rule: Rule) -> Iterable[str]:
    if rule.ports is not None or rule.syn:
        assert rule.protocol is not None, rule  # noqa: S101 - a service's mistake, not an input's
        yield from ("-m", str(rule.protocol))
    if rule.syn:
        yield from ("--tcp-flags", "SYN,RST", "SYN")
    if rule.ports is not None:
        first, last = rule.ports.first, rule.ports.last
        yield from ("--dport", f"{first}" if first == last else f"{first}:{last}")
    if rule.icmp_type is not None:
        six = rule.protocol is Protocol.ICMPV6
        code = "" if rule.icmp_code is None else f"/{rule.icmp_code}"
        yield from ("-m", "icmp6" if six else "icmp")
        yield from ("--icmpv6-type" if six else "--icmp-type", f"{rule.icmp_type}{code}")


def _tracking(rule: Rule) -> Iterable[str]:
    if not (rule.states or rule.original_destination or rule.original_ports):
        return
    yield from ("-m", "conntrack")
    if rule.states:
        yield from ("--ctstate", ",".join(rule.states))
    if rule.original_destination is not None:
        yield from ("--ctorigdst", str(rule.original_destination))
    if rule.original_ports is not None:
        first, last = rule.original_ports.first, rule.original_ports.last
        yield from ("--ctorigdstport", f"{first}" if first == last else f"{first}:{last}")


def _target(target: Target, family: Family) -> Iterable[str]:
    match target:
        case Verdict(name):
            return ("-j", name)
        case Jump(chain):
            return ("-j", chain)
        case Reject(how):
            return ("-j", "REJECT", *(("--reject-with", how) if how else ()))
        case Snat(address):
            return ("-j", "SNAT", "--to-source", str(address))
        case Dnat(address, None):
            return ("-j", "DNAT", "--to-destination", str(address))
        case Dnat(address, ports, base):
            host = f"[{address}]" if family is Family.V6 else str(address)
            shift = "" if base is None else f"/{base}"
            return ("-j", "DNAT", "--to-destination", f"{host}:{ports}{shift}")
        case ClampMss(None):
            return ("-j", "TCPMSS", "--clamp-mss-to-pmtu")
        case ClampMss(size):
            return ("-j", "TCPMSS", "--set-mss", str(size))
        case NoTrack():
            return ("-j", "CT", "--notrack")
