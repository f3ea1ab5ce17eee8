"""charon, strongSwan's key exchange daemon, over vici: load, unload and list connections.

Nothing is written in strongSwan's own files. A connection is a message (swanctl.conf(5) has its
words), with its secrets beside it. charon cannot be asked for all of a connection again, proposals
and secrets least of all; so it is told the connection's digest too, as the name of a secret, and
that name it tells back.

`python -m agent.system.vici` loads what the running revision wants: charon's unit does that
whenever it starts, whether the agent lives or not.
"""

import base64
import json
import logging
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.engine.host import StepFailed
from agent.engine.model import Connection
from agent.monitor.events import NOWHERE, Event, Kind, Recorder
from agent.system.paths import Paths

SOCKET = Path("/run/charon.vici")
# Where a revision keeps what charon is to be told when it starts; agent.services.ipsec fills it.
FILE = "ipsec/connections.json"

_MARK = "sysvm"  # begins the names of our secrets
_TIMEOUT = 10.0  # seconds
_GOODBYE = 500  # milliseconds that a peer has to answer that a tunnel ends
_LONGEST_PAUSE = 5.0  # seconds between two looks whether charon runs
_SHORTEST_PAUSE = 0.02
_SOON = 10.0  # seconds that a start may take
_MOMENT = 1.0  # seconds
_REMEMBERED = 20  # refusals of handshakes that belong to no connection

log = logging.getLogger(__name__)

Message = Mapping[str, Any]


class CharonFailed(Exception):
    """charon cannot be asked, or said no; the text is its own."""

    retryable = True


@dataclass(frozen=True, slots=True)
class Charon:
    """The daemon behind its socket, which is there as long as the daemon runs."""

    path: Path = SOCKET
    paths: Paths = field(default_factory=Paths)

    def connections(self) -> Mapping[str, str]:
        """Digests of the connections that are loaded, by name; empty where charon does not run.

        A connection that somebody else has loaded has no digest. Raises StepFailed.
        """
        try:
            with self._session() as session:
                return {} if session is None else _loaded(session)
        except CharonFailed as error:
            raise StepFailed("read connections", str(error)) from error

    def load(self, connection: Connection) -> None:
        """Have charon hold this connection; what it held by that name ends. Raises StepFailed."""
        try:
            with self._session() as session:
                if session is None:
                    raise CharonFailed("charon does not run")
                content = json.loads(connection.content)
                _load(session, connection.name, connection.digest, content, self.paths)
        except CharonFailed as error:
            where = f"load connection {connection.name}"
            raise StepFailed(where, str(error), connection.path) from error

    def unload(self, name: str) -> None:
        """End a connection and its tunnel; fine where there is none. Raises StepFailed."""
        try:
            with self._session() as session:
                if session is not None and _unload(session, name):
                    _forget_removed(session, _running(self.paths))
        except CharonFailed as error:
            raise StepFailed(f"unload connection {name}", str(error)) from error

    def associations(self) -> tuple[tuple[str, Message], ...]:
        """IKE SAs, each with its connection's name, as vici's `list-sas` has them.

        Raises CharonFailed.
        """
        with self._session() as session:
            if session is None:
                return ()
            return tuple(
                (name, _text(body)) for item in session.list_sas() for name, body in item.items()
            )

    def version(self, timeout: float) -> None:
        """Have charon say its version. Raises CharonFailed, also where it does not run."""
        with self._session(timeout) as session:
            if session is None:
                raise CharonFailed("charon does not run")
            session.version()

    @contextmanager
    def _session(self, timeout: float = _TIMEOUT) -> Iterator[Any]:
        """A session, or None where nobody listens."""
        if not self.path.exists():
            yield None
            return
        from vici import Session
        from vici.exception import CommandException, SessionException

        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(timeout)
            try:
                peer.connect(str(self.path))
            except (ConnectionRefusedError, FileNotFoundError):
                yield None
                return
            except OSError as error:
                raise CharonFailed(f"{self.path}: {error}") from error
            try:
                yield Session(peer)
            except CommandException as error:
                raise CharonFailed(str(error).removeprefix("Command failed: ")) from error
            except (SessionException, OSError) as error:
                raise CharonFailed(f"{self.path}: {error}") from error


def _loaded(session: Any) -> dict[str, str]:
    names = [name for item in session.list_conns() for name in item]
    if not names:
        return {}
    marks = [one.split(":") for one in _text(session.get_shared().get("keys", []))]
    digests = {one[1]: one[2] for one in marks if len(one) == 3 and one[0] == _MARK}
    return {name: digests.get(name, "") for name in names}


def _load(session: Any, name: str, digest: str, content: Message, paths: Paths) -> None:
    if _loaded(session).get(name) == digest:
        return
    changed = _unload(session, name)
    if content["crl"] is not None:
        _forget_credentials(session, _running(paths))
    elif changed:
        _forget_removed(session, _running(paths), content)
    _load_credentials(session, name, digest, content)
    session.load_conn({name: content["connection"]})


def _load_credentials(session: Any, name: str, digest: str, content: Message) -> None:
    """Certificates of a connection are part of it too; without it, they are these."""
    for flag, certificate in _certificates(content):
        session.load_cert({"type": "X509", "flag": flag, "data": certificate})
    if content["key"] is not None:
        session.load_key({"type": "any", "data": content["key"]})
    if content["crl"] is not None:
        session.load_cert({"type": "X509_CRL", "flag": "NONE", "data": content["crl"]})
    session.load_shared({"id": f"{_MARK}:{name}:{digest}", **content["secret"]})


def _certificates(content: Message) -> Iterator[tuple[str, str]]:
    """A connection's certificates, each with what charon takes it for."""
    ends = content["connection"]
    for certificate in ends["remote"].get("cacerts", []):
        yield "CA", certificate
    for certificate in ends["local"].get("certs", []):
        yield "NONE", certificate


def _forget_removed(session: Any, others: Sequence[Message], *new: Message) -> None:
    """Have charon trust no CA, and hold no certificate or key, that no connection has any more.

    It keeps what a connection has brought, whether the connection is there or not. `others` are
    what it may hold besides, `new` what it is about to be told.
    """
    session.flush_certs()  # what it remembers of peers
    held = {bytes(one["data"]) for one in session.list_certs({"type": "X509"})}
    if not held:
        return
    contents = [*(one["content"] for one in _those_loaded(session, others)), *new]
    wanted = {_der(pem) for content in contents for _, pem in _certificates(content)}
    if held - wanted:
        _forget_credentials(session, others)


def _der(pem: str) -> bytes:
    return base64.b64decode("".join(pem.split("-----")[2].split()))


def _those_loaded(session: Any, several: Sequence[Message]) -> list[Message]:
    marks = set(_text(session.get_shared().get("keys", [])))
    return [one for one in several if f"{_MARK}:{one['name']}:{one['digest']}" in marks]


def _forget_credentials(session: Any, others: Sequence[Message]) -> None:
    """Have charon forget what it has, and load again what other connections have.

    It cannot forget a single revocation list, and takes the first that it finds, not the newest
    (strongSwan 6.0.1, revocation_validator.c: "using cached crl").
    """
    loaded = _those_loaded(session, others)
    session.clear_creds()
    session.flush_certs()
    for one in loaded:
        _load_credentials(session, one["name"], one["digest"], one["content"])


def _running(paths: Paths) -> list[Message]:
    """What the running revision wants of charon: rows of name, digest and content."""
    try:
        rows: list[Message] = json.loads((paths.current / FILE).read_bytes())
    except FileNotFoundError:
        return []  # the document wants none
    return rows


def _unload(session: Any, name: str) -> bool:
    """Whether charon knew it. The connection goes first, so that nothing starts its tunnel again;
    the secrets last."""
    known = False
    if name in {one for item in session.list_conns() for one in item}:
        session.unload_conn({"name": name})
        known = True
    if _associated(session, name):
        _terminate(session, name)
    for one in _text(session.get_shared().get("keys", [])):
        if one.startswith(f"{_MARK}:{name}:"):
            session.unload_shared({"id": one})
            known = True
    return known


def _associated(session: Any, name: str) -> bool:
    return bool(list(session.list_sas({"ike": name, "noblock": "yes"})))


def _terminate(session: Any, name: str) -> None:
    from vici.exception import CommandException

    try:
        for _ in session.terminate({"ike": name, "force": "yes", "timeout": str(_GOODBYE)}):
            pass
    except CommandException:
        if _associated(session, name):  # else it has ended by itself, for it was unloaded
            raise


def _text(value: Any) -> Any:
    """vici's bytes as text."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, Mapping):
        return {key: _text(one) for key, one in value.items()}
    return [_text(one) for one in value]


# -- what happens --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refusal:
    """A handshake that came to nothing; `connection` is empty where it belongs to none of ours."""

    at: float  # seconds since the epoch
    connection: str
    reason: str  # in words of ours, for a person
    said: str  # charon's own
    attempt: str  # charon's number of the IKE SA


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What has become of a CHILD_SA since the agent began to listen."""

    up_since: float | None = None  # seconds since the epoch
    rekeyed: float | None = None


# What charon says when a handshake fails (IKE and CFG groups, level 1), most telling first.
_REASONS: tuple[tuple[str, str], ...] = (
    ("but MAC mismatched", "authentication failed: the peer's pre-shared key is another"),
    ("could not decrypt payloads", "authentication failed: the pre-shared keys differ"),
    ("decryption failed", "authentication failed: the pre-shared keys differ"),
    ("invalid HASH_V1 payload", "authentication failed: the pre-shared keys differ"),
    ("AUTHENTICATION_FAILED", "authentication failed: the peer refused key or identity"),
    ("no shared key found", "authentication failed: there is no key for these identities"),
    ("no private key found", "authentication failed: no private key for the certificate"),
    ("certificate was revoked", "authentication failed: the peer's certificate is revoked"),
    ("is revoked", "authentication failed: the peer's certificate is revoked"),
    ("certificate is not valid", "authentication failed: the peer's certificate is not valid now"),
    ("no issuer certificate found", "authentication failed: the CA does not know the peer"),
    ("no trusted", "authentication failed: the peer's certificate is not trusted"),
    ("constraint check failed", "authentication failed: the peer is not who it has to be"),
    ("no matching peer config found", "no connection for the identities that the peer gave"),
    ("NO_PROPOSAL_CHOSEN", "no proposal chosen: both ends have no algorithms in common"),
    ("no acceptable proposal found", "no proposal chosen: no algorithms in common"),
    ("no acceptable traffic selectors", "traffic selectors: the peer has other subnets"),
    ("TS_UNACCEPTABLE", "traffic selectors: the peer has other subnets"),
    ("traffic selectors unacceptable", "traffic selectors: the peer has other subnets"),
    ("INVALID_ID_INFORMATION", "traffic selectors: the peer has other subnets or identities"),
    ("giving up after", "no answer from the peer"),
    ("peer not responding", "no answer from the peer"),
    ("unable to resolve", "the peer's name cannot be resolved"),
    ("unable to install", "the kernel does not take it"),
    ("no IKE config found", "no connection for the peer's address"),
    ("received INVALID_", "the peer does not understand"),
)


_REMOVED = "removed vici connection: "
_KNOCKS = "looking for "  # says whom a handshake came from, with identities
_UNNAMED = "(unnamed)"  # a handshake that belongs to no connection yet


class Listener:
    """Hears from charon how connections fare; `run` is a thread's, blocked on the socket."""

    def __init__(self, path: Path = SOCKET, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now
        self._mutex = threading.Lock()
        self._awake = threading.Event()
        self._knock = ""
        self._failed: dict[str, Refusal] = {}
        self._tunnels: dict[tuple[str, str], Tunnel] = {}
        self._refusals: deque[Refusal] = deque(maxlen=_REMEMBERED)
        self._there: dict[tuple[str, str], set[str]] = {}  # charon's numbers of what is up
        self._removed: set[str] = set()  # connections that the document no longer wants
        self._events: Recorder = NOWHERE

    def tell(self, events: Recorder) -> None:
        """Record tunnels that go down and come up."""
        self._events = events

    def failures(self) -> Mapping[str, Refusal]:
        """Why connections do not come up, by name; none since they last did."""
        with self._mutex:
            return dict(self._failed)

    def tunnels(self) -> Mapping[tuple[str, str], Tunnel]:
        """What is known of tunnels, by connection and child."""
        with self._mutex:
            return dict(self._tunnels)

    def strangers(self) -> tuple[Refusal, ...]:
        """Handshakes that were refused and belong to no connection of ours, the last one first."""
        with self._mutex:
            return tuple(reversed(self._refusals))

    def wake(self) -> None:
        """charon may be about to start."""
        self._awake.set()

    def run(self, stop: threading.Event) -> None:
        """Listen for as long as charon runs, and again when it does again.

        A charon that has just started fails, if it does, at once: so it is looked for often for
        some seconds after one has gone, or was announced, and now and then at other times.
        """
        often = 0.0
        while not stop.is_set():
            if self._path.exists():
                try:
                    self._listen(stop)
                    often = time.monotonic() + _SOON
                except (CharonFailed, OSError) as error:
                    log.debug("charon is not heard: %s", error)
            if time.monotonic() < often:
                stop.wait(_SHORTEST_PAUSE)
            elif self._awake.wait(_LONGEST_PAUSE):
                self._awake.clear()
                often = time.monotonic() + _SOON

    def _listen(self, stop: threading.Event) -> None:
        from vici import Session
        from vici.exception import SessionException

        with self._mutex:
            self._there.clear()  # another charon counts anew
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(self._path))
            try:
                for kind, message in Session(peer).listen(
                    ["log", "ike-updown", "child-updown", "child-rekey"]
                ):
                    if stop.is_set():
                        return
                    self.hear(_text(kind), _text(message))
            except (SessionException, OSError) as error:
                log.debug("charon is not heard any more: %s", error)

    def hear(self, kind: str, message: Message) -> None:
        """One event."""
        found: list[Event] = []
        with self._mutex:
            match kind:
                case "log":
                    self._logged(message)
                case "child-updown":
                    found += self._came_or_went(message)
                case "child-rekey":
                    self._rekeyed(message)
        for event in found:
            self._events.record(event)

    def _logged(self, message: Message) -> None:
        said = str(message.get("msg", ""))
        if said.startswith(_REMOVED):
            name = said.removeprefix(_REMOVED)
            self._failed.pop(name, None)
            self._removed.add(name)
            return
        if said.startswith(_KNOCKS):
            self._knock = said
        reason = next((reason for words, reason in _REASONS if words in said), None)
        if reason is None:
            return
        name = str(message.get("ikesa-name", _UNNAMED))
        attempt = str(message.get("ikesa-uniqueid", ""))
        refusal = Refusal(self._now(), name, reason, said, attempt)
        if name == _UNNAMED:
            self._refusals.append(replace(refusal, connection="", said=self._knock or said))
            return
        before = self._failed.get(name)
        # The first line of a failure is the telling one: what is said of the same attempt within
        # a moment follows from it.
        if before is None or before.attempt != attempt or refusal.at - before.at > _MOMENT:
            self._failed[name] = refusal

    def _came_or_went(self, message: Message) -> Iterator[Event]:
        up = message.get("up") == "yes"
        for name, child, association in _children(message):
            known = (name, child) in self._tunnels
            tunnel = self._tunnels.get((name, child), Tunnel())
            there = self._there.setdefault((name, child), set())
            number = str(association.get("uniqueid", ""))
            if up:
                there.add(number)
            else:
                there.discard(number)
            # The one before may go only after the new one is up.
            since = tunnel.up_since if there else None
            self._tunnels[name, child] = replace(tunnel, up_since=self._now() if up else since)
            if up:
                self._failed.pop(name, None)
                self._removed.discard(name)
                if tunnel.up_since is None:
                    yield _tunnel_event(Kind.TUNNEL_UP, name, child)
            elif not there and (tunnel.up_since or not known) and name not in self._removed:
                failure = self._failed.get(name)
                reason = failure.reason if failure else ""
                yield _tunnel_event(Kind.TUNNEL_DOWN, name, child, reason)

    def _rekeyed(self, message: Message) -> None:
        now = self._now()
        for name, child, association in _children(message):
            there = self._there.setdefault((name, child), set())
            there.discard(str(association.get("old", {}).get("uniqueid", "")))
            there.add(str(association.get("new", {}).get("uniqueid", "")))
            tunnel = self._tunnels.get((name, child))
            if tunnel is None or tunnel.up_since is None:  # it came up before we listened
                age = int(association.get("old", {}).get("install-time", 0))
                tunnel = Tunnel(up_since=now - age)
            self._tunnels[name, child] = replace(tunnel, rekeyed=now)


def _tunnel_event(kind: Kind, name: str, child: str, reason: str = "") -> Event:
    state = "up" if kind is Kind.TUNNEL_UP else "down"
    data = {"connection": name, "child": child}
    if kind is Kind.TUNNEL_DOWN:
        data["reason"] = reason
    return Event(
        kind=kind,
        subject=f"{name}/{child}",
        message=f"tunnel {child} of {name} is {state}" + (f": {reason}" if reason else ""),
        data={**data},
    )


def _children(message: Message) -> Iterator[tuple[str, str, Message]]:
    """Connection, child and the child itself, of an event; a rekeying has an old and a new one."""
    for name, ike in message.items():
        if isinstance(ike, Mapping):
            for key, child in ike.get("child-sas", {}).items():
                new = child.get("new", {})
                yield name, str(child.get("name", new.get("name", key))), child


# -- when charon starts ----------------------------------------------------------------------------


def load_running(paths: Paths, charon: Charon) -> int:
    """Load what the running revision wants; how many it did not take. Each is worth its own try."""
    failed = 0
    for row in _running(paths):
        connection = Connection(row["name"], row["digest"], json.dumps(row["content"]).encode())
        try:
            charon.load(connection)
        except StepFailed as error:
            log.error("%s", error)
            failed += 1
    return failed


def main() -> int:
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    load_running(Paths(), Charon())
    return 0  # a connection that charon refuses is no reason to end the others


if __name__ == "__main__":
    sys.exit(main())
