"""Every path of the manager's endpoint, in one table: Flask's routes and OpenAPI are made of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.manager import access, bodies
from appliance.manager.access import NewToken, Role, TokenRow
from appliance.manager.assign import Capacity
from appliance.manager.audit import AuditRow
from appliance.manager.consoles import Ending, Opened
from appliance.manager.documents import Pushed
from appliance.manager.fleet import VmRow
from appliance.manager.happenings import EventRow
from appliance.manager.proxies import ProxyRow
from appliance.manager.screens import ScreenRow
from appliance.manager.sessions import SessionRow

LONGEST = 512 * 1024  # bytes of a body
LONGEST_DOCUMENT = 16 * 1024 * 1024
LONGEST_BLOB = 4 * 1024 * 1024
LONGEST_WAIT = 60  # seconds


@dataclass(frozen=True, slots=True)
class Query:
    """A parameter of the query."""

    name: str
    description: str
    kind: type = str  # str, int, bool
    default: Any = None
    least: int = 0
    most: int = 2**53
    pattern: str = r"[A-Za-z0-9][A-Za-z0-9 ._@:/+-]{0,127}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What was asked for is done."""

    result: str  # created, changed, unchanged, ended, revoked


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A path and a method. `path` has its parameters in braces."""

    method: str
    path: str
    operation: str
    summary: str
    roles: frozenset[Role]
    reply: Any
    body: Any = None
    query: tuple[Query, ...] = ()
    longest: int = LONGEST

    @property
    def changes(self) -> bool:
        """Does it change anything?"""
        return self.method != "GET"

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the path's parameters."""
        parts = self.path.split("/")
        return tuple(part[1:-1] for part in parts if part.startswith("{"))


# What a parameter of the path may be.
PARAMETERS: Mapping[str, str] = {
    "session": r"[0-9a-f]{32}",
    "screen": r"[A-Za-z0-9][A-Za-z0-9 ._@:+-]{0,127}",
    "proxy": r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}",
    "vm": r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}",
    "token": r"[0-9a-f]{16}",
    "blob": r"[0-9a-f]{64}",
}

_LIMIT = Query("limit", "How many, at most.", int, 100, 1, 1000)

ROUTES: tuple[Route, ...] = (
    # -- consoles
    Route(
        method="POST", path="/v1/console-sessions", operation="open_console",
        summary="Open a VM's console: the answer has a link, which opens once.",
        roles=access.OPENING, body=bodies.OpenConsole, reply=Opened,
    ),
    Route(
        method="GET", path="/v1/console-sessions", operation="get_consoles",
        summary="Sessions that are, or that were; a user sees his own.",
        roles=access.EVERYBODY, reply=tuple[SessionRow, ...],
        query=(
            Query("vm", "Of this VM."), Query("user", "Of this user."),
            Query("proxy", "At this proxy."),
            Query("ended", "Those that are over.", bool, default=False), _LIMIT,
        ),
    ),
    Route(
        method="GET", path="/v1/console-sessions/{session}", operation="get_console",
        summary="One session.", roles=access.EVERYBODY, reply=SessionRow,
    ),
    Route(
        method="DELETE", path="/v1/console-sessions/{session}", operation="end_console",
        summary="Disconnect a session; a user may end his own.",
        roles=access.TELLING | {Role.USER}, reply=SessionRow,
    ),
    Route(
        method="GET", path="/v1/screens", operation="get_screens",
        summary="The VMs whose screens are known.", roles=access.LOOKING,
        reply=tuple[ScreenRow, ...], query=(Query("after", "Behind this VM.", default=""), _LIMIT),
    ),
    Route(
        method="PUT", path="/v1/screens/{screen}", operation="put_screen",
        summary="Say where a VM's screen is, and whose it is.",
        roles=access.TELLING, body=bodies.PutScreen, reply=Done,
    ),
    Route(
        method="DELETE", path="/v1/screens/{screen}", operation="forget_screen",
        summary="Forget a VM's screen, and end its sessions.", roles=access.TELLING, reply=Done,
    ),
    # -- proxies
    Route(
        method="GET", path="/v1/proxies", operation="get_proxies",
        summary="The console proxies, with their load.", roles=access.LOOKING,
        reply=tuple[ProxyRow, ...],
    ),
    Route(
        method="PUT", path="/v1/proxies/{proxy}", operation="put_proxy",
        summary="Register a console proxy; it takes sessions as soon as it reports.",
        roles=access.TELLING, body=bodies.PutProxy, reply=ProxyRow,
    ),
    Route(
        method="DELETE", path="/v1/proxies/{proxy}", operation="forget_proxy",
        summary="Forget a console proxy that has no sessions.", roles=access.TELLING, reply=Done,
    ),
    Route(
        method="POST", path="/v1/proxies/{proxy}/drain", operation="drain_proxy",
        summary="Give it no sessions any more; the answer has those that end.",
        roles=access.OPERATING, body=bodies.Drain, reply=Ending,
    ),
    Route(
        method="DELETE", path="/v1/proxies/{proxy}/drain", operation="undrain_proxy",
        summary="Give it sessions again.", roles=access.OPERATING, reply=Ending,
    ),
    Route(
        method="POST", path="/v1/proxies/{proxy}/restart", operation="restart_proxy",
        summary="Restart its service; the answer has the sessions that end.",
        roles=access.OPERATING, reply=Ending,
    ),
    Route(
        method="GET", path="/v1/capacity", operation="get_capacity",
        summary="The zones' room for sessions, and how many proxies should run.",
        roles=access.LOOKING, reply=tuple[Capacity, ...],
        query=(
            Query("standby", "Sessions that are to find room at any time.", int, 10, 0, 100_000),
        ),
    ),
    Route(
        method="PUT", path="/v1/certificates", operation="put_certificates",
        summary="Give every console proxy these certificates; the answer says how each took them.",
        roles=access.OPERATING, body=bodies.Certificates, reply=tuple[Pushed, ...],
    ),
    # -- VMs
    Route(
        method="GET", path="/v1/vms", operation="get_vms", summary="The VMs, by name.",
        roles=access.LOOKING, reply=tuple[VmRow, ...],
        query=(
            Query("after", "Behind this one.", default=""), Query("role", "Of this role."),
            Query("zone", "In this zone."), _LIMIT,
        ),
    ),
    Route(
        method="GET", path="/v1/vms/{vm}", operation="get_vm", summary="One VM.",
        roles=access.LOOKING, reply=VmRow,
    ),
    Route(
        method="PUT", path="/v1/vms/{vm}", operation="put_vm", summary="Register a VM.",
        roles=access.TELLING, body=bodies.PutVm, reply=VmRow,
    ),
    Route(
        method="DELETE", path="/v1/vms/{vm}", operation="forget_vm",
        summary="Forget a VM, and its document.", roles=access.TELLING, reply=Done,
    ),
    Route(
        method="POST", path="/v1/vms/{vm}/look", operation="look_at_vm",
        summary="Ask its agent which version it is.", roles=access.LOOKING, reply=VmRow,
    ),
    Route(
        method="PUT", path="/v1/vms/{vm}/document", operation="push_document",
        summary="Push a document, and keep it. A VM that is too old is refused, and serves on.",
        roles=access.TELLING, reply=Pushed, longest=LONGEST_DOCUMENT,
        query=(
            Query("force", "Whatever its agent's version.", bool, default=False),
            Query("dry_run", "Ask what would change.", bool, default=False),
        ),
    ),
    Route(
        method="PUT", path="/v1/blobs/{blob}", operation="put_blob",
        summary="Keep what documents name by this SHA-256; it goes to each VM before they do.",
        roles=access.TELLING, reply=Done, longest=LONGEST_BLOB,
    ),
    Route(
        method="POST", path="/v1/vms/{vm}/recreate", operation="recreate_vm",
        summary="Push the document that is kept to a VM that was made anew.",
        roles=access.TELLING, reply=Pushed,
        query=(Query("within", "Seconds that its agent has to answer.", int, 120, 0, 300),),
    ),
    Route(
        method="GET", path="/v1/events", operation="get_events",
        summary="Events of all VMs, and the manager's own; without `after`, the last ones.",
        roles=access.LOOKING, reply=tuple[EventRow, ...],
        query=(
            Query("after", "Behind this number.", int), Query("vm", "Of this VM."),
            Query("severity", "Of this severity."),
            Query("wait", "Seconds to wait for one.", int, 0, 0, LONGEST_WAIT), _LIMIT,
        ),
    ),
    # -- access
    Route(
        method="GET", path="/v1/tokens", operation="get_tokens",
        summary="All tokens, without what they are.", roles=access.OPERATING,
        reply=tuple[TokenRow, ...],
    ),
    Route(
        method="POST", path="/v1/tokens", operation="make_token",
        summary="Make a token, which is told this once. The cloud makes users' tokens.",
        roles=access.TELLING, body=bodies.MakeToken, reply=NewToken,
    ),
    Route(
        method="DELETE", path="/v1/tokens/{token}", operation="revoke_token",
        summary="Let a token open nothing any more.", roles=access.OPERATING, reply=Done,
    ),
    Route(
        method="GET", path="/v1/audit", operation="get_audit",
        summary="Calls, the newest first.", roles=access.OPERATING, reply=tuple[AuditRow, ...],
        query=(Query("before", "Below this number.", int), _LIMIT),
    ),
)  # fmt: skip
