"""What follows from what is seen of a service: a simulated daemon, and a clock that is turned."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.monitor import service as s
from agent.monitor.events import Event, Kind, Severity
from agent.monitor.model import Act, Examined, Finding, Process, Reason, State, Tone, cause
from tests.unit.monitor.simulated import World


@pytest.fixture
def world() -> World:
    world = World()
    world.run(5)
    assert world.shown() is State.RUNNING
    assert world.effects == []
    return world


# -- deaths ------------------------------------------------------------------------------------


def test_a_kill_is_one_death_and_one_recovery(world: World) -> None:
    world.kill()
    assert world.shown() is State.DOWN
    world.run(1)
    assert world.kinds() == ["service.died", "service.recovered"]
    assert world.shown() is State.RUNNING
    assert [line.tone for line in world.lines()] == [Tone.TRYING, Tone.RECOVERED]
    assert world.acts() == []  # it was systemd that started it
    died, recovered = world.events()
    assert died.data["reason"] == "killed"
    assert died.data["detail"] == "SIGKILL"
    assert died.subject == "dnsmasq"
    assert 0 < float(str(recovered.data["seconds"])) < 2


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        ({"result": "signal", "code": 2, "status": 9}, Reason.KILLED),
        ({"result": "signal", "code": 2, "status": 11}, Reason.CRASH),
        ({"result": "core-dump", "code": 3, "status": 6}, Reason.CRASH),
        ({"result": "oom-kill", "code": 2, "status": 9}, Reason.OUT_OF_MEMORY),
        ({"result": "exit-code", "code": 1, "status": 3}, Reason.EXITED),
        ({"result": "success", "code": 1, "status": 0}, Reason.EXITED),
        ({"result": "success", "code": 2, "status": 15}, Reason.KILLED),
        ({"result": "timeout"}, Reason.HUNG),
        ({"result": "watchdog", "code": 2, "status": 6}, Reason.HUNG),
        ({"result": "signal", "code": 2, "status": 99}, Reason.KILLED),
    ],
)
def test_a_death_has_its_reason(seen: dict[str, object], reason: Reason) -> None:
    process = Process(active="failed", **seen)  # type: ignore[arg-type]  # by name
    assert cause(process)[0] is reason


def test_a_death_is_told_of_once_however_late_it_is_noticed(world: World) -> None:
    """The death, its restart and the next run, seen in one: as by a thread that had to wait."""
    world.tell(pid=200, restarts=1)
    world.run(3)
    assert world.kinds() == ["service.died", "service.recovered"]
    assert Tone.RUNNING in [line.tone for line in world.lines()]


def test_deaths_while_the_agent_was_dead_are_told_of_when_it_is_back() -> None:
    service = s.begin("dnsmasq.service", "dnsmasq", 0.0, known=1)
    service, effects = s.look(service, Process(active="active", pid=7, restarts=2), 0.0)
    assert [e.kind for e in effects if isinstance(e, Event)] == [Kind.SERVICE_DIED]
    _, effects = s.look(service, Process(active="active", pid=7, restarts=2), 1.0)
    assert effects == ()


def test_a_restart_by_somebody_is_no_death(world: World) -> None:
    for _ in range(20):
        world.restart()
        world.run(3)
    world.kill()
    world.run(3)
    assert world.kinds() == ["service.died", "service.recovered"]


def test_an_ended_service_that_is_stopped_and_started_by_hand_is_not_taken_up(world: World) -> None:
    world.stop()
    world.run(1.5)
    world.start()
    world.run(5)
    assert world.effects == []
    assert world.shown() is State.RUNNING


def test_what_is_wanted_and_stopped_is_started(world: World) -> None:
    world.stop()
    world.run(5)
    assert world.kinds() == ["service.died", "service.recovered"]
    assert world.events()[0].data["reason"] == "stopped"
    assert world.acts() == [Act.START]


def test_a_daemon_that_the_image_does_not_have_is_left_alone() -> None:
    world = World()
    world.tell(active="inactive", sub="dead", pid=0, able=False)
    world.run(300)
    assert world.shown() is State.ABSENT
    assert world.effects == []


# -- a loop ------------------------------------------------------------------------------------


def test_a_crash_loop_is_one_alert_and_ever_rarer_tries(world: World) -> None:
    world.refuses = True
    world.kill()
    world.run(700)
    alerts = [e for e in world.events() if e.severity >= Severity.ALERT]
    assert [e.kind for e in world.events() if e.severity is Severity.ALERT] == [
        Kind.SERVICE_CRASH_LOOP
    ]
    assert alerts
    assert world.shown() is State.CRASH_LOOP
    tries = [at for at, effect in world.effects if effect is Act.START]
    pauses = [b - a for a, b in zip(tries[-5:], tries[-4:], strict=False)]
    assert all(59 < pause < 62 for pause in pauses)
    assert len(tries) < 40
    world.refuses = False
    world.run(120)
    assert world.service.ready
    assert world.shown() is State.CRASH_LOOP
    world.run(700)
    assert world.shown() is State.RUNNING
    assert world.kinds()[-1] == "service.recovered"
    assert world.kinds().count("service.recovered") == 1


def test_a_loop_that_goes_on_after_a_while_is_not_a_second_alert(world: World) -> None:
    world.dies_after = 0.5
    world.kill()
    world.run(60)
    world.dies_after = 300.0
    world.run(3000)
    assert len(world.events(Kind.SERVICE_CRASH_LOOP)) == 1


def test_five_deaths_that_lie_apart_are_no_loop(world: World) -> None:
    for _ in range(10):
        world.kill()
        world.run(31)
    assert world.events(Kind.SERVICE_CRASH_LOOP) == []
    assert len(world.events(Kind.SERVICE_DIED)) == 10
    assert len(world.events(Kind.SERVICE_RECOVERED)) == 10


@pytest.mark.parametrize("how", ["clear", "start"])
def test_a_push_or_an_operators_start_ends_a_loop_at_once(world: World, how: str) -> None:
    world.refuses = True
    world.kill()
    world.run(300)
    world.refuses = False
    getattr(world, how)()
    world.run(3)
    assert world.shown() is State.RUNNING
    assert world.service.deaths == ()
    assert world.kinds()[-1] == "service.recovered"


# -- configuration -----------------------------------------------------------------------------


def test_what_a_hand_broke_is_put_back_without_a_loop(world: World) -> None:
    world.broken = "dnsmasq/dnsmasq.conf"
    world.run(60)
    starts = world.starts
    world.kill()
    world.run(5)
    assert world.shown() is State.RUNNING
    assert world.starts == starts + 2  # systemd's, that failed, and ours
    assert world.kinds() == [
        "service.died", "service.died", "service.configuration-error", "service.recovered",
    ]  # fmt: skip
    error = world.events(Kind.SERVICE_CONFIGURATION)[0]
    assert error.data["file"] == "dnsmasq/dnsmasq.conf"
    assert Act.PUT_BACK in world.acts()


def test_a_configuration_that_is_ours_and_refused_is_not_tried_again(world: World) -> None:
    finding = Finding("/run/sysvm/current/x", 3, "bad option", "/dhcp_dns")
    world.refuses = True
    world.kill()
    world.run(0.1)
    world.service, effects = s.examined(world.service, Examined((), finding), world.now)
    assert Act.START not in effects
    world._at = []  # noqa: SLF001 - the simulated examination finds something else
    starts = world.starts
    world.run(3600)
    assert world.starts == starts
    assert world.shown() is State.CONFIGURATION
    world.refuses = False
    world.clear()
    world.run(2)
    assert world.shown() is State.RUNNING


# -- hanging -----------------------------------------------------------------------------------


def test_a_hung_service_is_killed_within_six_seconds(world: World) -> None:
    world.answering = False
    began = world.now
    world.run(20)
    killed = next(at for at, effect in world.effects if effect is Act.KILL)
    assert killed - began <= 6
    assert world.kinds() == ["service.hung", "service.recovered"]
    assert world.events()[0].data["reason"] == "hung"


def test_a_busy_service_is_given_time(world: World) -> None:
    """A thousand come at once, or others leave it no CPU."""
    world.answering, world.share = False, 1.0
    began = world.now
    world.run(20)
    assert world.kinds() == ["service.busy"]
    assert world.shown() is State.BUSY
    assert world.service.ready is False
    assert [line.tone for line in world.lines()] == [Tone.BUSY]
    (busy,) = world.events()
    assert (busy.severity, busy.data["reason"]) == (Severity.WARNING, "busy")
    assert "waited for the CPU for 3.60 s" in busy.message
    world.answering, world.share = True, 0.0
    world.run(2)
    assert world.kinds() == ["service.busy", "service.recovered"]
    assert world.acts() == []
    assert 15 < float(str(world.events()[1].data["seconds"])) < world.now - began
    assert world.shown() is State.RUNNING


def test_a_service_that_is_busy_for_ever_is_killed_within_thirty_seconds(world: World) -> None:
    world.answering, world.share = False, 1.0
    began = world.now
    world.run(60)
    assert world.kinds() == ["service.busy", "service.hung", "service.recovered"]
    killed = next(at for at, effect in world.effects if effect is Act.KILL)
    assert 3 * 6 <= killed - began <= 30


def test_a_busy_service_that_stops_doing_anything_is_hung_six_seconds_later(world: World) -> None:
    world.answering, world.share = False, 1.0
    world.run(12)
    assert world.kinds() == ["service.busy"]
    world.share, stopped = 0.0, world.now
    world.run(10)
    assert world.kinds() == ["service.busy", "service.hung", "service.recovered"]
    killed = next(at for at, effect in world.effects if effect is Act.KILL)
    assert killed - stopped <= 6


def test_a_busy_service_that_answers_now_and_then_is_left_alone(world: World) -> None:
    world.share = 1.0
    for _ in range(50):
        world.answering = False
        world.run(20)
        world.answering = True
        world.run(2)
    assert world.acts() == []


def test_a_busy_service_that_ends_is_a_death(world: World) -> None:
    world.answering, world.share = False, 1.0
    world.run(10)
    world.answering = True
    world.kill()
    world.run(3)
    assert world.kinds() == ["service.busy", "service.died", "service.recovered"]
    assert world.shown() is State.RUNNING


def test_a_busy_service_that_somebody_restarts_is_his_affair(world: World) -> None:
    world.answering, world.share = False, 1.0
    world.run(10)
    world.answering = True
    world.restart()
    world.run(3)
    assert world.acts() == []
    assert world.shown() is State.RUNNING


def test_where_the_kernel_does_not_say_silence_is_a_hang(world: World) -> None:
    world.answering, world.cpu = False, None
    world.run(6)
    assert world.kinds()[0] == "service.hung"


def test_one_or_two_silences_are_no_hang(world: World) -> None:
    for _ in range(50):
        world.answering = False
        world.run(3.5)
        world.answering = True
        world.run(3.7)
    assert world.effects == []


def test_silence_that_is_anothers_fault_is_no_hang(world: World) -> None:
    world.answering, world.excused = False, True
    world.run(600)
    assert world.effects == []


def test_a_service_that_has_just_started_is_given_time(world: World) -> None:
    world.answering = False
    world.restart()
    world.run(9)
    assert world.effects == []
    world.answering = True
    world.run(3)
    assert world.effects == []


def test_restarting_that_does_not_help_is_one_alert(world: World) -> None:
    world.answering = False
    for _ in range(400):
        world.answering = False  # a kill does not help
        world.run(0.1)
    assert [e.kind for e in world.events() if e.severity is Severity.ALERT] == [
        Kind.SERVICE_NOT_RECOVERED
    ]
    assert len(world.events(Kind.SERVICE_HUNG)) == 1 + world.kinds()[:3].count("service.hung") - 1
    world.answering = True
    world.run(70)
    assert world.kinds()[-1] == "service.recovered" or world.service.state is State.CRASH_LOOP


# -- left alone --------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [State.HELD, State.DISABLED])
def test_what_is_held_or_disabled_is_looked_at_and_nothing_follows(off: State) -> None:
    world = World(off=off)
    world.run(3)
    world.kill()
    world.run(3)
    world.answering = False
    world.run(30)
    world.stop()
    world.run(3600)
    assert world.effects == []
    assert world.shown() is off
    world.answering = True
    world.rule(None)
    world.run(3)
    assert world.shown() is State.RUNNING
    assert world.acts() == [Act.START]


def test_a_hold_on_a_loop_leaves_it_stopped(world: World) -> None:
    world.refuses = True
    world.kill()
    world.run(120)
    world.rule(State.HELD)
    starts = world.starts
    world.run(3600)
    assert world.starts == starts


# -- whatever happens --------------------------------------------------------------------------

HAPPENINGS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "kill",
                "stop",
                "start",
                "restart",
                "clear",
                "hold",
                "release",
                "disable",
                "mute",
                "speak",
                "refuse",
                "accept",
                "break",
                "excuse",
                "blame",
                "stray",
                "mend",
                "toil",
                "rest",
            ]
        ),
        st.floats(0.0, 200.0),
    ),
    max_size=15,
)


def happen(world: World, what: str) -> None:
    match what:
        case "hold":
            world.rule(State.HELD)
        case "disable":
            world.rule(State.DISABLED)
        case "release":
            world.rule(None)
        case "mute" | "speak":
            world.answering = what == "speak"
        case "refuse" | "accept":
            world.refuses = what == "refuse"
        case "stray" | "mend":
            world.own_files, world.reads = what == "mend", 2
        case "break":
            world.broken = "dnsmasq/hosts"
        case "toil" | "rest":
            world.share = 1.0 if what == "toil" else 0.0
        case "excuse" | "blame":
            world.excused = what == "excuse"
        case "kill":
            if world.process.alive:
                world.kill()
        case _:
            getattr(world, what)()


@settings(max_examples=60, deadline=None)
@given(HAPPENINGS)
def test_whatever_happens_it_runs_again_in_the_end_and_no_alert_comes_twice(
    happenings: list[tuple[str, float]],
) -> None:
    world = World()
    for what, seconds in happenings:
        happen(world, what)
        world.run(seconds)
        off = world.service.off is not None
        before = len(world.effects)
        if off:
            world.run(60)
            assert len(world.effects) == before
    for what in ("release", "speak", "accept", "blame", "mend", "rest", "clear"):
        happen(world, what)
    world.broken = ""
    world.run(200)
    assert world.service.ready
    assert world.shown() is State.RUNNING
    world.effects.clear()
    world.run(1000)
    assert world.effects == []


@settings(max_examples=40, deadline=None)
@given(HAPPENINGS)
def test_a_loop_is_alerted_of_once_until_it_is_over(happenings: list[tuple[str, float]]) -> None:
    world = World()
    alerts = 0
    for what, seconds in happenings:
        if what in {"clear", "start", "restart", "hold", "release", "disable", "stop"}:
            alerts = 0  # somebody has taken care of it
            world.effects.clear()
        happen(world, what)
        world.run(seconds)
        for event in world.events():
            if event.kind is Kind.SERVICE_CRASH_LOOP:
                alerts += 1
            elif event.kind is Kind.SERVICE_RECOVERED:
                alerts = 0
            assert alerts <= 1
        world.effects.clear()


# -- soak, on a fast clock ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_no_false_alarm_in_six_hours_of_ten_pushes_a_minute(seed: int) -> None:
    """Each push reloads or restarts it, or not; a reload may cost an answer, a restart two."""
    chance = random.Random(seed)  # noqa: S311
    world = World()
    world.run(5)
    for _ in range(6 * 60 * 10):
        match chance.choice(["nothing", "nothing", "reload", "reload", "restart"]):
            case "restart":
                world.restart()
            case "reload":
                world.answering = False
                world.run(chance.uniform(0.0, 1.5))
                world.answering = True
            case _:
                pass
        world.clear()
        world.run(chance.uniform(3.0, 9.0))
    assert world.effects == []
    assert world.shown() is State.RUNNING


# -- other files -------------------------------------------------------------------------------


def test_a_daemon_with_other_files_is_told_once_to_read_its_own(world: World) -> None:
    world.own_files, world.reads = False, 1
    world.run(60)
    assert world.kinds() == ["service.other-files", "service.own-files"]
    assert world.acts() == [Act.READ]
    assert [line.tone for line in world.lines()] == [Tone.OTHER_FILES, Tone.OWN_FILES]
    assert world.events()[0].data["reason"] == "other-files"
    assert world.events()[0].data["detail"] == "runs x, not y"
    assert world.shown() is State.RUNNING


def test_what_reading_does_not_help_is_one_alert_and_no_restart(world: World) -> None:
    world.own_files = False
    world.run(3600)
    assert world.kinds() == ["service.other-files", "service.still-other-files"]
    assert world.events()[1].severity is Severity.ALERT
    assert world.acts() == [Act.READ] * 3
    told = [at for at, effect in world.effects if effect is Act.READ]
    assert told[1] - told[0] >= 5
    assert told[2] - told[1] >= 10
    assert [line.alert for line in world.lines()] == [False, False, False, True]
    assert world.shown() is State.RUNNING  # it serves
    world.own_files = True
    world.run(3)
    assert world.kinds()[-1] == "service.own-files"


def test_a_restart_by_somebody_or_a_push_begins_anew(world: World) -> None:
    world.own_files = False
    world.run(100)
    world.clear()
    world.run(10)
    assert world.kinds()[-1] == "service.other-files"
    assert world.acts() == [Act.READ] * 4


def test_one_answer_from_other_files_is_a_change_under_way(world: World) -> None:
    for _ in range(20):
        world.own_files = False
        world.run(3)
        world.own_files = True
        world.run(3)
    assert world.effects == []


@pytest.mark.parametrize("off", [State.HELD, State.DISABLED])
def test_files_of_what_is_left_alone_are_nobodys_affair(world: World, off: State) -> None:
    world.rule(off)
    world.own_files = False
    world.run(100)
    assert world.effects == []
    assert world.service.correct is False  # and shown
    world.rule(None)
    world.reads = 1
    world.run(100)
    assert world.kinds() == ["service.other-files", "service.own-files"]
