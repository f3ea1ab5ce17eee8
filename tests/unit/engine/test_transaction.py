"""The transaction on a machine in memory: the old revision or the new one, never a mixture."""

import json
from dataclasses import replace

import pytest

from agent.document.document import InvalidDocument
from agent.engine.errors import (
    AwaitingConfirm,
    GenerationConflict,
    NoSuchRevision,
    NotProvisional,
    PreconditionFailed,
    StaleGeneration,
)
from agent.engine.host import HostFull
from agent.engine.model import Committed, Degraded, Provisional, Refused, RolledBack, Unchanged
from agent.monitor.events import Kind
from tests.unit.engine.documents import router, with_forward, with_services
from tests.unit.engine.machine import Machine, same


def test_first_boot_brings_up_the_control_nic_alone(machine: Machine) -> None:
    assert {str(a.interface) for a in machine.host.addresses} == {"169.254.10.2/16"}
    assert machine.engine.state().current == 1


def test_push_is_committed(machine: Machine) -> None:
    outcome = machine.engine.push(router(1))
    assert isinstance(outcome, Committed)
    assert outcome.revision == 2
    assert "203.0.113.10/24" in {str(a.interface) for a in machine.host.addresses}
    assert not machine.engine.drift()


def test_same_document_again_is_unchanged_and_touches_nothing(machine: Machine) -> None:
    machine.engine.push(with_services(1))
    machine.host.log.clear()
    assert isinstance(machine.engine.push(with_services(1)), Unchanged)
    assert machine.host.log == []


def test_unchanged_repairs_what_somebody_changed_by_hand(machine: Machine) -> None:
    machine.engine.push(router(1))
    before = machine.host.snapshot()
    machine.host.routes.clear()
    assert machine.engine.drift()
    assert isinstance(machine.engine.push(router(1)), Committed)
    assert machine.host.snapshot() == before


def test_files_that_a_hand_changed_are_put_back_and_nothing_else(machine: Machine) -> None:
    machine.engine.push(with_services(1))
    before, number = machine.host.snapshot(), machine.engine.current().info.number
    files = machine.host.staged[number]
    machine.host.staged[number] = dict.fromkeys(files, "0" * 64)
    assert machine.engine.drift()
    machine.host.log.clear()
    machine.engine.put_files_back()
    assert machine.host.snapshot() == before
    assert machine.host.log == []  # no daemon is told
    assert not machine.engine.drift()


def test_a_daemon_is_told_to_read_its_files_which_are_put_back(machine: Machine) -> None:
    machine.engine.push(with_services(1))
    before, number = machine.host.snapshot(), machine.engine.current().info.number
    files = machine.host.staged[number]
    machine.host.staged[number] = dict.fromkeys(files, "0" * 64)
    unit = next(iter(machine.engine.desired().units))
    machine.host.log.clear()
    machine.engine.read_files(unit)
    assert machine.host.snapshot() == before
    assert machine.host.log == ["ReloadUnit"]
    machine.engine.read_files("nobody.service")
    assert machine.host.log == ["ReloadUnit"]


def test_push_of_an_older_generation_is_refused(machine: Machine) -> None:
    machine.engine.push(router(7))
    with pytest.raises(StaleGeneration):
        machine.engine.push(router(6))
    assert machine.engine.current().info.generation == 7


def test_same_generation_with_other_content_is_refused(machine: Machine) -> None:
    machine.engine.push(router(7))
    with pytest.raises(GenerationConflict):
        machine.engine.push(with_forward(7))


def test_if_match_guards_against_another_writer(machine: Machine) -> None:
    machine.engine.push(router(1))
    digest = machine.engine.current().document.digest
    with pytest.raises(PreconditionFailed):
        machine.engine.push(with_forward(2), if_match="0" * 64)
    assert isinstance(machine.engine.push(with_forward(2), if_match=digest), Committed)


def test_patch_changes_one_entry_and_keeps_the_generation(machine: Machine) -> None:
    machine.engine.push(with_forward(1))
    change = json.dumps({"nat": {"forwards": {"web": {"ports": 81}}}}).encode()
    outcome = machine.engine.patch(change, if_match=machine.engine.current().document.digest)
    assert isinstance(outcome, Committed)
    document = machine.engine.current().document
    assert document.value["nat"]["forwards"]["web"]["ports"] == 81
    assert document.generation == 1


def test_what_was_rolled_back_to_can_be_patched(machine: Machine) -> None:
    machine.engine.push(with_forward(1))
    machine.engine.push(router(2))
    machine.engine.roll_back()
    change = json.dumps({"nat": {"forwards": {"web": {"ports": 81}}}}).encode()
    assert isinstance(machine.engine.patch(change), Committed)
    with pytest.raises(StaleGeneration):
        machine.engine.patch(json.dumps({"generation": 0}).encode())


def test_pushed_document_is_applied_again_after_a_patch(machine: Machine) -> None:
    machine.engine.push(with_forward(1))
    machine.engine.patch(json.dumps({"nat": {"forwards": {"web": None}}}).encode())
    assert isinstance(machine.engine.push(with_forward(1)), Committed)
    assert "web" in machine.engine.current().document.value["nat"]["forwards"]


def test_invalid_document_names_every_problem_and_touches_nothing(machine: Machine) -> None:
    machine.engine.push(router(1))
    before = machine.host.snapshot()
    bad = json.loads(router(2))
    bad["site"]["hostname"] = "vm\nserver=6.6.6.6"
    bad["nat"]["source_address"] = 5
    bad["surprise"] = True
    with pytest.raises(InvalidDocument) as caught:
        machine.engine.push(json.dumps(bad).encode())
    assert [p.path for p in caught.value.problems] == [
        "/nat/source_address",
        "/site/hostname",
        "/surprise",
    ]
    assert machine.host.snapshot() == before


def test_what_is_wrong_between_sections_is_said_with_what_is_wrong_within(
    machine: Machine,
) -> None:
    bad = json.loads(with_forward(1))
    bad["nat"]["forwards"]["web"]["to"] = "192.0.2.1"
    bad["firewall"]["ingress"]["203.0.113.10"]["web"]["ports"] = 0
    with pytest.raises(InvalidDocument) as caught:
        machine.engine.push(json.dumps(bad).encode())
    assert [p.path for p in caught.value.problems] == [
        "/firewall/ingress/203.0.113.10/web/ports",
        "/nat/forwards/web/to",
    ]


def test_references_that_lead_nowhere_are_all_reported(machine: Machine) -> None:
    bad = json.loads(with_forward(1))
    bad["nat"]["forwards"]["web"]["to"] = "192.0.2.1"
    bad["nat"]["source_address"] = "198.51.100.1"
    with pytest.raises(InvalidDocument) as caught:
        machine.engine.push(json.dumps(bad).encode())
    assert [p.path for p in caught.value.problems] == [
        "/nat/forwards/web/to",
        "/nat/source_address",
    ]


def test_blob_that_was_not_uploaded_is_a_problem_where_it_is_named(machine: Machine) -> None:
    document = json.loads(router(1))
    document["user_data"] = {
        "guests": {"10.1.1.10": {"mac": "02:00:00:00:01:01", "user_data": "a" * 64}}
    }
    with pytest.raises(InvalidDocument) as caught:
        machine.engine.push(json.dumps(document).encode())
    assert [p.path for p in caught.value.problems] == ["/user_data/guests/10.1.1.10/user_data"]
    machine.host.blobs = {"a" * 64, "b" * 64}
    assert isinstance(machine.engine.push(json.dumps(document).encode()), Committed)
    machine.engine.tidy()
    assert machine.host.blobs == {"a" * 64}


def test_what_a_checker_refuses_touches_nothing(machine: Machine) -> None:
    machine.engine.push(router(1))
    before = machine.host.snapshot()
    machine.host.refusing = "line 3: no"
    outcome = machine.engine.push(with_services(2))
    assert isinstance(outcome, Refused)
    assert outcome.problems[0].path == "/somewhere"
    assert machine.host.snapshot() == before
    machine.host.refusing = ""
    assert isinstance(machine.engine.push(with_services(2)), Committed)


def test_step_that_fails_is_rolled_back(machine: Machine) -> None:
    machine.engine.push(router(1))
    before = machine.host.snapshot()
    machine.host.failing_units = {"haproxy.service"}
    outcome = machine.engine.push(with_services(2))
    assert isinstance(outcome, RolledBack)
    assert "haproxy.service" in outcome.cause
    assert machine.engine.current().info.generation == 1
    machine.host.failing_units = set()
    machine.host.units = {k: v for k, v in machine.host.units.items() if v == "active"}
    assert machine.host.snapshot() == replace(before, units=machine.host.snapshot().units)


def test_daemon_that_does_not_answer_is_rolled_back(machine: Machine) -> None:
    machine.engine.push(router(1))
    machine.host.failing_probes = {"dnsmasq.service"}
    outcome = machine.engine.push(with_services(2))
    assert isinstance(outcome, RolledBack)
    assert machine.engine.current().info.generation == 1
    machine.host.failing_probes = set()
    assert isinstance(machine.engine.push(with_services(2)), Committed)


def test_service_broken_before_does_not_block_a_push_that_leaves_it_alone(
    machine: Machine,
) -> None:
    machine.engine.push(with_services(1))
    machine.host.units["haproxy.service"] = "failed"
    machine.host.failing_units = {"haproxy.service"}
    machine.host.failing_probes = {"haproxy.service"}
    outcome = machine.engine.push(with_services(2, name="renamed"))
    assert isinstance(outcome, Committed)
    assert "haproxy.service" in outcome.warnings[0]


def test_rollback_that_fails_too_is_degraded_and_closed(machine: Machine) -> None:
    machine.engine.push(with_forward(1))
    machine.host.failing_steps = {"AddRoute", "RemoveRoute"}
    value = json.loads(with_forward(2))
    value["site"]["routes"] = {"192.168.50.0/24": {"via": "10.1.1.254"}}
    machine.host.routes.clear()
    outcome = machine.engine.push(json.dumps(value).encode())
    assert isinstance(outcome, Degraded)
    assert machine.engine.state().degraded
    assert not any("10.1.1.10" in text for text in machine.host.tables.values())
    machine.host.failing_steps = set()
    assert isinstance(machine.engine.push(with_forward(3)), Committed)
    assert not machine.engine.state().degraded


def test_daemon_that_cannot_be_put_back_does_not_close_the_rest(machine: Machine) -> None:
    before = json.loads(with_forward(1))
    before["load_balancer"] = json.loads(with_services(1))["load_balancer"]
    machine.engine.push(json.dumps(before).encode())
    after = {**before, "generation": 2}
    after["load_balancer"]["listeners"]["web"]["port"] = 81
    machine.host.failing_units = {"haproxy.service"}
    machine.host.failing_steps = {"ReloadUnit"}
    outcome = machine.engine.push(json.dumps(after).encode())
    assert isinstance(outcome, Degraded)
    assert "haproxy.service" in machine.engine.state().degraded
    assert any("10.1.1.10" in text for text in machine.host.tables.values())


def test_next_good_push_ends_what_was_degraded(machine: Machine) -> None:
    machine.engine.push(with_services(1))
    machine.host.units["haproxy.service"] = "failed"
    machine.host.failing_units = {"haproxy.service"}
    machine.host.failing_probes = {"dnsmasq.service"}
    outcome = machine.engine.push(with_services(2, name="renamed"))
    assert isinstance(outcome, Degraded)
    machine.host.failing_probes = set()
    assert isinstance(machine.engine.push(with_services(3, name="renamed")), Committed)
    assert not machine.engine.state().degraded


def test_full_disk_is_said_before_anything_is_touched(machine: Machine) -> None:
    machine.engine.push(router(1))
    before = machine.host.snapshot()
    machine.disk.full = True
    with pytest.raises(HostFull):
        machine.engine.push(with_forward(2))
    assert machine.host.snapshot() == before
    machine.disk.full = False
    assert isinstance(machine.engine.push(with_forward(2)), Committed)


def test_reboot_with_a_full_disk_brings_everything_back(machine: Machine) -> None:
    machine.engine.push(with_services(1))
    before = machine.host.snapshot()
    state = machine.engine.state()
    machine.disk.full = True
    machine.reboot()
    assert same(machine.host.snapshot(), before)
    assert machine.engine.state() == state
    with pytest.raises(HostFull):
        machine.engine.push(with_forward(2))
    assert same(machine.host.snapshot(), before)
    machine.disk.full = False
    assert isinstance(machine.engine.push(with_forward(2)), Committed)


def test_what_a_full_disk_cannot_keep_of_a_boot_is_known_until_the_next(machine: Machine) -> None:
    """The power went while a revision was on trial: the one before runs, and nothing says else."""
    machine.engine.push(router(1))
    before = machine.host.snapshot()
    assert isinstance(machine.engine.push(with_forward(2), confirm_within=60), Provisional)
    machine.disk.full = True
    for _ in range(2):
        machine.reboot()
        assert same(machine.host.snapshot(), before)
        for engine in (machine.engine, machine.start()):  # another process, too
            state = engine.state()
            assert (state.current, state.confirmed, state.making) == (2, 2, None)
            assert engine.recover() is None
            assert engine.drift().steps == ()
    machine.disk.full = False
    assert isinstance(machine.engine.push(with_forward(3)), Committed)
    assert machine.start().state() == machine.engine.state()
    assert machine.engine.state().current == machine.engine.state().confirmed == 4
    assert not list(machine.memory.iterdir())


@pytest.mark.parametrize("last", range(1, 12))
def test_disk_that_fills_amid_a_change_leaves_one_of_both(machine: Machine, last: int) -> None:
    """And stays full, wherever that is: what runs is what the state says, and comes back so."""
    machine.engine.push(with_services(1))
    old = machine.host.snapshot()
    machine.disk.full_from = machine.disk.writes + last
    try:
        outcome = machine.engine.push(with_services(2, name="renamed"))
    except HostFull:
        outcome = None
    machine.disk.full_from = machine.disk.writes
    state, seen = machine.engine.state(), machine.host.snapshot()
    if isinstance(outcome, Committed):
        assert state.current == state.confirmed == 3
    else:
        assert (state.current, state.confirmed, state.degraded) == (2, 2, "")
        assert same(seen, old)
    assert machine.engine.drift().steps == ()
    machine.reboot()
    assert same(machine.host.snapshot(), seen)
    assert machine.engine.state().current == state.current
    assert not machine.engine.state().degraded


# -- commit-confirm ----------------------------------------------------------------------------


def test_unconfirmed_revision_goes_back(machine: Machine) -> None:
    machine.engine.push(router(1))
    before = machine.host.snapshot()
    outcome = machine.engine.push(with_forward(2), confirm_within=60)
    assert isinstance(outcome, Provisional)
    assert machine.host.armed == (outcome.revision, 60.0)
    assert isinstance(machine.engine.roll_back(outcome.revision, if_unconfirmed=True), Committed)
    assert machine.host.snapshot() == before
    assert not machine.host.is_armed()


def test_confirmed_revision_stays(machine: Machine) -> None:
    machine.engine.push(router(1))
    outcome = machine.engine.push(with_forward(2), confirm_within=60)
    assert isinstance(outcome, Provisional)
    machine.engine.confirm(outcome.revision)
    assert machine.host.armed is None
    before = machine.host.snapshot()
    assert isinstance(machine.engine.roll_back(outcome.revision, if_unconfirmed=True), Unchanged)
    assert machine.host.snapshot() == before
    with pytest.raises(NotProvisional):
        machine.engine.confirm(outcome.revision)


def test_unconfirmed_revision_goes_back_with_a_full_disk_as_well(machine: Machine) -> None:
    machine.engine.push(router(1))
    before = machine.host.snapshot()
    outcome = machine.engine.push(with_forward(2), confirm_within=60)
    assert isinstance(outcome, Provisional)
    machine.disk.full = machine.host.full = True
    on_trial = machine.host.snapshot()
    with pytest.raises(HostFull):  # nor is there room for files: nothing is touched
        machine.engine.roll_back(outcome.revision, if_unconfirmed=True)
    assert machine.host.snapshot() == on_trial
    machine.host.full = False
    back = machine.engine.roll_back(outcome.revision, if_unconfirmed=True)
    assert isinstance(back, RolledBack)
    assert (back.revision, machine.heard.kinds[-1]) == (2, Kind.DOCUMENT_ROLLED_BACK)
    assert same(machine.host.snapshot(), before)
    for engine in (machine.engine, machine.start()):
        state = engine.state()
        assert (state.current, state.confirmed, state.deadline) == (2, 2, None)
    with pytest.raises(HostFull):
        machine.engine.roll_back()


def test_nothing_else_is_pushed_while_a_revision_waits(machine: Machine) -> None:
    machine.engine.push(router(1))
    machine.engine.push(with_forward(2), confirm_within=60)
    with pytest.raises(AwaitingConfirm):
        machine.engine.push(router(3))


def test_reboot_before_the_confirm_restores_the_confirmed_revision(machine: Machine) -> None:
    machine.engine.push(router(1))
    before = machine.host.snapshot()
    machine.engine.push(with_forward(2), confirm_within=60)
    machine.reboot()
    assert machine.host.snapshot() == before


def test_agent_that_starts_again_arms_the_timer_again(machine: Machine) -> None:
    machine.engine.push(router(1))
    outcome = machine.engine.push(with_forward(2), confirm_within=60)
    assert isinstance(outcome, Provisional)
    machine.host.armed = None
    machine.clock.time += 50
    machine.start().recover()
    assert machine.host.armed == (outcome.revision, pytest.approx(10))


@pytest.mark.parametrize("step", [-3600.0, 3600.0, 10 * 365.25 * 86400])
def test_clock_that_is_set_meanwhile_moves_no_deadline(machine: Machine, step: float) -> None:
    machine.engine.push(router(1))
    outcome = machine.engine.push(with_forward(2), confirm_within=60)
    assert isinstance(outcome, Provisional)
    machine.host.armed = None
    machine.clock.ahead += step
    machine.start().recover()
    assert machine.host.armed == (outcome.revision, pytest.approx(60))


# -- rolling back ------------------------------------------------------------------------------


def test_rollback_goes_back_and_further_back(machine: Machine) -> None:
    machine.engine.push(router(1))
    machine.engine.push(with_forward(2))
    machine.engine.push(with_forward(3, port=81))
    assert isinstance(machine.engine.roll_back(), Committed)
    assert machine.engine.current().info.generation == 2
    assert isinstance(machine.engine.roll_back(), Committed)
    assert machine.engine.current().info.generation == 1
    assert isinstance(machine.engine.push(with_forward(3, port=81)), Committed)


def test_rollback_to_a_revision_that_never_was(machine: Machine) -> None:
    with pytest.raises(NoSuchRevision):
        machine.engine.roll_back(99)
