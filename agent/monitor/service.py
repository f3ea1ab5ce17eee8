"""What is known of one service, and what follows from what is seen of it. Pure: time is handed in.

    DOWN            it has ended; systemd starts it again at once
    BUSY            three questions in a row without an answer, and it runs or waits for the CPU:
                    given time (`agent.monitor.silence`)
    HUNG            the same, and it does nothing, or has been given its time: killed, systemd
                    starts it
    CRASH_LOOP      five deaths in two minutes: one alert; the unit is kept stopped and tried ever
                    more rarely; over after ten good minutes
    CONFIGURATION   it refuses its files: what a hand changed is put back; no more tries
    NOT_RECOVERED   half a minute later it still does not answer: one alert, tries go on

*Alive* is systemd's word, *ready* the probes', *correct* their witness'. Only the first two lead
to a restart; the last to a reload (`agent.monitor.reading`). What management has switched off, an
operator holds or a change is under way for is left alone: it is looked at, and nothing follows.
"""

from dataclasses import dataclass, replace
from typing import assert_never

from agent.monitor import reading, silence
from agent.monitor.events import Event, Kind, Value
from agent.monitor.model import (
    Act,
    Answer,
    Effect,
    Examined,
    Finding,
    Line,
    Process,
    Reason,
    State,
    Tone,
    cause,
)
from agent.monitor.reading import Reading, Turn
from agent.monitor.silence import Silence

DEATHS = 5  # so many within LOOP_WINDOW are a loop
LOOP_WINDOW = 120.0  # seconds
MEMORY = 600.0  # seconds for which a death is remembered, and that a loop has to be over
FIRST_PAUSE = 1.0  # seconds before a try in a loop, doubled up to the longest
LONGEST_PAUSE = 60.0
PUT_BACKS = 3  # times that files are put back, for who goes on changing them
GRACE = 10.0  # seconds after its start in which a service need not answer yet
PATIENCE = 30.0  # seconds without an answer until restarting is said not to help
STOPPED_FOR = 2.0  # seconds that a unit may be stopped: whoever stopped it may start it, too


_ILL = frozenset({State.CRASH_LOOP, State.CONFIGURATION, State.NOT_RECOVERED})
_AT_EASE = frozenset({State.STARTING, State.RUNNING})
_NOT_TOLD_OF = _AT_EASE | {State.BUSY}  # that it serves nobody: as yet, or any more


# -- what is known -----------------------------------------------------------------------------


_AS_ASKED = Reading()
_NOTHING = Process(active="inactive", job=True)  # seen yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service. Times are seconds of a clock that never goes back."""

    unit: str
    process: str  # what operators know it by
    state: State = State.STARTING
    since: float = 0.0
    reason: str = ""
    detail: str = ""
    seen: Process = _NOTHING
    started: float = 0.0  # since when it is alive, or has been starting
    has_been_active: bool = False  # since it was last started
    has_answered: bool = False  # since it was last started
    ready: bool | None = None
    correct: bool | None = None
    reading: Reading = _AS_ASKED
    silence: Silence | None = None
    counted: int = -1  # of systemd's restarts: how many are known; -1 before the first look
    deaths: tuple[float, ...] = ()
    down_since: float | None = None
    alerted: bool = False  # of what is the matter now
    tries: int = 0  # in a loop
    due: float | None = None  # when to look again without being told
    kept_down: bool = False  # the unit is stopped because we say so
    off: State | None = None  # HELD or DISABLED: left alone

    @property
    def shown(self) -> State:
        """The one word for it."""
        return self.off or self.state

    def eager(self, now: float) -> bool:
        """Is it about to be ready, so that it is worth asking again soon?"""
        return self.seen.alive and not self.has_answered and now - self.started < GRACE

    def restarts(self, now: float) -> int:
        """How often it has been restarted within the last ten minutes."""
        return sum(now - death < MEMORY for death in self.deaths)


def begin(unit: str, process: str, now: float, known: int = -1) -> Service:
    """A service that nothing has been seen of; `known` restarts have been told of before."""
    return Service(
        unit=unit, process=process, since=now, started=now, counted=known, due=now + PATIENCE
    )


Step = tuple[Service, tuple[Effect, ...]]


def look(service: Service, process: Process, now: float, *, changing: bool = False) -> Step:
    """systemd tells of the unit; while a push is `changing` the machine, nothing is done to it."""
    was = service.seen
    deaths, counted = _deaths(service, process)
    if service.counted >= 0 and process.pid and was.pid and process.pid != was.pid and not deaths:
        service = _cleared(service, now)  # somebody restarted it
    service = replace(service, seen=process, counted=counted)
    if not process.able and process.stopped:
        return _to(service, State.ABSENT, now), ()
    if service.off is not None:
        return _lives(service, was, now), ()
    if deaths:
        return _died(service, deaths, now, changing=changing)
    if process.stopped:
        return _stopped(service, was, now)
    if service.kept_down and process.starting and not process.restarts:
        service = _cleared(service, now)  # somebody started it, for systemd counts none of its own
    if service.state is State.ABSENT:
        service = _to(service, State.STARTING, now)
    return _lives(service, was, now), ()


def ask(service: Service, answer: Answer, now: float) -> Step:
    """Its probes tell how it answers."""
    if not service.seen.alive:
        return replace(service, ready=False, silence=None), ()
    if answer.correct is not None:
        service = replace(service, correct=answer.correct)
    if answer.ready is None:
        return replace(service, silence=None), ()
    if answer.ready:
        service, effects = _answered(service, now)
        service, more = _read(service, answer, now)
        return service, (*effects, *more)
    quiet = silence.missed(service.silence, answer.cpu, now)
    late = service.has_answered or now - service.started >= GRACE
    published = False if quiet.questions > 1 or not service.has_answered else service.ready
    service = replace(service, silence=quiet if late else None, ready=published)
    if service.off is not None or not late:
        return service, ()
    detail = "; ".join(filter(None, (answer.detail, quiet.words)))
    match silence.judge(quiet, now):
        case silence.Verdict.PERHAPS:
            return service, ()
        case silence.Verdict.BUSY:
            return _busy(service, detail, quiet.since, now)
        case silence.Verdict.HUNG:
            return _hung(service, detail, now)
        case unknown:
            assert_never(unknown)


def wait(service: Service, now: float) -> Step:
    """Time has passed: `service.due` is over."""
    if service.due is None or now < service.due:
        return service, ()
    service = replace(service, due=None)
    if service.off is not None:
        return service, ()
    if service.kept_down and service.state is State.CRASH_LOOP:
        details = {"reason": service.reason, "try": service.tries + 1}
        service = replace(service, kept_down=False, tries=service.tries + 1)
        return _started(service, now), (Line(Tone.TRYING, details=details), Act.START)
    if service.state is State.CRASH_LOOP and service.ready:
        return _recovered(service, now)
    if service.state is State.STOPPED:
        return _take_up(service, now)
    if service.state in {State.STARTING, State.DOWN, State.HUNG} and not service.ready:
        return _not_recovered(service, now)
    return service, ()


def rule(service: Service, off: State | None, now: float) -> Step:
    """Management or an operator has said whether to leave it alone."""
    if off is service.off:
        return service, ()
    service = replace(_cleared(service, now), off=off)
    if off is None and service.seen.stopped and service.seen.able:
        service = replace(_to(service, State.STOPPED, now), due=now)
    return service, ()


def clear(service: Service, now: float) -> Step:
    """A push has changed the machine, or an operator has had it restarted: begin anew."""
    kept = service.kept_down
    service = replace(_cleared(service, now), silence=None)
    if service.off is not None:
        return service, ()
    if kept:
        return _started(service, now), (Act.START,)
    if service.seen.stopped and service.seen.able:
        service = replace(_to(service, State.STOPPED, now), due=now + STOPPED_FOR)
    return service, ()


def examined(service: Service, found: Examined, now: float) -> Step:
    """What was looked up about a unit that does not start; it is stopped meanwhile."""
    if not service.kept_down:
        return service, ()  # somebody was quicker
    if not found.changed and found.finding is None:
        if service.state is State.CRASH_LOOP:
            return service, ()
        return _started(replace(service, kept_down=False), now), (Act.START,)
    finding = found.finding or Finding(found.changed[0], 0, "was changed by hand", by_hand=True)
    effects: list[Effect] = []
    if service.state is not State.CONFIGURATION:
        data: dict[str, Value] = {
            "file": finding.file, "line": finding.line, "path": finding.path,
            "origin": "hand" if finding.by_hand else "document",
        }  # fmt: skip
        service = replace(service, reason=Reason.CONFIGURATION, detail=finding.message)
        what = f"{finding.file} line {finding.line}" if finding.line else finding.file
        say = f"{service.process} refuses its configuration: {what}: {finding.message}"
        if finding.by_hand:
            say += "; that is not from the document"
        effects = [
            Line(Tone.FAILED, alert=True, details=_details(service) | data),
            _event(Kind.SERVICE_CONFIGURATION, service, say, now, **data),
        ]
        service = replace(_to(service, State.CONFIGURATION, now), alerted=True, due=None)
    if found.changed and service.tries < PUT_BACKS:
        effects.append(Act.PUT_BACK)
        service = replace(service, kept_down=False, tries=service.tries + 1)
        service = _started(service, now)
    return service, tuple(effects)


def not_put_back(service: Service) -> Service:
    """Its files could not be put back: it stays stopped."""
    return replace(service, kept_down=True)


# -- the steps ---------------------------------------------------------------------------------


def _deaths(service: Service, process: Process) -> tuple[int, int]:
    """How many deaths are new, and how many of systemd's restarts are known from now on.

    systemd counts a restart some milliseconds after the death, and begins anew when somebody
    starts the unit.
    """
    known = service.counted
    if known < 0 or (process.restarts < known and not process.dying):
        known = process.restarts
    if process.dying and not service.seen.dying:
        return max(1, process.restarts - known), max(known + 1, process.restarts)
    return max(0, process.restarts - known), max(known, process.restarts)


def _lives(service: Service, was: Process, now: float) -> Service:
    """What follows from a unit that is started, runs or stops, by somebody's word."""
    process = service.seen
    if not process.alive:
        return replace(service, ready=False, silence=None)
    if not was.alive or (was.pid and process.pid != was.pid):
        service = replace(service, started=now, has_answered=False, silence=None, ready=None)
    return replace(service, has_been_active=True)


def _died(service: Service, deaths: int, now: float, *, changing: bool) -> Step:
    reason, detail = cause(service.seen)
    ours = service.reason is Reason.HUNG and service.state in {State.HUNG, State.NOT_RECOVERED}
    refused = (
        service.seen.dying and not service.has_been_active and service.seen.result == "exit-code"
    )
    remembered = tuple(d for d in service.deaths if now - d < MEMORY) + (now,) * deaths
    if not ours:
        service = replace(service, reason=reason, detail=detail)
    service = replace(
        service,
        deaths=remembered[-100:],
        ready=False,
        silence=None,
        has_been_active=service.seen.alive,
        has_answered=False,
        started=now,
        kept_down=False,
        down_since=now if service.down_since is None else service.down_since,
    )
    if service.state in {State.CRASH_LOOP, State.CONFIGURATION} and not changing:
        return _died_again(service, now, refused=refused)
    effects: list[Effect] = []
    if not ours:
        say = f"{service.process} ended: {service.reason} ({service.detail})"
        if not service.alerted:
            effects.append(_event(Kind.SERVICE_DIED, service, say, now))
        effects.append(Line(Tone.TRYING, details=_details(service)))
    if service.seen.alive and not service.seen.dying:  # it has come back already
        effects.append(Line(Tone.RUNNING, details={"restarts": service.seen.restarts}))
    if not changing and _is_loop(service, now):
        service, more = _looping(service, now)
        return service, (*effects, *more, *((Act.EXAMINE,) if refused else ()))
    if service.state in _NOT_TOLD_OF | {State.STOPPED}:
        service = replace(_to(service, State.DOWN, now), due=now + PATIENCE)
    if refused and not changing:
        return replace(service, kept_down=True), (*effects, Act.STOP, Act.EXAMINE)
    return service, tuple(effects)


def _died_again(service: Service, now: float, *, refused: bool) -> Step:
    """In a loop, or with a configuration that it had refused: held back, told once only."""
    service = replace(service, kept_down=True)
    if service.state is State.CRASH_LOOP:
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(service.tries, 16))
        return replace(service, due=now + pause), (Act.STOP,)
    if refused:
        return service, (Act.STOP, Act.EXAMINE)
    service, effects = _looping(service, now)  # its files are right, and it still does not run
    return service, effects


def _is_loop(service: Service, now: float) -> bool:
    return sum(now - death < LOOP_WINDOW for death in service.deaths) >= DEATHS


def _looping(service: Service, now: float) -> Step:
    count = service.restarts(now)
    say = f"{service.process} keeps ending ({service.reason}, {service.detail})"
    line = Line(Tone.FAILED, alert=True, details=_details(service) | {"deaths": count})
    event = () if service.alerted else (_event(Kind.SERVICE_CRASH_LOOP, service, say, now),)
    service = replace(
        _to(service, State.CRASH_LOOP, now),
        alerted=True,
        kept_down=True,
        tries=0,
        due=now + FIRST_PAUSE,
    )
    return service, (line, *event, Act.STOP)


def _stopped(service: Service, was: Process, now: float) -> Step:
    """It is stopped, and systemd does not start it: by us, or by somebody."""
    service = replace(service, ready=False, silence=None, has_been_active=False, has_answered=False)
    if service.kept_down or service.state is State.STOPPED:
        return service, ()
    if service.seen.result not in {"success", ""} and was.active == "activating":
        # A start of ours, or of somebody's, that failed for good.
        service = replace(service, detail=service.seen.result)
    return replace(_to(service, State.STOPPED, now), due=now + STOPPED_FOR), ()


def _take_up(service: Service, now: float) -> Step:
    """Somebody has stopped what is wanted, or it was kept down by an agent before this one."""
    if not service.seen.stopped:
        return _started(service, now), ()
    service = replace(
        service,
        reason=Reason.STOPPED,
        detail=service.seen.result,
        deaths=(*service.deaths, now)[-100:],
        down_since=now if service.down_since is None else service.down_since,
    )
    say = f"{service.process} is wanted and was stopped"
    effects: tuple[Effect, ...] = (
        Line(Tone.TRYING, details=_details(service)),
        _event(Kind.SERVICE_DIED, service, say, now),
    )
    if _is_loop(service, now):
        service, more = _looping(service, now)
        return service, (*effects, *more)
    service = replace(_to(service, State.DOWN, now), due=now + PATIENCE)
    return _started(service, now), (*effects, Act.START)


def _busy(service: Service, detail: str, since: float, now: float) -> Step:
    """It is left to its work; who is worse off than busy, or is known to be, is not told of."""
    if service.state not in _AT_EASE:
        return service, ()
    service = replace(service, reason=Reason.BUSY, detail=detail, ready=False)
    if service.down_since is None:
        service = replace(service, down_since=since)
    say = f"{service.process} does not answer, and is busy: {detail}"
    line = Line(Tone.BUSY, details=_details(service))
    return _to(service, State.BUSY, now), (line, _event(Kind.SERVICE_BUSY, service, say, now))


def _hung(service: Service, detail: str, now: float) -> Step:
    first = service.state in _NOT_TOLD_OF
    service = replace(
        service,
        reason=Reason.HUNG,
        detail=detail,
        silence=None,
        ready=False,
        has_answered=False,
        started=now,
        down_since=now if service.down_since is None else service.down_since,
    )
    line = Line(Tone.TRYING, details=_details(service))
    if service.state in _ILL:
        return service, (line, Act.KILL)
    say = f"{service.process} runs and does not answer: {detail}"
    event = _event(Kind.SERVICE_HUNG, service, say, now)
    service = _to(service, State.HUNG, now)
    if first:
        service = replace(service, due=now + PATIENCE)
    return service, (line, event, Act.KILL)


def _not_recovered(service: Service, now: float) -> Step:
    if service.down_since is None:  # it has never answered since it is watched
        service = replace(service, reason=Reason.HUNG, down_since=service.since)
    say = f"restarting {service.process} does not help: {service.reason} ({service.detail})"
    line = Line(Tone.FAILED, alert=True, details=_details(service))
    event = _event(Kind.SERVICE_NOT_RECOVERED, service, say, now)
    return replace(_to(service, State.NOT_RECOVERED, now), alerted=True), (line, event)


def _answered(service: Service, now: float) -> Step:
    first = not service.ready
    service = replace(service, ready=True, silence=None, has_answered=True)
    if service.off is not None:
        return service, ()
    if service.state is State.CRASH_LOOP:
        if not first:
            return service, ()
        service = replace(service, due=now + MEMORY)
        return service, (Line(Tone.RECOVERED, details={"state": State.CRASH_LOOP}),)
    if service.state is State.RUNNING:
        return service, ()
    if service.down_since is None:
        return _to(service, State.RUNNING, now), ()
    return _recovered(service, now)


def _read(service: Service, answer: Answer, now: float) -> Step:
    """It answers; with the revision's files?"""
    if service.off is not None:
        return replace(service, reading=_AS_ASKED), ()
    known, due = reading.turn(service.reading, answer.correct, now)
    service = replace(service, reading=known)
    match due:
        case None:
            return service, ()
        case Turn.READ:
            tone, kind = Tone.OTHER_FILES, Kind.SERVICE_OTHER_FILES
            say = f"{service.process} runs with other files than the revision's: {answer.detail}"
        case Turn.GIVEN_UP:
            tone, kind = Tone.STILL_OTHER_FILES, Kind.SERVICE_STILL_OTHER_FILES
            say = f"telling {service.process} its files does not help: {answer.detail}"
        case Turn.OVER:
            tone, kind = Tone.OWN_FILES, Kind.SERVICE_OWN_FILES
            say = f"{service.process} runs with the revision's files again"
        case _:
            assert_never(due)
    why = {"reason": str(Reason.OTHER_FILES), "detail": answer.detail}
    line = Line(tone, alert=due is Turn.GIVEN_UP, details=why)
    event = _event(kind, service, say, now, **why)
    if due is not Turn.READ:
        return service, (line, event)
    return service, (line, event, Act.READ) if known.tries == 1 else (line, Act.READ)


def _recovered(service: Service, now: float) -> Step:
    seconds = round(now - (now if service.down_since is None else service.down_since), 3)
    line = Line(Tone.RECOVERED, details=_details(service) | {"seconds": seconds})
    say = f"{service.process} answers again after {seconds:g} s"
    event = _event(Kind.SERVICE_RECOVERED, service, say, now, seconds=seconds)
    loop = service.state is State.CRASH_LOOP
    service = replace(
        _to(service, State.RUNNING, now),
        alerted=False,
        down_since=None,
        due=None,
        tries=0,
        deaths=() if loop else service.deaths,
    )
    return service, (line, event)


def _started(service: Service, now: float) -> Service:
    """It is being started, by us."""
    state = service.state if service.state is not State.STOPPED else State.STARTING
    return replace(_to(service, state, now), started=now, has_been_active=False, has_answered=False)


def _cleared(service: Service, now: float) -> Service:
    """What was the matter is somebody's affair who has just taken care of it."""
    ill = service.state in _ILL | {State.BUSY, State.DOWN, State.HUNG, State.STOPPED}
    service = replace(service, deaths=(), tries=0, due=None, kept_down=False, reading=_AS_ASKED)
    return replace(_to(service, State.STARTING, now), due=now + PATIENCE) if ill else service


def _to(service: Service, state: State, now: float) -> Service:
    return service if service.state is state else replace(service, state=state, since=now)


def _details(service: Service) -> dict[str, object]:
    return {"reason": service.reason, "detail": service.detail}


def _event(kind: Kind, service: Service, say: str, now: float, **more: Value) -> Event:
    data: dict[str, Value] = {
        "unit": service.unit,
        "reason": str(service.reason),
        "detail": service.detail,
        "restarts": service.restarts(now),
    }
    subject = service.unit.removesuffix(".service").removesuffix(".target")
    return Event(kind=kind, subject=subject, message=say, data=data | more)
