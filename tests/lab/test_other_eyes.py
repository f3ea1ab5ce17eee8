"""Our rules, read by others: python-iptables on the legacy back end, nft on the other one."""

import ctypes
import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from typing import Any, TypeVar

import pytest

from agent.document.document import parse_value
from agent.engine import firewall
from agent.engine.compose import Composer
from agent.engine.model import Desired, Dnat, Family, Jump, Link, Rule, Snat, Table, Verdict
from agent.system.run import run
from appliance.lab import Lab
from tests.lab.helpers import CONTROL_MAC, PUBLIC_MAC, ROUTER_MAC, Router, example

T = TypeVar("T")
NICS = (("eth0", ROUTER_MAC), ("eth1", CONTROL_MAC), ("eth2", PUBLIC_MAC))


@pytest.fixture(scope="module")
def desired() -> Desired:
    """Everything that the example wants."""
    links = [Link(name, mac, 1500, up=True) for name, mac in NICS]
    return Composer().compose(parse_value(example()), links, None)


def of(desired: Desired, family: Family, table: Table) -> list[Rule]:
    return [rule for rule in desired.rules if (rule.family, rule.table) == (family, table)]


def target(rule: Rule) -> str:
    """The name of a rule's target, as iptables has it."""
    match rule.target:
        case Verdict(name):
            return name
        case Jump(chain):
            return chain
        case Dnat():
            return "DNAT"
        case Snat():
            return "SNAT"
        case _:
            return "TCPMSS"


# -- legacy ------------------------------------------------------------------------------------


def elsewhere(job: Callable[[], T]) -> T:
    """Run this in a thread with a network name space of its own, which ends with it."""

    def unshared() -> T:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(0x40000000) != 0:  # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), "unshare")
        return job()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(unshared).result()


def read_back(desired: Desired, table: Table) -> dict[str, list[dict[str, Any]]]:
    """Load our text with the legacy program; what python-iptables finds then, by chain."""

    def job() -> dict[str, list[dict[str, Any]]]:
        import iptc

        sets = firewall.sets_text(desired.sets.values()).encode()
        run(["ipset", "restore"], timeout=10, stdin=sets)
        texts = firewall.tables(desired.chains, desired.rules)
        text = texts[Family.V4, table].encode()
        run(["iptables-legacy-restore"], timeout=10, stdin=text)
        found: dict[str, list[dict[str, Any]]] = {}
        kernel = iptc.Table(str(table))
        kernel.refresh()
        for chain in kernel.chains:
            found[chain.name] = [iptc.easy.decode_iptc_rule(rule) for rule in chain.rules]
        return found

    return elsewhere(job)


def comment(row: dict[str, Any]) -> str:
    return str(row.get("comment", {}).get("comment", ""))


@pytest.mark.parametrize("table", list(Table))
def test_python_iptables_reads_what_was_meant(desired: Desired, table: Table) -> None:
    found = read_back(desired, table)
    wanted = of(desired, Family.V4, table)
    assert sum(map(len, found.values())) == len(wanted)
    own = {chain.name for chain in desired.chains
           if (chain.family, chain.table) == (Family.V4, table)}  # fmt: skip
    assert own <= set(found)
    for name, rows in found.items():
        rules = [rule for rule in wanted if rule.chain == name]
        assert [comment(row) for row in rows] == [rule.comment for rule in rules]
        for row, rule in zip(rows, rules, strict=True):
            _compare(row, rule)


def _compare(row: dict[str, Any], rule: Rule) -> None:
    """One rule in python-iptables' words and in ours."""
    said = row["target"]
    name = said if isinstance(said, str) else next(iter(said))
    assert name == target(rule), rule
    assert row.get("in-interface") == rule.in_nic
    assert row.get("out-interface") == rule.out_nic
    for side, network in (("src", rule.source), ("dst", rule.destination)):
        assert (IPv4Network(row[side]) if side in row else None) == network, rule
    assert row.get("protocol") == (rule.protocol and str(rule.protocol))
    if rule.ports is not None:
        first, last = rule.ports.first, rule.ports.last
        ports = str(first) if first == last else f"{first}:{last}"
        assert row[str(rule.protocol)]["dport"] == ports
    if rule.states:
        assert set(row["conntrack"]["ctstate"].split(",")) == set(rule.states)
    if rule.original_destination is not None:
        assert row["conntrack"]["ctorigdst"].partition("/")[0] == str(rule.original_destination)
    if rule.source_mac is not None:
        assert row["mac"]["mac-source"].lower() == rule.source_mac
    match rule.target:
        case Dnat(address, there, _):
            words = str(said["DNAT"]["to-destination"])
            assert words.partition(":")[0] == str(address)
            assert there is None or str(there) in words
        case Snat(address):
            assert said["SNAT"]["to-source"] == str(address)
        case _:
            pass


def test_nothing_of_that_reaches_the_hosts_own_tables() -> None:
    assert "203.0.113.10" not in run(["iptables-legacy-save"], timeout=10, check=False).text


# -- nft ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ruleset(lab: Lab) -> list[dict[str, Any]]:
    """What nft says that the running VM's kernel holds."""
    router = Router(lab)
    router.push(example())
    listed: list[dict[str, Any]] = json.loads(
        lab.vm.run(["nft", "--json", "list", "ruleset"]).stdout
    )["nftables"]
    return [entry["rule"] for entry in listed if "rule" in entry]


def nft_comment(rule: dict[str, Any]) -> str:
    """A rule's comment: nft shows that of iptables' own match as one, or as an opaque match."""
    return str(rule.get("comment", ""))


def test_nft_finds_every_rule_in_its_place(
    lab: Lab, desired: Desired, ruleset: list[dict[str, Any]]
) -> None:
    families = {"ip": Family.V4, "ip6": Family.V6}
    there = Counter(
        (families[rule["family"]], rule["table"], rule["chain"])
        for rule in ruleset
        if rule["family"] in families
    )
    wanted = Counter((rule.family, str(rule.table), rule.chain) for rule in desired.rules)
    # The VM was told at boot where its control endpoint is, which the example does not say.
    wanted[Family.V4, "filter", "services"] += 1
    assert there == wanted


def verdict(rule: dict[str, Any]) -> str:
    """What a rule does in the end."""
    for expression in rule["expr"]:
        for key, value in expression.items():
            if key in {"accept", "drop", "return"}:
                return str(key).upper()
            if key in {"jump", "goto"}:
                return str(value["target"])
            if key in {"snat", "dnat"}:
                return str(key).upper()
            if key == "xt" and value.get("type") == "target":
                return str(value["name"])
    return ""


@pytest.mark.parametrize("family", list(Family))
def test_nft_sees_the_same_verdicts_in_the_same_order(
    lab: Lab, desired: Desired, ruleset: list[dict[str, Any]], family: Family
) -> None:
    word = "ip" if family is Family.V4 else "ip6"
    for table, chain in sorted(
        {(str(r.table), r.chain) for r in desired.rules if r.family is family}
    ):
        if chain == "services":
            continue  # with the control endpoint's opening
        rules = [
            r for r in desired.rules if (r.family, str(r.table), r.chain) == (family, table, chain)
        ]
        rows = [r for r in ruleset if (r["family"], r["table"], r["chain"]) == (word, table, chain)]
        assert [verdict(row) for row in rows] == [target(rule) for rule in rules], (table, chain)
        told = [nft_comment(row) for row in rows]
        if any(told):
            assert told == [rule.comment for rule in rules]


def test_policies_are_closed(lab: Lab, ruleset: list[dict[str, Any]]) -> None:
    listed = json.loads(lab.vm.run(["nft", "--json", "list", "chains"]).stdout)["nftables"]
    chains = {
        (c["chain"]["family"], c["chain"]["table"], c["chain"]["name"]): c["chain"].get("policy")
        for c in listed
        if "chain" in c
    }
    for family in ("ip", "ip6"):
        for name in ("INPUT", "FORWARD"):
            assert chains[family, "filter", name] == "drop"
