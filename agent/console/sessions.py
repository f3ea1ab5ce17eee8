"""Sessions: who may see which screen, how long, and what may pass.

Management makes a session and gives its secret to the user's browser and only its SHA-256 to the
proxy: what the proxy holds opens nothing. A secret opens once. A browser that loses its connection
comes back with a resume secret, which it makes itself for each opening, and of which the proxy is
told the SHA-256 alone; it works once as well.

    offered --open--> open --lost--> waiting --open with the resume secret--> open
       |                |               |
       +--expires-------+--closed-------+--nobody came back--> gone

Nothing here knows a clock: `now` is monotonic seconds, and the caller's.
"""

import enum
import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from agent.console.limits import Buckets, Rate, source_key
from agent.console.targets import Address, Network, Target, TargetRules, objection

SECRET_LENGTH = 43  # 256 bits in base64url without padding
_FAILURES = Rate(per_second=0.2, burst=10)  # wrong secrets of one source
_REMEMBERED = 600.0  # seconds that a secret that was used is told from one that never was
_SPENT = 8192  # such secrets, at most


class Clipboard(enum.StrEnum):
    """Which way text may go."""

    NONE = "none"
    TO_GUEST = "to-guest"
    FROM_GUEST = "from-guest"
    BOTH = "both"

    @property
    def to_guest(self) -> bool:
        return self in {Clipboard.TO_GUEST, Clipboard.BOTH}

    @property
    def from_guest(self) -> bool:
        return self in {Clipboard.FROM_GUEST, Clipboard.BOTH}


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What the proxy shows the hypervisor on the user's behalf; PEM where it is a certificate."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    ca: str = field(default="", repr=False)  # whom the hypervisor's certificate has to come from
    certificate: str = field(default="", repr=False)  # the proxy's own towards the hypervisor
    key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a session may do; seconds, 0 for no limit."""

    view_only: bool = False
    clipboard: Clipboard = Clipboard.BOTH
    source: Network | None = None  # where the browser has to come from
    idle: float = 1800.0  # without anything from the user and from the screen
    lifetime: float = 43200.0  # from the first opening
    resume: float = 60.0  # how long a lost browser is waited for
    keyboard: str = ""  # of the guest, where the page is to know it


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One user's view of one VM, as management made it. `digest` is its secret's SHA-256."""

    id: str
    digest: bytes = field(repr=False)
    vm: str
    user: str
    title: str
    target: Target
    credentials: Credentials = field(default_factory=Credentials, repr=False)
    policy: Policy = field(default_factory=Policy)
    valid: float = 60.0  # seconds that the secret waits for the browser


class State(enum.StrEnum):
    """Where a session is; what is gone is not kept."""

    OFFERED = "offered"
    OPEN = "open"
    WAITING = "waiting"  # the browser is lost, and may come back


class Refusal(enum.Enum):
    """Why a browser does not get in: the log's words, and those for the user.

    Whether a secret never was, was used or is over is the log's affair: who guesses learns nothing.
    """

    UNKNOWN = (
        "unknown secret",
        "This console link is not valid (any more). Open the console again.",
    )
    USED = ("secret used before", UNKNOWN[1])
    EXPIRED = ("secret expired", UNKNOWN[1])
    SOURCE = ("foreign address", UNKNOWN[1])
    RATE = (
        "too many wrong secrets",
        "Too many attempts. Wait a minute, then open the console again.",
    )
    FULL = ("proxy is full", "This console proxy is full. Open the console again in a while.")
    DRAINING = (
        "proxy is draining",
        "This console proxy is being replaced. Open the console again.",
    )

    @property
    def logged(self) -> str:
        return str(self.value[0])

    @property
    def told(self) -> str:
        return str(self.value[1])


class End(enum.StrEnum):
    """Why a session is over."""

    CLOSED = "closed by the user"
    LOST = "the browser went away and did not come back"
    EXPIRED = "nobody opened it in time"
    IDLE = "idle for too long"
    LIFETIME = "open for as long as it may be"
    REVOKED = "ended by management"
    DRAINED = "the proxy was drained"
    REFUSED_BY_SCREEN = "the hypervisor refused it"
    SCREEN_GONE = "the hypervisor closed it"
    FAULT = "the browser broke the protocol"
    HANDED_OVER = "opened through another proxy"


class NotAllowed(ValueError):
    """The session cannot be had: its target is none, or its id is in use for another one."""


@dataclass(slots=True)
class Live:
    """What became of a session so far; counters are over all of its connections."""

    session: Session
    state: State
    deadline: float  # of the offer, or of the wait for a lost browser
    source: Address | None = None
    created: float = 0.0
    opened: float | None = None  # the first time
    last_input: float | None = None
    to_guest: int = 0  # bytes
    from_guest: int = 0
    connections: int = 0
    resume_digest: bytes = field(default=b"", repr=False)

    def lifetime_left(self, now: float) -> float | None:
        """Seconds until it has been open for as long as it may be; None without a limit."""
        if not self.session.policy.lifetime:
            return None
        begun = now if self.opened is None else self.opened
        return max(0.0, begun + self.session.policy.lifetime - now)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A browser is in: bridge it, and end it when the time is over."""

    session: Session
    lifetime: float | None  # seconds left
    connection: int  # of this session; the one before it, if it is still there, is over


@dataclass(frozen=True, slots=True)
class Ended:
    """A session that is over."""

    live: Live
    why: End


def digest_of(secret: str) -> bytes:
    """What the proxy knows of a secret."""
    return hashlib.sha256(secret.encode()).digest()


class Table:
    """The sessions of one proxy. Every change is one call; nothing here waits or raises midway."""

    def __init__(self, rules: TargetRules, cap: int, offers: int = 4096) -> None:
        self.rules = rules
        self.cap = cap  # sessions that are open, or wait for their browser
        self.draining = False
        self._offers = offers  # sessions that nobody has opened yet, at most
        self._live: dict[str, Live] = {}
        self._by_digest: dict[bytes, str] = {}
        self._spent: dict[bytes, tuple[Refusal, float]] = {}  # and until when it is remembered
        self._failures = Buckets(_FAILURES)

    def __iter__(self) -> Iterator[Live]:
        return iter(self._live.values())

    def __len__(self) -> int:
        return len(self._live)

    def get(self, name: str) -> Live | None:
        return self._live.get(name)

    @property
    def held(self) -> int:
        """Sessions that count against the cap."""
        return sum(live.state is not State.OFFERED for live in self._live.values())

    # -- management ---------------------------------------------------------------------------

    def offer(self, session: Session, now: float) -> bool:
        """Take a session in; was it new? The same one again changes nothing.

        Raises NotAllowed.
        """
        known = self._live.get(session.id)
        if known is not None:
            if known.session == session:
                return False
            raise NotAllowed(f"session {session.id} is there already, and is another one")
        if reason := objection(session.target, self.rules):
            raise NotAllowed(reason)
        if self.draining:
            raise NotAllowed(Refusal.DRAINING.logged)
        if session.digest in self._by_digest or session.digest in self._spent:
            raise NotAllowed("the secret belongs to another session, or did")
        if len(self._live) - self.held >= self._offers:
            raise NotAllowed(f"{self._offers} sessions wait to be opened")
        self._live[session.id] = Live(
            session, State.OFFERED, deadline=now + session.valid, created=now
        )
        self._by_digest[session.digest] = session.id
        return True

    def move(self, session: Session) -> Live | None:
        """The screen is elsewhere now: what is the same but for that is the session from now on.

        None where it is no such. Its browser, if one is there, is still at the old screen.
        Raises NotAllowed.
        """
        live = self._live.get(session.id)
        if live is None or live.session == session:
            return None
        known = live.session
        if session != replace(known, target=session.target, credentials=session.credentials):
            return None
        if reason := objection(session.target, self.rules):
            raise NotAllowed(reason)
        live.session = session
        return live

    def drain(self, now: float) -> tuple[Ended, ...]:
        """Take no session any more; those that nobody has opened end. Open ones go on."""
        self.draining = True
        offered = [live.session.id for live in self if live.state is State.OFFERED]
        ended = [self.end(name, End.DRAINED, now) for name in offered]
        return tuple(one for one in ended if one is not None)

    def resume_service(self) -> None:
        """Take sessions again."""
        self.draining = False

    # -- browsers -----------------------------------------------------------------------------

    def open(
        self, secret: str, source: Address, now: float, resume: bytes = b""
    ) -> Admitted | Refusal:
        """Let a browser in with a secret, which from now on opens nothing.

        `resume` is the SHA-256 of what it will come back with; without, it cannot come back.
        """
        key = source_key(source)
        if self._failures.level(key, now) < 1:
            return Refusal.RATE
        found = self._find(digest_of(secret), source, now)
        if isinstance(found, Refusal):
            if found not in {Refusal.FULL, Refusal.DRAINING}:
                self._failures.take(key, now)
            return found
        live = found
        self._spend(live, Refusal.USED, now)
        live.resume_digest = b"" if resume in self._by_digest or resume in self._spent else resume
        live.state = State.OPEN
        live.source = source
        live.opened = now if live.opened is None else live.opened
        live.last_input = now
        live.connections += 1
        if live.resume_digest:
            self._by_digest[live.resume_digest] = live.session.id
        return Admitted(live.session, live.lifetime_left(now), live.connections)

    def _find(self, digest: bytes, source: Address, now: float) -> Live | Refusal:
        name = self._by_digest.get(digest)
        if name is None:
            return self._spent.get(digest, (Refusal.UNKNOWN, 0.0))[0]
        live = self._live[name]
        first = live.state is State.OFFERED
        if not hmac.compare_digest(digest, live.session.digest if first else live.resume_digest):
            return Refusal.USED
        policy = live.session.policy
        if policy.source is not None and source not in policy.source:
            return Refusal.SOURCE
        if live.state is not State.OPEN and now >= live.deadline:
            return Refusal.EXPIRED
        if live.lifetime_left(now) == 0:
            return Refusal.EXPIRED
        if self.draining and first:
            return Refusal.DRAINING
        if first and self.held >= self.cap:
            return Refusal.FULL
        return live

    def count(self, name: str, to_guest: int, from_guest: int, last_input: float) -> None:
        """Add what went through since the last time."""
        live = self._live.get(name)
        if live is not None:
            live.to_guest += to_guest
            live.from_guest += from_guest
            live.last_input = max(live.last_input or last_input, last_input)

    def lose(self, name: str, connection: int, now: float) -> Ended | None:
        """A connection is lost; the browser may come back for a while.

        Where it has come back already, by another connection, nothing is lost.
        """
        live = self._live.get(name)
        if live is None or live.state is not State.OPEN or live.connections != connection:
            return None
        if not live.session.policy.resume or not live.resume_digest:
            return self.end(name, End.LOST, now)
        live.state = State.WAITING
        live.deadline = now + live.session.policy.resume
        return None

    def end(self, name: str, why: End, now: float) -> Ended | None:
        """A session is over, whatever its state; None where it was already."""
        live = self._live.pop(name, None)
        if live is None:
            return None
        self._spend(live, Refusal.USED if live.opened is not None else Refusal.EXPIRED, now)
        return Ended(live, why)

    def tick(self, now: float) -> tuple[Ended, ...]:
        """End what nobody opened or came back to in time; call it every second or so."""
        ended = []
        for live in list(self._live.values()):
            if live.state is not State.OPEN and now >= live.deadline:
                why = End.EXPIRED if live.state is State.OFFERED else End.LOST
                ended.append(self.end(live.session.id, why, now))
        for digest, (_, until) in list(self._spent.items()):
            if now >= until:
                del self._spent[digest]
        return tuple(one for one in ended if one is not None)

    def _spend(self, live: Live, refusal: Refusal, now: float) -> None:
        """The secret that would have opened this session next opens nothing any more.

        It is remembered for ten minutes, so that the log can say what was wrong with it.
        """
        for digest in (live.session.digest, live.resume_digest):
            if self._by_digest.pop(digest, None) is not None:
                self._spent[digest] = (refusal, now + _REMEMBERED)
        while len(self._spent) > _SPENT:
            del self._spent[next(iter(self._spent))]
