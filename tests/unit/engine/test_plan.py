"""The plan: empty for a machine that is as it should be, and in an order that never opens early."""

import json
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.document.document import merge
from agent.engine.model import (
    AddAddress,
    Committed,
    Family,
    Flip,
    FlowMatch,
    ForgetFlows,
    ForgetLeases,
    Lease,
    Plan,
    Protocol,
    PutTable,
    ReloadUnit,
    RemoveAddress,
    RestartUnit,
    SetLink,
    SetSysctl,
    StartUnit,
    StopUnit,
    Table,
    Unchanged,
)
from agent.engine.plan import describe
from tests.unit.engine.documents import router, with_forward, with_services
from tests.unit.engine.machine import Machine
from tests.unit.engine.memory import PUBLIC


def plan_of(folder: Path, before: bytes, after: bytes) -> Plan:
    machine = Machine(folder)
    machine.engine.push(before)
    return machine.engine.plan(after)


def kinds(plan: Plan) -> list[type]:
    return list(dict.fromkeys(type(step) for step in plan.steps))


def test_guard_stands_before_anything_is_opened(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    order = kinds(machine.engine.plan(with_services(1)))
    for later in (SetLink, AddAddress, Flip, StartUnit):
        if later in order:
            assert order.index(PutTable) < order.index(later)


def test_filter_stands_before_nat_leads_anything_in(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, router(1), with_forward(2))
    tables = [step.table for step in plan.steps if isinstance(step, PutTable)]
    assert tables == [Table.FILTER, Table.NAT]


def test_forwarding_is_turned_first_and_what_it_touches_is_set_again(tmp_path: Path) -> None:
    """The kernel sets accept_redirects of its own accord when forwarding is turned on or off."""
    whole = json.loads(router(2))
    host = {name: whole[name] for name in ("schema", "generation", "site")}
    host["role"] = "console-proxy"
    plan = plan_of(tmp_path, router(1), json.dumps(host).encode())
    set_ = [step.sysctl.key for step in plan.steps if isinstance(step, SetSysctl)]
    assert set_[0] == "net.ipv4.ip_forward"
    assert "net.ipv4.conf.all.accept_redirects" in set_
    same = plan_of(tmp_path / "same", router(1), with_forward(2))
    assert not any(isinstance(step, SetSysctl) for step in same.steps)


def test_dns_change_leaves_haproxy_alone(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, with_services(1), with_services(2, name="renamed"))
    units = [s.unit.name for s in plan.steps if isinstance(s, ReloadUnit | RestartUnit | StartUnit)]
    assert units == ["dnsmasq.service"]
    assert not any(isinstance(step, PutTable) for step in plan.steps)


def test_host_more_is_a_reload_and_not_a_restart(tmp_path: Path) -> None:
    after = json.loads(with_services(2))
    after["dhcp_dns"]["hosts"]["02:00:00:00:01:02"] = {"address": "10.1.1.11", "name": "vm2"}
    plan = plan_of(tmp_path, with_services(1), json.dumps(after).encode())
    assert ReloadUnit in kinds(plan)
    assert RestartUnit not in kinds(plan)


def test_only_new_listeners_are_tried_before_a_reload(tmp_path: Path) -> None:
    after = json.loads(with_services(2))
    listeners = after["load_balancer"]["listeners"]
    listeners["more"] = {"address": "203.0.113.11", "port": 81}
    plan = plan_of(tmp_path, with_services(1), json.dumps(after).encode())
    tried = [bind for s in plan.steps if isinstance(s, ReloadUnit) for bind in s.new]
    assert [(bind.port, bind.path) for bind in tried] == [(81, "/load_balancer/listeners/more")]


def test_service_that_goes_is_stopped(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, with_services(1), router(2))
    stopped = {step.name for step in plan.steps if isinstance(step, StopUnit)}
    assert {"dnsmasq.service", "haproxy.service"} <= stopped


def test_address_that_goes_goes_last(tmp_path: Path) -> None:
    after = json.loads(router(2))
    del after["site"]["nics"][PUBLIC]["addresses"]["203.0.113.11/24"]
    order = kinds(plan_of(tmp_path, router(1), json.dumps(after).encode()))
    assert order[-1] is RemoveAddress


def test_flows_of_a_removed_forward_are_forgotten_and_no_others(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, with_forward(1, port=80), router(2))
    forgotten = {m for s in plan.steps if isinstance(s, ForgetFlows) for m in s.matches}
    assert forgotten == {
        FlowMatch(
            Family.V4,
            Protocol.TCP,
            destination=ip_network("203.0.113.10/32"),
            ports=next(iter(forgotten)).ports,
        )
    }
    assert str(next(iter(forgotten)).ports) == "80"


def test_flows_are_left_alone_when_a_rule_comes(tmp_path: Path) -> None:
    after = json.loads(router(2))
    after["firewall"]["ingress"] = {"203.0.113.10": {"a": {"protocol": "tcp", "ports": 22}}}
    plan = plan_of(tmp_path, router(1), json.dumps(after).encode())
    assert ForgetFlows not in kinds(plan)


def test_lease_of_a_host_that_goes_is_forgotten(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, with_services(1), router(2))
    leases = [lease for s in plan.steps if isinstance(s, ForgetLeases) for lease in s.leases]
    assert leases == [Lease("02:00:00:00:01:01", ip_address("10.1.1.10"))]


def test_plan_reads_as_a_diff(tmp_path: Path) -> None:
    lines = describe(plan_of(tmp_path, router(1), with_forward(2)))
    assert [line for line in lines if "DNAT" in line and "10.1.1.10" in line][0].startswith("+")  # noqa: RUF015
    assert all(line[0] in "+-~" for line in lines)


def test_drift_names_what_somebody_changed(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.engine.push(with_forward(1))
    key = (Family.V4, Table.FILTER)
    machine.host.tables[key] = machine.host.tables[key].replace(
        "COMMIT", "-A INPUT -p tcp --dport 23 -j ACCEPT\nCOMMIT"
    )
    machine.host.addresses = {
        replace(a, interface=ip_interface("203.0.113.99/24"))
        if str(a.interface.ip) == "203.0.113.11"
        else a
        for a in machine.host.addresses
    }
    lines = describe(machine.engine.drift())
    assert "- ipv4 filter: -A INPUT -p tcp --dport 23 -j ACCEPT" in lines
    assert "+ address 203.0.113.11/24 on eth2" in lines
    assert "- address 203.0.113.99/24 on eth2" in lines


# -- properties --------------------------------------------------------------------------------

PORTS = st.integers(1, 65535)


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    """A merge patch that makes one valid router of another."""
    forwards = draw(st.dictionaries(st.sampled_from("abcd"), PORTS, max_size=4))
    taken: set[int] = set()
    unique = {k: p for k, p in forwards.items() if not (p in taken or taken.add(p))}  # type: ignore[func-returns-value]
    names = draw(st.lists(st.sampled_from(["vm1", "vm2", "vm3"]), unique=True))
    return {
        "nat": {
            "forwards": {
                key: {
                    "address": "203.0.113.10",
                    "protocol": "tcp",
                    "ports": port,
                    "to": "10.1.1.10",
                }
                for key, port in unique.items()
            }
        },
        "firewall": {
            "ingress": {
                "203.0.113.10": {
                    key: {"protocol": "tcp", "ports": port} for key, port in unique.items()
                }
            },
            "egress": {"policy": draw(st.sampled_from(["allow", "deny"]))},
        },
        "dhcp_dns": {
            "hosts": {
                f"02:00:00:00:01:0{n}": {"address": f"10.1.1.1{n}", "name": name}
                for n, name in enumerate(names)
            }
        },
    }


def documented(change: dict[str, Any], generation: int) -> bytes:
    return json.dumps(merge(json.loads(router(generation)), change)).encode()


relaxed = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@relaxed
@given(change=changes())
def test_applying_twice_is_applying_once(
    tmp_path_factory: pytest.TempPathFactory, change: dict[str, Any]
) -> None:
    machine = Machine(tmp_path_factory.mktemp("twice"))
    assert isinstance(machine.engine.push(documented(change, 1)), Committed)
    assert isinstance(machine.engine.push(documented(change, 1)), Unchanged)
    assert not machine.engine.drift()


@relaxed
@given(first=changes(), second=changes())
def test_way_to_a_document_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, first: dict[str, Any], second: dict[str, Any]
) -> None:
    through = Machine(tmp_path_factory.mktemp("through"))
    through.engine.push(documented(first, 1))
    through.engine.push(documented(second, 2))
    direct = Machine(tmp_path_factory.mktemp("direct"))
    direct.engine.push(documented(second, 2))
    one, other = through.host.snapshot(), direct.host.snapshot()
    assert {u for u, s in one.units.items() if s.running} == {
        u for u, s in other.units.items() if s.running
    }
    assert replace(one, units={}) == replace(other, units={})
