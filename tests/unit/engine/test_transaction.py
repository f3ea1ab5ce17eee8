"""The transaction on a machine in memory: the old revision or the new one, never a mixture."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agent.document.boot import parse as parse_boot
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
from agent.engine.model import (
    Committed,
    Count,
    CounterKey,
    Degraded,
    Family,
    Observed,
    Provisional,
    Refused,
    RolledBack,
    Table,
    Unchanged,
)
from agent.engine.plan import describe
from agent.engine.store import Store
from agent.engine.transaction import Engine
from agent.monitor.events import Kind
from tests.unit.engine.documents import BOOT, router, with_forward, with_services, with_tunnels
from tests.unit.engine.memory import (
    CHARON,
    Died,
    MemoryHost,
    OneWriter,
    PlainDisk,
    StillClock,
)
from tests.unit.monitor.heard import Heard


class Machine:
    """A host, its disk, and an agent that can die and start again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = MemoryHost()
        self.disk = PlainDisk()
        self.clock = StillClock()
        self.heard = Heard()
        self.engine = self.start()
        self.engine.restore()

    def start(self) -> Engine:
        store = Store(self.folder, self.disk)
        boot = parse_boot(json.dumps(BOOT).encode())
        return Engine(self.host, store, self.clock, OneWriter(), boot, self.heard)

    def reboot(self) -> None:
        """The kernel forgets everything; the disk does not."""
        self.host = replace(MemoryHost(), deaths=self.host.deaths)
        self.engine = self.start()
        self.engine.restore()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


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


# -- tunnels -----------------------------------------------------------------------------------


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
    assert _same(machine.host.snapshot(), old)
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


# -- faults ------------------------------------------------------------------------------------

CHANGES = {
    "everything comes": (None, with_services(2)),
    "a forward comes": (with_forward(1), with_forward(2, port=81)),
    "services come": (router(1), with_services(2)),
    "services go": (with_services(1), router(2)),
    "everything goes": (with_services(1), with_forward(2)),
    "tunnels come": (router(1), with_tunnels(2, a="secret of a", b="secret of b")),
    "a tunnel changes": (with_tunnels(1, a="first secret"), with_tunnels(2, a="second secret")),
    "tunnels go": (with_tunnels(1, a="secret of a", b="secret of b"), router(2)),
}


def _points(folder: Path, before: bytes | None, after: bytes) -> tuple[int, Observed, Observed]:
    """How many fault points the change passes, and what the machine is before and after."""
    machine = Machine(folder / "count")
    if before:
        machine.engine.push(before)
    old = machine.host.snapshot()
    machine.host.points.clear()
    assert isinstance(machine.engine.push(after), Committed)
    return len(machine.host.points), old, machine.host.snapshot()


@pytest.mark.parametrize("change", CHANGES)
def test_death_at_any_step_leaves_the_old_revision_or_the_new_one(
    tmp_path: Path, change: str
) -> None:
    before, after = CHANGES[change]
    count, old, new = _points(tmp_path, before, after)
    assert count > 8
    seen = set()
    for point in range(1, count + 1):
        machine = Machine(tmp_path / str(point))
        if before:
            machine.engine.push(before)
        machine.host.points.clear()
        machine.host.deaths = [str(point)]
        with pytest.raises(Died):
            machine.engine.push(after)
        machine.engine = machine.start()
        machine.engine.recover()
        after_death = machine.host.snapshot()
        assert _same(after_death, old) or _same(after_death, new), f"a mixture at point {point}"
        seen.add(_same(after_death, new))
        generation = machine.engine.current().info.generation
        assert (generation == 2) is _same(after_death, new)
        assert isinstance(machine.engine.push(after), Committed | Unchanged)
        assert _same(machine.host.snapshot(), new)
    assert seen == {True, False}


@pytest.mark.parametrize("change", CHANGES)
def test_power_cut_at_any_step_boots_the_old_revision_or_the_new_one(
    tmp_path: Path, change: str
) -> None:
    before, after = CHANGES[change]
    count, old, new = _points(tmp_path, before, after)
    for point in range(1, count + 1):
        machine = Machine(tmp_path / str(point))
        if before:
            machine.engine.push(before)
        machine.host.points.clear()
        machine.host.deaths = [str(point)]
        with pytest.raises(Died):
            machine.engine.push(after)
        machine.reboot()
        assert any(_same(machine.host.snapshot(), whole) for whole in (old, new)), point
        assert machine.engine.recover() is None


def test_death_while_rolling_back_rolls_back(tmp_path: Path) -> None:
    for point in range(1, 40):
        machine = Machine(tmp_path / str(point))
        machine.engine.push(router(1))
        old = machine.host.snapshot()
        machine.host.failing_probes = {"dnsmasq.service"}
        machine.host.points.clear()
        machine.host.deaths = [str(point)]
        try:
            machine.engine.push(with_services(2))
        except Died:
            machine.engine = machine.start()
            machine.engine.recover()
        assert _same(machine.host.snapshot(), old), point


def _same(machine: Observed, wanted: Observed) -> bool:
    """Equal in all that traffic could notice.

    A unit that never ran is one that does not run; a setting of a NIC that is down is none.
    """
    running = [{u for u, s in o.units.items() if s.running} for o in (machine, wanted)]
    sysctls = {key: machine.sysctls.get(key) for key in wanted.sysctls}
    return (
        running[0] == running[1]
        and sysctls == wanted.sysctls
        and replace(machine, units={}, sysctls={}) == replace(wanted, units={}, sysctls={})
    )


# -- counters ----------------------------------------------------------------------------------


def test_counts_go_on_when_a_table_is_replaced_and_end_with_their_rule(machine: Machine) -> None:
    stays = CounterKey(Family.V4, Table.FILTER, "INPUT", "stays")
    other = CounterKey(Family.V4, Table.NAT, "PREROUTING", "other table")
    goes = CounterKey(Family.V4, Table.FILTER, "INPUT", "goes")
    fold = machine.engine._fold  # noqa: SLF001 - the plan decides when; this is about what
    machine.host.counts = {key: Count(5, 50) for key in (stays, other, goes)}
    fold(machine.host.counts, {(Family.V4, Table.FILTER)})
    machine.host.counts = {stays: Count(2, 20), other: Count(7, 70)}
    assert machine.engine.counters() == {stays: Count(7, 70), other: Count(7, 70)}
    fold(machine.host.counts, {(Family.V4, Table.FILTER)})
    machine.host.counts = {key: Count(0, 0) for key in (stays, other, goes)}
    assert machine.engine.counters()[stays] == Count(7, 70)
    assert machine.engine.counters()[goes] == Count(0, 0)


# -- events ------------------------------------------------------------------------------------


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


# -- unreadable state --------------------------------------------------------------------------


def test_broken_state_falls_back_to_the_newest_whole_revision(machine: Machine) -> None:
    machine.engine.push(with_forward(1))
    before = machine.host.snapshot()
    for content in (b"", b"{", b"[]", b'{"current": 1, "flux": 2}', b"\x00" * 64):
        (machine.folder / "state.json").write_bytes(content)
        machine.reboot()
        assert machine.host.snapshot() == before


def test_broken_revision_falls_back_to_the_one_before(machine: Machine) -> None:
    machine.engine.push(with_forward(1))
    before = machine.host.snapshot()
    machine.engine.push(with_forward(2, port=81))
    path = machine.folder / "revisions" / "3.json"
    path.write_bytes(path.read_bytes().replace(b"10.1.1.10", b"10.1.1.11"))
    machine.reboot()
    assert machine.host.snapshot() == before


def test_only_the_last_revisions_are_kept(machine: Machine) -> None:
    for generation in range(1, 15):
        machine.engine.push(with_forward(generation, port=80 + generation))
    numbers = [info.number for info in machine.engine.revisions()]
    assert len(numbers) == 10
    assert numbers[0] == 15
