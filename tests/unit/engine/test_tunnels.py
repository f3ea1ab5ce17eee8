"""IPsec connections in a transaction: those that did not change stay."""

import json

from agent.engine.model import Committed, RolledBack
from agent.engine.plan import describe
from tests.unit.engine.documents import router, with_tunnels
from tests.unit.engine.machine import Machine, same
from tests.unit.engine.memory import CHARON


def test_tunnel_that_comes_leaves_the_others_alone(machine: Machine) -> None:
    machine.engine.push(with_tunnels(1, a="secret of a"))
    machine.host.log.clear()
    machine.engine.push(with_tunnels(2, a="secret of a", b="secret of b"))
    assert set(machine.host.connections) == {"a", "b"}
    assert machine.host.log.count("LoadConnection") == 1
    assert not {"StartUnit", "ReloadUnit", "RestartUnit"} & set(machine.host.log)


def test_push_of_something_else_asks_nothing_of_tunnels(machine: Machine) -> None:
    machine.engine.push(with_tunnels(1, a="secret of a"))
    machine.host.log.clear()
    value = json.loads(with_tunnels(2, a="secret of a"))
    value["nat"] = {"source_address": "203.0.113.11"}
    assert isinstance(machine.engine.push(json.dumps(value).encode()), Committed)
    assert not {"LoadConnection", "UnloadConnection", "StartUnit"} & set(machine.host.log)


def test_connection_that_is_refused_rolls_the_push_back(machine: Machine) -> None:
    machine.engine.push(router(1))
    old = machine.host.snapshot()
    machine.host.failing_steps = {"LoadConnection"}
    outcome = machine.engine.push(with_tunnels(2, a="secret of a"))
    assert isinstance(outcome, RolledBack)
    assert same(machine.host.snapshot(), old)
    assert machine.host.connections == {}


def test_daemon_of_tunnels_that_was_down_does_not_hold_up_the_rest(machine: Machine) -> None:
    machine.engine.push(with_tunnels(1, a="secret of a"))
    machine.host.units[CHARON] = "failed"
    machine.host.connections.clear()
    machine.host.failing_units = {CHARON}
    value = json.loads(with_tunnels(2, a="secret of a"))
    value["nat"] = {"source_address": "203.0.113.11"}
    outcome = machine.engine.push(json.dumps(value).encode())
    assert isinstance(outcome, Committed)
    assert any(CHARON in warning for warning in outcome.warnings)


def test_unloaded_and_stray_connections_are_drift_and_mended(machine: Machine) -> None:
    document = with_tunnels(1, a="secret of a")
    machine.engine.push(document)
    wanted = dict(machine.host.connections)
    machine.host.connections = {"stray": ""}
    assert describe(machine.engine.drift()) == ("- connection stray", "+ connection a")
    machine.engine.push(document)
    assert machine.host.connections == wanted
    assert not machine.engine.drift()


def test_plan_of_a_changed_secret_does_not_tell_it(machine: Machine) -> None:
    machine.engine.push(with_tunnels(1, a="first secret"))
    plan = machine.engine.plan(with_tunnels(2, a="second secret"))
    assert "~ connection a" in describe(plan)
    assert "second secret" not in str(describe(plan))
    assert "second secret" not in repr(plan)
