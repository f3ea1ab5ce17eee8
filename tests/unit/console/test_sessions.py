"""Sessions: a secret opens once, a lost browser comes back, everything has its end."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from agent.console.sessions import (
    Admitted,
    Clipboard,
    Credentials,
    End,
    NotAllowed,
    Policy,
    Refusal,
    Session,
    State,
    Table,
    digest_of,
)
from agent.console.targets import PortSpan, Target, TargetKind, TargetRules

RULES = TargetRules(networks=(ip_network("10.0.0.0/8"),), ports=(PortSpan(5900, 6900),))
SECRET = "secret"
HERE = ip_address("192.0.2.7")


def table(cap: int = 50) -> Table:
    return Table(RULES, cap)


def session(name: str = "s1", secret: str = SECRET, policy: Policy | None = None) -> Session:
    return Session(
        id=name,
        digest=digest_of(secret),
        vm="i-2-10",
        user="alice",
        title="web",
        target=Target(kind=TargetKind.VNC, address=ip_address("10.2.0.7"), port=5901),
        credentials=Credentials(password="hidden"),
        policy=policy or Policy(),
    )


def opened(table: Table, secret: str, now: float = 1.0, resume: str = "back") -> Admitted:
    answer = table.open(secret, HERE, now, digest_of(resume))
    assert isinstance(answer, Admitted), answer
    return answer


def test_a_secret_opens_once() -> None:
    sessions = table()
    assert sessions.offer(session(), 0.0)
    assert opened(sessions, "secret").session == session()
    assert sessions.open("secret", HERE, 2.0) is Refusal.USED
    assert sessions.open("guess", HERE, 2.0) is Refusal.UNKNOWN


def test_what_the_user_is_told_does_not_say_whether_a_secret_ever_was() -> None:
    assert Refusal.UNKNOWN.told == Refusal.USED.told == Refusal.EXPIRED.told == Refusal.SOURCE.told
    assert len({refusal.logged for refusal in Refusal}) == len(Refusal)


def test_a_secret_that_waits_for_too_long_opens_nothing() -> None:
    sessions = table()
    sessions.offer(session(), 0.0)
    assert sessions.open("secret", HERE, 60.0) is Refusal.EXPIRED
    (ended,) = sessions.tick(60.0)
    assert ended.why is End.EXPIRED
    assert sessions.open("secret", HERE, 61.0) is Refusal.EXPIRED
    sessions.tick(1000.0)
    assert sessions.open("secret", HERE, 1000.0) is Refusal.UNKNOWN


def test_the_same_offer_again_changes_nothing_and_another_is_refused() -> None:
    sessions = table()
    assert sessions.offer(session(), 0.0)
    assert not sessions.offer(session(), 50.0)
    with pytest.raises(NotAllowed, match="another one"):
        sessions.offer(session(secret="other"), 1.0)
    with pytest.raises(NotAllowed, match="secret belongs"):
        sessions.offer(session("s2"), 1.0)
    assert sessions.open("secret", HERE, 60.0) is Refusal.EXPIRED


def test_a_vm_that_moves_takes_its_session_along_and_nothing_else_changes() -> None:
    sessions = table()
    sessions.offer(session(), 0.0)
    opened(sessions, SECRET)
    elsewhere = Target(kind=TargetKind.VNC, address=ip_address("10.2.0.8"), port=5902)
    moved = replace(session(), target=elsewhere, credentials=Credentials(password="new"))
    live = sessions.move(moved)
    assert live is not None
    assert (live.session, live.state) == (moved, State.OPEN)
    assert sessions.lose("s1", 1, 2.0) is None
    assert opened(sessions, "back", 3.0, "again").session.target == elsewhere
    # What is there already, or is somebody else's, does not move.
    assert sessions.move(moved) is None
    assert sessions.move(replace(session(), user="mallory")) is None
    assert sessions.move(session("other")) is None
    outside = replace(elsewhere, address=ip_address("127.0.0.1"))
    with pytest.raises(NotAllowed, match="loopback"):
        sessions.move(replace(moved, target=outside))
    assert live.session == moved


def test_a_target_outside_the_rules_is_refused_before_there_is_a_session() -> None:
    sessions = table()
    wrong = replace(session(), target=replace(session().target, address=ip_address("192.0.2.1")))
    with pytest.raises(NotAllowed, match="none of the hypervisors"):
        sessions.offer(wrong, 0.0)
    assert len(sessions) == 0


def test_a_session_bound_to_an_address_is_not_opened_from_another() -> None:
    sessions = table()
    sessions.offer(session(policy=Policy(source=ip_network("192.0.2.7/32"))), 0.0)
    assert sessions.open("secret", ip_address("192.0.2.8"), 1.0) is Refusal.SOURCE
    assert opened(sessions, "secret").connection == 1


def test_a_lost_browser_comes_back_with_its_resume_secret_and_only_with_the_last_one() -> None:
    sessions = table()
    sessions.offer(session(), 0.0)
    first = opened(sessions, "secret")
    assert sessions.lose("s1", first.connection, 10.0) is None
    assert sessions.open("secret", HERE, 11.0) is Refusal.USED
    second = opened(sessions, "back", 12.0, "again")
    assert sessions.open("back", HERE, 13.0) is Refusal.USED
    assert sessions.lose("s1", first.connection, 14.0) is None  # the old connection, late
    live = sessions.get("s1")
    assert live is not None
    assert live.state is State.OPEN
    sessions.lose("s1", second.connection, 20.0)
    (ended,) = sessions.tick(80.0)
    assert ended.why is End.LOST
    assert sessions.open("again", HERE, 81.0) is Refusal.USED


def test_a_browser_may_come_back_before_its_loss_was_seen() -> None:
    sessions = table()
    sessions.offer(session(), 0.0)
    opened(sessions, "secret")
    assert opened(sessions, "back").connection == 2


def test_a_browser_that_promised_no_resume_secret_cannot_come_back() -> None:
    sessions = table()
    sessions.offer(session(), 0.0)
    assert isinstance(sessions.open("secret", HERE, 1.0), Admitted)
    ended = sessions.lose("s1", 1, 5.0)
    assert ended is not None
    assert ended.why is End.LOST


def test_a_resume_secret_of_another_session_is_not_taken_over() -> None:
    sessions = table()
    sessions.offer(session("s1", "one"), 0.0)
    sessions.offer(session("s2", "two"), 0.0)
    opened(sessions, "one", resume="two")
    assert opened(sessions, "two").session.id == "s2"


def test_without_a_wait_a_lost_browser_is_the_end() -> None:
    sessions = table()
    sessions.offer(session(policy=Policy(resume=0.0)), 0.0)
    ended = sessions.lose("s1", opened(sessions, "secret").connection, 5.0)
    assert ended is not None
    assert ended.why is End.LOST


def test_coming_back_does_not_lengthen_the_life_of_a_session() -> None:
    sessions = table()
    sessions.offer(session(policy=Policy(lifetime=100.0)), 0.0)
    first = opened(sessions, "secret", 10.0)
    assert first.lifetime == 100.0
    sessions.lose("s1", 1, 60.0)
    second = opened(sessions, "back", 70.0, "again")
    assert second.lifetime == 40.0
    sessions.lose("s1", 2, 109.0)
    assert sessions.open("again", HERE, 110.0) is Refusal.EXPIRED


def test_the_cap_holds_and_does_not_use_up_the_secret() -> None:
    sessions = table(cap=1)
    sessions.offer(session("s1", "one"), 0.0)
    sessions.offer(session("s2", "two"), 0.0)
    opened(sessions, "one")
    assert sessions.open("two", HERE, 1.0) is Refusal.FULL
    sessions.lose("s1", 1, 2.0)
    assert sessions.open("two", HERE, 3.0) is Refusal.FULL  # it waits, and keeps its place
    assert opened(sessions, "back")
    sessions.end("s1", End.CLOSED, 4.0)
    assert opened(sessions, "two")


def test_who_guesses_is_slowed_down_and_nobody_else_is() -> None:
    sessions = table()
    sessions.offer(session(), 0.0)
    answers = [sessions.open(f"guess {number}", HERE, 1.0) for number in range(20)]
    assert answers.count(Refusal.UNKNOWN) == 10
    assert sessions.open("secret", HERE, 1.0) is Refusal.RATE
    assert isinstance(sessions.open("secret", ip_address("192.0.2.8"), 1.0), Admitted)


def test_a_drain_lets_open_sessions_come_back_and_no_new_one_in() -> None:
    sessions = table()
    sessions.offer(session("s1", "one"), 0.0)
    sessions.offer(session("s2", "two"), 0.0)
    opened(sessions, "one")
    (ended,) = sessions.drain(1.0)
    assert ended.live.session.id == "s2"
    assert sessions.open("two", HERE, 2.0) is Refusal.EXPIRED
    with pytest.raises(NotAllowed, match="draining"):
        sessions.offer(session("s3", "three"), 2.0)
    sessions.lose("s1", 1, 2.0)
    assert opened(sessions, "back")
    sessions.resume_service()
    assert sessions.offer(session("s3", "three"), 2.0)


def test_management_ends_a_session_at_any_time() -> None:
    sessions = table()
    sessions.offer(session(), 0.0)
    opened(sessions, "secret")
    ended = sessions.end("s1", End.REVOKED, 2.0)
    assert ended is not None
    assert sessions.open("back", HERE, 3.0) is Refusal.USED
    assert sessions.end("s1", End.REVOKED, 4.0) is None


def test_counters_are_over_all_connections() -> None:
    sessions = table()
    sessions.offer(session(), 0.0)
    opened(sessions, "secret")
    sessions.count("s1", 10, 100, 3.0)
    sessions.lose("s1", 1, 4.0)
    opened(sessions, "back", 5.0, "again")
    sessions.count("s1", 1, 2, 2.0)
    live = sessions.get("s1")
    assert live is not None
    assert (live.to_guest, live.from_guest, live.last_input) == (11, 102, 5.0)


def test_nothing_secret_is_in_what_is_printed() -> None:
    sessions = table()
    sessions.offer(session(), 0.0)
    admitted = opened(sessions, "secret")
    for shown in (repr(session()), repr(admitted), repr(sessions.get("s1"))):
        assert "hidden" not in shown
        assert repr(digest_of("back")) not in shown
        assert repr(session().digest) not in shown


@pytest.mark.parametrize(
    ("clipboard", "to_guest", "from_guest"),
    [
        (Clipboard.NONE, False, False),
        (Clipboard.BOTH, True, True),
        (Clipboard.TO_GUEST, True, False),
        (Clipboard.FROM_GUEST, False, True),
    ],
)
def test_the_clipboards_ways(clipboard: Clipboard, to_guest: bool, from_guest: bool) -> None:
    assert (clipboard.to_guest, clipboard.from_guest) == (to_guest, from_guest)


class Sessions(RuleBasedStateMachine):
    """Whatever management, browsers and time do, in any order."""

    secrets = Bundle("secrets")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.cap = 3
        self.table = table(self.cap)
        self.made = 0
        self.opened_with: set[str] = set()

    @rule(target=secrets, valid=st.sampled_from([1.0, 60.0]), resume=st.sampled_from([0.0, 30.0]))
    def offer(self, valid: float, resume: float) -> str:
        self.made += 1
        secret = f"offered-{self.made}"
        policy = Policy(resume=resume, lifetime=200.0)
        offered = replace(session(f"s{self.made}", secret, policy), valid=valid)
        try:
            self.table.offer(offered, self.now)
        except NotAllowed:
            assert self.table.draining
        return secret

    @rule(target=secrets, secret=secrets, source=st.integers(1, 4))
    def open(self, secret: str, source: int) -> str:
        self.made += 1
        back = f"resume-{self.made}"
        address = ip_address(f"198.51.100.{source}")
        answer = self.table.open(secret, address, self.now, digest_of(back))
        if isinstance(answer, Refusal):
            return "nothing"
        assert secret not in self.opened_with, "a secret opened twice"
        self.opened_with.add(secret)
        assert answer.lifetime is not None
        assert 0 < answer.lifetime <= 200.0
        return back

    @rule(number=st.integers(1, 12), back=st.integers(0, 1))
    def lose(self, number: int, back: int) -> None:
        live = self.table.get(f"s{number}")
        if live is not None:
            self.table.lose(f"s{number}", live.connections - back, self.now)

    @rule(number=st.integers(1, 12))
    def end(self, number: int) -> None:
        self.table.end(f"s{number}", End.REVOKED, self.now)
        assert self.table.get(f"s{number}") is None

    @rule(seconds=st.sampled_from([0.5, 5.0, 40.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.table.tick(self.now)
        for live in self.table:
            assert live.state is State.OPEN or live.deadline > self.now

    @rule(draining=st.booleans())
    def drain(self, draining: bool) -> None:
        if draining:
            self.table.drain(self.now)
        else:
            self.table.resume_service()

    @invariant()
    def the_cap_holds(self) -> None:
        assert self.table.held <= self.cap

    @invariant()
    def every_secret_that_opens_belongs_to_a_session_that_is_there(self) -> None:
        for live in self.table:
            assert (live.opened is None) == (live.state is State.OFFERED)


TestSessions = Sessions.TestCase
