"""What a transaction tells: an event for each way that it ends."""

from agent.engine.model import Provisional
from agent.monitor.events import Kind
from tests.unit.engine.documents import router, with_forward, with_services
from tests.unit.engine.machine import Machine


def test_every_end_of_a_transaction_is_told(machine: Machine) -> None:
    machine.engine.push(router(1))
    machine.engine.push(router(1))  # changes nothing, and tells nothing
    assert machine.heard.kinds == [Kind.DOCUMENT_COMMITTED]
    assert machine.heard.events[0].data == {"revision": 2, "generation": 1, "cause": "push"}
    machine.heard.events.clear()

    outcome = machine.engine.push(with_forward(2), confirm_within=60)
    assert isinstance(outcome, Provisional)
    machine.engine.confirm(outcome.revision)
    machine.engine.roll_back()
    assert machine.heard.kinds == [
        Kind.DOCUMENT_PROVISIONAL,
        Kind.DOCUMENT_CONFIRMED,
        Kind.DOCUMENT_ROLLED_BACK,
    ]
    assert machine.heard.events[0].data["seconds"] == 60
    assert machine.heard.events[2].data["cause"] == "somebody asked for it"
    machine.heard.events.clear()

    outcome = machine.engine.push(with_forward(3), confirm_within=60)
    assert isinstance(outcome, Provisional)
    machine.engine.roll_back(outcome.revision, if_unconfirmed=True)
    assert machine.heard.kinds[1:] == [Kind.DOCUMENT_ROLLED_BACK]
    assert "not confirmed" in machine.heard.events[1].message
    machine.heard.events.clear()

    machine.host.failing_units = {"haproxy.service"}
    machine.engine.push(with_services(4))
    assert machine.heard.kinds == [Kind.DOCUMENT_ROLLED_BACK]
    assert "haproxy.service" in str(machine.heard.events[0].data["cause"])


def test_degraded_and_what_ends_it_are_told(machine: Machine) -> None:
    machine.engine.push(with_services(1))
    machine.host.units["haproxy.service"] = "failed"
    machine.host.failing_units = {"haproxy.service"}
    machine.host.failing_probes = {"dnsmasq.service"}
    machine.engine.push(with_services(2, name="renamed"))
    machine.host.failing_probes = set()
    machine.engine.push(with_services(3, name="renamed"))
    assert machine.heard.kinds[1:] == [Kind.DOCUMENT_DEGRADED, Kind.DOCUMENT_COMMITTED]


def test_reboot_before_the_confirm_is_told(machine: Machine) -> None:
    machine.engine.push(router(1))
    machine.engine.push(with_forward(2), confirm_within=60)
    machine.heard.events.clear()
    machine.reboot()
    assert machine.heard.kinds == [Kind.DOCUMENT_ROLLED_BACK]
    assert "before revision 3 was confirmed" in machine.heard.events[0].message
    machine.reboot()
    assert len(machine.heard.events) == 1


def test_unreadable_state_is_told(machine: Machine) -> None:
    machine.engine.push(with_forward(1))
    machine.heard.events.clear()
    (machine.folder / "state.json").write_bytes(b"{")
    machine.reboot()
    assert machine.heard.kinds == [Kind.STATE_UNREADABLE]
    assert machine.heard.events[0].data["revision"] == 2
