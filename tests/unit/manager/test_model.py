"""The promises of assignment, held through thousands of things that happen in any order.

No proxy above its hard cap, none but those that come again above its soft cap, no VM at two
proxies that are both available, nobody turned away while there is room, and in the end the
managers know exactly the sessions that the proxies have.
"""

import functools
import itertools
import random
import threading
from collections.abc import Callable

import pytest

from agent.console.sessions import End
from appliance.manager import proxies, sessions
from appliance.manager.assign import Condition, Reason
from appliance.manager.database import Database
from appliance.manager.reports import SETTLE
from tests.unit.manager import cloud
from tests.unit.manager.cloud import Caller, SimulatedProxy

# The soak has ten thousand.
LENGTHS = [600, pytest.param(10_000, marks=pytest.mark.soak)]
AT_ONCE = [200, LENGTHS[1]]  # of both together
SILENT_AFTER, LOST_AFTER = 15.0, 120.0
VMS = [f"i-2-{number}-VM" for number in range(40)]


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def fleet() -> list[SimulatedProxy]:
    return [
        *(SimulatedProxy(f"p{number}", hard=8, soft=6) for number in range(4)),
        SimulatedProxy("q0", hard=5, soft=5, zone="z2"),
    ]


class Play:
    """Random operations, by managers that take turns; each is looked at afterwards."""

    def __init__(self, seed: int, managers: Callable[[], Database]) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - reproducible
        self.clock = Clock()
        self.make = managers
        self.known = cloud.register(managers(), fleet())
        self.callers = [Caller(managers(), self.known, self.clock) for _ in range(2)]
        self.names = map("s{}".format, itertools.count())
        self.done: dict[str, int] = {}

    @property
    def caller(self) -> Caller:
        return self.dice.choice(self.callers)

    @property
    def proxy(self) -> SimulatedProxy:
        return self.dice.choice(list(self.known.values()))

    def live(self) -> tuple[sessions.SessionRow, ...]:
        with self.callers[0].database.read() as connection:
            return sessions.listed(connection)

    # -- operations ----------------------------------------------------------------------------

    def place(self) -> None:
        vm, zone = self.dice.choice(VMS), self.dice.choice(("z1", "z1", "z1", "z2"))
        caller, identity = self.caller, next(self.names)
        with caller.database.read() as connection:
            before = proxies.rows(connection)
            there = sessions.there(connection, vm)
        die = self.dice.choice(("", "", "", "", "", "", "", "", "reserved", "offered"))
        answer = caller.open(identity, vm, zone, die_after=die)
        judge(before, there, zone, answer)
        name = type(answer).__name__
        self.done[name] = self.done.get(name, 0) + 1
        if die:
            self.restart_manager()

    def browse(self) -> None:
        found = self.live()
        if found:
            one = self.dice.choice(found)
            self.known[one.proxy].open(one.id, self.clock())

    def leave(self) -> None:
        proxy = self.proxy
        names = [live.session.id for live in proxy.table]
        if names:
            proxy.end(self.dice.choice(names), End.CLOSED, self.clock())

    def close(self) -> None:
        found = self.live()
        if found:
            self.caller.close(self.dice.choice(found).id)

    def hear(self) -> None:
        self.caller.hear(self.proxy.name)

    def hear_all(self) -> None:
        for name in self.known:
            self.caller.hear(name)

    def pass_time(self) -> None:
        self.clock.now += self.dice.uniform(0, 12)

    def silence(self) -> None:
        database = self.caller.database
        database.write(lambda c: proxies.silence(c, self.clock(), SILENT_AFTER))
        database.write(lambda c: proxies.give_up(c, self.clock(), LOST_AFTER))
        database.write(lambda c: sessions.expire(c, self.clock(), 30))
        moved = self.caller.rescue()
        self.done["moved"] = self.done.get("moved", 0) + moved

    def cut_off(self) -> None:
        self.proxy.cut_off = True

    def return_(self) -> None:
        proxy = self.proxy
        proxy.cut_off = False
        self.caller.hear(proxy.name)

    def die(self) -> None:
        self.proxy.die()

    def drain(self) -> None:
        self.caller.drain(self.proxy.name)

    def drain_by_hand(self) -> None:
        self.proxy.set_draining(self.clock(), draining=True)

    def undrain(self) -> None:
        self.caller.undrain(self.proxy.name)

    def fill(self) -> None:
        for _ in range(self.dice.randrange(12)):
            self.place()

    def restart_manager(self) -> None:
        killed = self.dice.randrange(2)
        self.callers[killed].database.close()
        self.callers[killed] = Caller(self.make(), self.known, self.clock)

    WEIGHTS = {  # noqa: RUF012 - never changed
        place: 30, browse: 12, leave: 12, close: 4, hear: 22, hear_all: 4, pass_time: 12,
        silence: 5, cut_off: 1.5, return_: 4, die: 0.5, drain: 1, drain_by_hand: 0.5, undrain: 4,
        fill: 1, restart_manager: 0.2,
    }  # fmt: skip

    def step(self) -> None:
        operation = self.dice.choices(list(self.WEIGHTS), list(self.WEIGHTS.values()))[0]
        operation(self)
        with self.callers[0].database.read() as connection:
            assert cloud.broken(connection) == [], operation.__name__

    def settle(self) -> None:
        """Everybody is back, and is heard."""
        for proxy in self.known.values():
            proxy.cut_off = False
        for _ in range(2):
            self.clock.now += SETTLE + 1
            self.hear_all()
        # What a proxy has forgotten is had again where there is room.
        self.caller.rescue()
        self.hear_all()


def judge(
    before: tuple[proxies.ProxyRow, ...],
    there: frozenset[str],
    zone: str,
    place: sessions.Place | Reason,
) -> None:
    """Was this the right answer, for what the database said before?"""
    rows = {row.name: row for row in before}
    bound = [rows[name] for name in there if rows[name].condition is Condition.RUNNING]
    if bound:
        (one,) = bound
        if isinstance(place, Reason):
            assert place is Reason.GONE_THERE or one.load >= one.hard
        else:
            assert (place.proxy, place.again) == (one.name, True)
            assert one.load < one.hard
        return
    room = [
        row
        for row in before
        if (row.zone, row.condition) == (zone, Condition.RUNNING) and row.load < row.soft
    ]
    if isinstance(place, Reason):
        assert place is Reason.GONE_THERE or not room
        return
    assert not place.again
    least = min(row.load / row.soft for row in room)
    taken = rows[place.proxy]
    assert taken in room
    assert taken.load / taken.soft == least


def agree(play: Play) -> None:
    """The managers know exactly the sessions that the proxies have."""
    known = {(one.proxy, one.id) for one in play.live()}
    held = {(name, live.session.id) for name, one in play.known.items() for live in one.table}
    nowhere = {sessions.State.RESERVED, sessions.State.LOST}
    waiting = {(one.proxy, one.id) for one in play.live() if one.state in nowhere}
    assert known - waiting == held


@pytest.mark.parametrize("operations", LENGTHS)
def test_whatever_happens_keeps_the_promises(
    manager: Callable[[], Database], operations: int
) -> None:
    play = Play(6, manager)
    play.hear_all()
    for _ in range(operations):
        play.step()
    play.settle()
    agree(play)
    assert min(play.done["Place"], play.done["Reason"]) > operations / 100
    assert play.done["moved"] > operations / 1000


@pytest.mark.parametrize("operations", AT_ONCE)
def test_and_also_when_managers_act_at_once(
    manager: Callable[[], Database], operations: int
) -> None:
    plays = [Play(number, manager) for number in range(2)]
    first = plays[0]
    for prefix, play in zip("ab", plays, strict=True):
        play.known, play.clock = first.known, first.clock
        play.names = map(f"{prefix}{{}}".format, itertools.count())
        play.callers = [Caller(manager(), first.known, first.clock) for _ in range(2)]
    first.hear_all()
    faults: list[str] = []

    def act(play: Play) -> None:
        acts = [
            play.browse, play.leave, play.close, play.hear, play.hear, play.pass_time,
            play.silence, play.cut_off, play.return_, play.return_, play.drain, play.undrain,
            play.undrain,
        ]  # fmt: skip
        try:
            for _ in range(operations // 2):
                if play.dice.random() < 0.4:
                    vm = play.dice.choice(VMS[:12])
                    play.caller.open(next(play.names), vm, "z1")
                else:
                    play.dice.choice(acts)()
        except Exception as error:  # noqa: BLE001 - told below, by the test's own thread
            faults.append(repr(error))

    threads = [threading.Thread(target=act, args=(play,)) for play in plays]
    for thread in threads:
        thread.start()
    while threads[0].is_alive() or threads[1].is_alive():
        threads[0].join(0.1)
        # Alone: no placing is half way, so that what is read is of one moment.
        faults += first.callers[0].database.returning(cloud.broken)
    for thread in threads:
        thread.join()
    assert faults == []
    first.settle()
    agree(first)


def test_a_thousand_requests_at_once_exceed_no_cap_and_split_no_vm(
    manager: Callable[[], Database],
) -> None:
    clock = Clock()
    given = [SimulatedProxy(f"p{number}", hard=60, soft=50) for number in range(10)]
    managers = [manager(), manager()]
    known = cloud.register(managers[0], given)
    callers = [Caller(one, known, clock) for one in managers]
    for name in known:
        callers[0].hear(name)
    answers: list[sessions.Place | Reason] = []

    def ask(share: int) -> None:
        answers.extend(
            callers[number % 2].open(f"s{number}", f"vm{number % 700}")
            for number in range(share, 1000, 20)
        )

    _at_once(ask, 20)
    placed = [answer for answer in answers if not isinstance(answer, Reason)]
    with managers[0].read() as connection:
        assert cloud.broken(connection) == []
        rows = proxies.rows(connection)
    assert len(answers) == 1000
    assert sum(row.load for row in rows) == len(placed) >= 500
    assert not any(not answer.again for answer in placed[600:])
    assert {answer for answer in answers if isinstance(answer, Reason)} <= {
        Reason.FULL, Reason.FULL_THERE,
    }  # fmt: skip


def test_a_user_has_no_session_too_many_however_many_are_asked_for_at_once(
    manager: Callable[[], Database],
) -> None:
    managers = [manager(), manager()]
    given = SimulatedProxy("p1", hard=200, soft=200)
    known = cloud.register(managers[0], [given])
    Caller(managers[0], known, Clock()).hear("p1")
    answers: list[sessions.Place | Reason] = []

    def ask(share: int) -> None:
        for number in range(share, 80, 16):
            vm, user = f"vm{number}", "ab"[number // 16 % 2]
            wanted = sessions.Wanted(
                id=f"s{number}", vm=vm, user=user, title="", zone="z1", creator="test",
                secret_sha256="", sealed="x",
            )  # fmt: skip
            place = managers[number % 2].placing(
                vm, functools.partial(sessions.reserve, wanted=wanted, now=1.0, each=7), user=user
            )
            answers.append(place)

    _at_once(ask, 16)
    assert len(answers) == 80
    assert {answer for answer in answers if isinstance(answer, Reason)} == {Reason.MANY}
    with managers[0].read() as connection:
        assert [sessions.held_by(connection, user) for user in "ab"] == [7, 7]


def _at_once(ask: Callable[[int], None], threads: int) -> None:
    running = [threading.Thread(target=ask, args=(share,)) for share in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
