"""Every path of the endpoint, in one table: Flask's routes and /v1/openapi.json are made of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.api import events
from agent.api import problems as p
from agent.api.answers import (
    Acknowledged,
    Blob,
    Changed,
    Drift,
    Events,
    LegacyRules,
    Log,
    Planned,
    Revisions,
    RevisionWithDocument,
)
from agent.api.consoles import Accepted, ConsoleReport, ConsoleRow, Consoles
from agent.api.diagnostics import Diagnosis
from agent.api.ports import BalancerRow
from agent.api.problems import Kind
from agent.api.services import LONGEST_HOLD, LONGEST_REASON
from agent.api.show import (
    DhcpRow,
    DnsRow,
    InterfaceRow,
    NatRow,
    RouteRow,
    RuleRow,
    ServiceRow,
    VpnRow,
)
from agent.api.status import Status
from agent.api.streams import GZIP, SERVER_SENT_EVENTS
from agent.diagnostics import capture
from agent.diagnostics.capture import MEDIA_TYPE as PCAP
from agent.diagnostics.requests import DEFAULT_SECONDS, LONGEST_SECONDS, TOOLS
from agent.monitor.events import Severity
from agent.monitor.health import Level, Report, Result
from agent.monitor.rows import EventRow

LONGEST_DOCUMENT = 16 * 1024 * 1024  # bytes
LONGEST_BLOB = 4 * 1024 * 1024  # bytes
LONGEST_SESSION = 512 * 1024  # bytes
LONGEST_WAIT = 3600  # seconds that a provisional revision may wait for its confirm

DOCUMENT = {"$ref": "/v1/schema"}
CONSOLE_SESSION = {"$ref": "#/components/schemas/ConsoleSession"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A part of the path, the query or the header."""

    name: str
    schema: Mapping[str, Any]
    description: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """What a request carries."""

    media_type: str
    schema: Mapping[str, Any]
    description: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class Reply:
    """A success: its status and what is in it (a type of ours, a JSON Schema, or bytes).

    Of a stream of lines or events, `content` is the type of each, and `media_type` theirs.
    """

    status: int
    description: str
    content: Any = None
    media_type: str | None = None  # by default JSON's, or octet-stream for bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path; `operation` is the name of the function that answers it."""

    method: str
    path: str
    operation: str
    summary: str
    replies: tuple[Reply, ...]
    kinds: tuple[Kind, ...] = ()
    path_parameters: tuple[Parameter, ...] = ()
    query: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    body: Body | None = None
    longest: int = LONGEST_DOCUMENT  # bytes of body
    only_asks: bool = False  # though its method is POST

    @property
    def changes(self) -> bool:
        """Does it change something? Then it leaves a line in the log."""
        return not self.only_asks and self.method not in {"GET", "HEAD"}


FLAG = {"type": "string", "enum": ["0", "1", "false", "true"], "default": "0"}
DRY_RUN = Parameter("dry_run", FLAG, "1: answer with the plan, and do nothing.")
CONFIRM_WITHIN = Parameter(
    "confirm_within",
    {"type": "number", "minimum": 1, "maximum": LONGEST_WAIT},
    "Seconds: unless it is confirmed within them, the change is undone, even when the agent is "
    "dead.",
)
LINES = Parameter(
    "lines", {"type": "integer", "minimum": 1, "maximum": 10000, "default": 100}, "How many."
)
LEVEL = Parameter(
    "level", {"type": "string", "enum": list(Level)}, "Only the checks of this level."
)
CHECK_NAME = Parameter("name", {"type": "string"}, "Only the check of this name.")
IF_MATCH = Parameter(
    "If-Match",
    {"type": "string", "examples": ['"0123…"']},
    "The ETag of the document that the change was made for; 412 if another one runs.",
)
IF_MATCH_NEEDED = Parameter(IF_MATCH.name, IF_MATCH.schema, IF_MATCH.description, required=True)
REVISION = Parameter(
    "number", {"type": "integer", "minimum": 0}, "The revision's number.", required=True
)
SHA256 = Parameter(
    "sha256",
    {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "The content's SHA-256, in lower-case hexadecimal.",
    required=True,
)
SEVERITY = Parameter(
    "severity",
    {"type": "string", "enum": [str(severity) for severity in Severity], "default": "info"},
    "Only events that are at least as bad.",
)
AFTER = Parameter(
    "after",
    {"type": "integer", "minimum": 0, "default": 0},
    "Events with greater numbers: the `next` of the answer before, or the last that was kept.",
)
STREAM = Parameter(
    "stream",
    {"type": "string"},
    "The `stream` that `after` is of. Where there is another one by now, all its events come.",
)
TAIL = Parameter(
    "tail",
    {"type": "integer", "minimum": 0, "maximum": events.MOST},
    "Instead of `after`: from the last so many on.",
)
EVENT_QUERY = (AFTER, STREAM, TAIL, SEVERITY)
UNIT = Parameter(
    "unit", {"type": "string"}, "A systemd unit, with or without `.service`.", required=True
)


def _number(most: int, default: int, description: str) -> Mapping[str, Any]:
    bounds = {"type": "integer", "minimum": 1, "maximum": most}
    return {**bounds, "default": default, "description": description}


LIVE = Parameter("live", FLAG, "1: answer with JSON lines (application/jsonl) as it goes on.")
LONGEST_REQUEST = 16 * 1024  # bytes
DIAGNOSTIC = {
    "type": "object",
    "properties": {
        "target": {"type": "string", "description": "An IP address, or a name."},
        "family": {"enum": [4, 6], "description": "By default what the target is."},
        "arguments": {
            "type": "string",
            "pattern": r"^[A-Za-z0-9. -]*$",
            "description": "As an administrator types them.",
            "examples": ["-c 10 -s 1472 -M do"],
        },
        "seconds": {
            "type": "integer",
            "minimum": 1,
            "maximum": LONGEST_SECONDS,
            "default": DEFAULT_SECONDS,
            "description": "When it is ended at the latest.",
        },
    },
    "required": ["target"],
    "additionalProperties": False,
}

CAPTURE = {
    "type": "object",
    "properties": {
        "nic": {"type": "string", "description": "Where; `any` for all NICs."},
        "hosts": {
            "type": "array",
            "items": {"type": "string"},
            "maxItems": 2,
            "description": "From or to this address; of two, between them.",
        },
        "network": {"type": "string", "description": "From or to it.", "examples": ["10.1.1.0/24"]},
        "protocol": {"enum": [str(kind) for kind in capture.Kind]},
        "ports": {
            "type": "array",
            "items": {"type": "integer", "minimum": 1, "maximum": 65535},
            "maxItems": 8,
            "description": "From or to one of them.",
        },
        "direction": {"enum": [str(way) for way in capture.Direction], "default": "inout"},
        "snaplen": _number(capture.LONGEST_SNAPLEN, 256, "Bytes of each packet."),
        "packets": _number(capture.MOST_PACKETS, 10_000, "How many."),
        "seconds": _number(capture.LONGEST_SECONDS, 30, "How long."),
        "bytes": _number(capture.MOST_BYTES, 8 * 2**20, "How much in all."),
    },
    "required": ["nic"],
    "additionalProperties": False,
}

CHANGE_KINDS = (
    p.NOT_JSON, p.BAD_REQUEST, p.STALE_GENERATION, p.GENERATION_CONFLICT, p.AWAITING_CONFIRM,
    p.PRECONDITION_FAILED, p.TOO_LARGE, p.UNSUPPORTED_MEDIA, p.REFUSED, p.DID_NOT_HOLD,
    p.ROLLED_BACK, p.DEGRADED, p.UNREADABLE_STATE, p.BUSY, p.FULL,
)  # fmt: skip
BACK_KINDS = (p.ROLLED_BACK, p.DEGRADED, p.UNREADABLE_STATE, p.BUSY, p.FULL)

CHANGE_REPLIES = (
    Reply(200, "It runs; or, for a dry run, what would be done.", Changed | Planned),
    Reply(202, "It runs, and is undone unless it is confirmed.", Changed),
)


def _rows(name: str, row: Any, summary: str, *kinds: Kind) -> Route:
    return Route(
        method="GET",
        path=f"/v1/show/{name}",
        operation=f"show_{name.replace('-', '_')}",
        summary=summary,
        replies=(Reply(200, "Rows.", tuple[row, ...]),),
        kinds=kinds,
    )


def _get(path: str, operation: str, summary: str, content: Any, *kinds: Kind) -> Route:
    return Route(
        method="GET",
        path=path,
        operation=operation,
        summary=summary,
        replies=(Reply(200, "It.", content),),
        kinds=kinds,
    )


SESSION = Parameter(
    "session",
    {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"},
    "The session's name, of management's own.",
    required=True,
)

# Of the role console-proxy.
CONSOLE_ROUTES: tuple[Route, ...] = (
    _get(
        "/v1/console/sessions",
        "get_consoles",
        "The console proxy, and its sessions with who sees what from where.",
        Consoles,
        p.NOT_WANTED,
        p.MACHINE_FAILED,
    ),
    Route(
        method="GET",
        path="/v1/console/reports",
        operation="get_console_reports",
        summary="The console proxy's reports as Server-Sent Events: every few seconds, and soon "
        "after a change.",
        replies=(Reply(200, "Each one's data.", ConsoleReport, SERVER_SENT_EVENTS),),
        kinds=(p.TOO_MANY_STREAMS, p.MACHINE_FAILED),
    ),
    Route(
        method="GET",
        path="/v1/console/sessions/{session}",
        operation="get_console",
        summary="One session.",
        replies=(Reply(200, "It.", ConsoleRow),),
        kinds=(p.NO_SUCH_SESSION, p.NOT_WANTED, p.MACHINE_FAILED),
        path_parameters=(SESSION,),
    ),
    Route(
        method="PUT",
        path="/v1/console/sessions/{session}",
        operation="put_console",
        summary="Let the browser that has a secret see a screen. The same one again changes "
        "nothing.",
        replies=(Reply(200, "It was there.", Accepted), Reply(201, "It waits.", Accepted)),
        kinds=(
            p.NOT_JSON,
            p.BAD_REQUEST,
            p.TOO_LARGE,
            p.SESSION_REFUSED,
            p.NOT_WANTED,
            p.MACHINE_FAILED,
        ),
        path_parameters=(SESSION,),
        body=Body("application/json", CONSOLE_SESSION, "The session."),
        longest=LONGEST_SESSION,
    ),
    Route(
        method="DELETE",
        path="/v1/console/sessions/{session}",
        operation="delete_console",
        summary="End a session; its browser is told.",
        replies=(Reply(200, "It is over.", Accepted),),
        kinds=(p.NO_SUCH_SESSION, p.NOT_WANTED, p.MACHINE_FAILED),
        path_parameters=(SESSION,),
    ),
    Route(
        method="POST",
        path="/v1/console/drain",
        operation="drain_consoles",
        summary="Let nobody new in; after a while browsers are told to come back elsewhere (1012).",
        replies=(Reply(200, "How it is now.", Consoles),),
        kinds=(p.NOT_JSON, p.BAD_REQUEST, p.NOT_WANTED, p.MACHINE_FAILED),
        body=Body(
            "application/json",
            {
                "type": "object",
                "properties": {
                    "within": {"type": "integer", "minimum": 0, "maximum": 86400, "default": 300}
                },
                "additionalProperties": False,
            },
            "Seconds that open sessions may go on.",
            required=False,
        ),
    ),
    Route(
        method="DELETE",
        path="/v1/console/drain",
        operation="undrain_consoles",
        summary="Let browsers in again.",
        replies=(Reply(200, "How it is now.", Consoles),),
        kinds=(p.NOT_WANTED, p.MACHINE_FAILED),
    ),
)

ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/v1/document",
        operation="get_document",
        summary="The document that runs, in canonical form, with a stand-in for each secret; the "
        "ETag is the SHA-256 of what was pushed.",
        replies=(Reply(200, "The document.", DOCUMENT), Reply(304, "You have it already.")),
        kinds=(p.NOTHING_APPLIED, p.UNREADABLE_STATE),
    ),
    Route(
        method="PUT",
        path="/v1/document",
        operation="put_document",
        summary="Become what this document says, or stay what it was.",
        replies=(*CHANGE_REPLIES, Reply(201, "It runs; it is the first one.", Changed)),
        kinds=CHANGE_KINDS,
        query=(DRY_RUN, CONFIRM_WITHIN),
        headers=(IF_MATCH,),
        body=Body("application/json", DOCUMENT, "The whole document."),
    ),
    Route(
        method="PATCH",
        path="/v1/document",
        operation="patch_document",
        summary="Change some of the document: a merge patch (RFC 7396), applied as a whole.",
        replies=CHANGE_REPLIES,
        kinds=(*CHANGE_KINDS, p.NOTHING_APPLIED, p.PRECONDITION_REQUIRED),
        query=(DRY_RUN, CONFIRM_WITHIN),
        headers=(IF_MATCH_NEEDED,),
        body=Body(
            "application/merge-patch+json",
            {"type": "object"},
            "What changes; null removes a member. `generation` belongs in it.",
        ),
    ),
    Route(
        method="PUT",
        path="/v1/blobs/{sha256}",
        operation="put_blob",
        summary="Upload what a document names by its SHA-256, such as a guest's user data.",
        replies=(Reply(200, "It was there.", Blob), Reply(201, "It is there now.", Blob)),
        kinds=(p.BAD_REQUEST, p.TOO_LARGE, p.UNSUPPORTED_MEDIA, p.DIGEST_MISMATCH, p.FULL),
        path_parameters=(SHA256,),
        body=Body("application/octet-stream", {}, "The content, at most 4 MiB."),
        longest=LONGEST_BLOB,
    ),
    Route(
        method="GET",
        path="/v1/blobs/{sha256}",
        operation="get_blob",
        summary="A blob; HEAD says whether it is there.",
        replies=(Reply(200, "The content.", bytes),),
        kinds=(p.BAD_REQUEST, p.NO_SUCH_BLOB),
        path_parameters=(SHA256,),
    ),
    _get(
        "/v1/revisions",
        "get_revisions",
        "The revisions that are kept.",
        Revisions,
        p.UNREADABLE_STATE,
    ),
    Route(
        method="GET",
        path="/v1/revisions/{number}",
        operation="get_revision",
        summary="A revision with its document, without the secrets.",
        replies=(Reply(200, "The revision.", RevisionWithDocument),),
        kinds=(p.NO_SUCH_REVISION, p.UNREADABLE_STATE),
        path_parameters=(REVISION,),
    ),
    Route(
        method="POST",
        path="/v1/revisions/{number}/confirm",
        operation="confirm",
        summary="Keep a provisional revision.",
        replies=(Reply(200, "It stays.", Changed),),
        kinds=(p.NO_SUCH_REVISION, p.NOT_PROVISIONAL, *BACK_KINDS),
        path_parameters=(REVISION,),
    ),
    Route(
        method="POST",
        path="/v1/rollback",
        operation="roll_back",
        summary="Go back to an earlier revision; to the one before where none is named.",
        replies=(Reply(200, "It runs again.", Changed),),
        kinds=(
            p.NOT_JSON,
            p.BAD_REQUEST,
            p.NO_SUCH_REVISION,
            p.NOTHING_APPLIED,
            p.REFUSED,
            p.AWAITING_CONFIRM,
            p.DID_NOT_HOLD,
            *BACK_KINDS,
        ),
        body=Body(
            "application/json",
            {
                "type": "object",
                "properties": {"revision": {"type": "integer", "minimum": 0}},
                "additionalProperties": False,
            },
            "Which revision.",
            required=False,
        ),
    ),
    _get("/v1/status", "get_status", "The VM on one screen.", Status, p.UNREADABLE_STATE),
    _get(
        "/v1/drift",
        "get_drift",
        "How the machine differs from what was asked for.",
        Drift,
        p.NOTHING_APPLIED,
        p.BUSY,
    ),
    _get(
        "/v1/legacy-rules",
        "get_legacy_rules",
        "Rules that somebody made in the legacy tables, which filter beside ours.",
        LegacyRules,
        p.MACHINE_FAILED,
    ),
    Route(
        method="DELETE",
        path="/v1/legacy-rules",
        operation="delete_legacy_rules",
        summary="Remove those rules.",
        replies=(Reply(200, "Those that were removed.", LegacyRules),),
        kinds=(p.MACHINE_FAILED,),
    ),
    Route(
        method="GET",
        path="/v1/events",
        operation="get_events",
        summary="Events that are kept, in order; with `wait`, not before there is one.",
        replies=(Reply(200, "Events, and where to go on.", Events),),
        kinds=(p.TOO_MANY_STREAMS,),
        query=(
            *EVENT_QUERY,
            Parameter(
                "limit",
                {"type": "integer", "minimum": 1, "maximum": events.MOST, "default": 100},
                "At most so many.",
            ),
            Parameter(
                "wait",
                {"type": "integer", "minimum": 0, "maximum": events.LONGEST_WAIT, "default": 0},
                "Seconds to wait for an event where there is none.",
            ),
        ),
    ),
    Route(
        method="GET",
        path="/v1/events/stream",
        operation="get_event_stream",
        summary="Events as they come, as Server-Sent Events.",
        replies=(Reply(200, "Each one's data.", EventRow, SERVER_SENT_EVENTS),),
        kinds=(p.TOO_MANY_STREAMS,),
        query=EVENT_QUERY,
        headers=(
            Parameter(
                "Last-Event-ID",
                {"type": "string"},
                "The `id` of the last event that came, in place of `stream` and `after`.",
            ),
        ),
    ),
    Route(
        method="POST",
        path="/v1/events/acknowledge",
        operation="acknowledge_events",
        summary="All events up to a number have arrived; the VM need keep them no longer.",
        replies=(Reply(200, "Up to which number that is so.", Acknowledged),),
        kinds=(p.NOT_JSON, p.NO_SUCH_EVENT),
        body=Body(
            "application/json",
            {
                "type": "object",
                "properties": {
                    "stream": {"type": "string"},
                    "seq": {"type": "integer", "minimum": 0},
                },
                "required": ["stream", "seq"],
                "additionalProperties": False,
            },
            "The stream, and the greatest number up to which none is missing.",
        ),
        only_asks=True,  # it changes nothing of the VM, and comes often
    ),
    _get(
        "/v1/health",
        "get_health",
        "Every health check's last result, and when they are run.",
        Report,
        p.UNREADABLE_STATE,
    ),
    Route(
        method="POST",
        path="/v1/health/run",
        operation="run_health",
        summary="Run health checks now: those of a level, the one of a name, or all.",
        replies=(Reply(200, "What they found.", tuple[Result, ...]),),
        kinds=(p.BAD_REQUEST, p.NO_SUCH_CHECK, p.UNREADABLE_STATE, p.BUSY),
        query=(LEVEL, CHECK_NAME),
        only_asks=True,
    ),
    Route(
        method="GET",
        path="/v1/metrics",
        operation="get_metrics",
        summary="What the VM knows of itself, as Prometheus reads it.",
        replies=(Reply(200, "Metrics.", bytes, "text/plain; version=0.0.4; charset=utf-8"),),
        kinds=(p.UNREADABLE_STATE, p.MACHINE_FAILED),
    ),
    _get("/v1/schema", "get_schema", "The JSON Schema of a document.", {"type": "object"}),
    _get("/v1/openapi.json", "get_openapi", "This description.", {"type": "object"}),
    _get(
        "/v1/problems",
        "get_problems",
        "Every type of problem that this endpoint answers with.",
        tuple[Kind, ...],
    ),
    Route(
        method="GET",
        path="/v1/problems/{name}",
        operation="get_problem",
        summary="One type of problem: what it means and what to do next.",
        replies=(Reply(200, "The type.", Kind),),
        path_parameters=(Parameter("name", {"type": "string"}, "Its name.", required=True),),
    ),
    _get(
        "/v1/services",
        "get_services",
        "The units of this VM's services.",
        tuple[ServiceRow, ...],
        p.MACHINE_FAILED,
    ),
    Route(
        method="POST",
        path="/v1/services/{unit}/restart",
        operation="restart_service",
        summary="Restart a unit that the document wants.",
        replies=(Reply(200, "How it is now.", ServiceRow),),
        kinds=(p.NO_SUCH_UNIT, p.NOT_WANTED, p.MACHINE_FAILED),
        path_parameters=(UNIT,),
    ),
    Route(
        method="POST",
        path="/v1/services/{unit}/hold",
        operation="hold_service",
        summary="Leave a unit alone for a while: it is neither restarted nor alerted of.",
        replies=(Reply(200, "How it is now.", ServiceRow),),
        kinds=(
            p.NOT_JSON,
            p.BAD_REQUEST,
            p.NO_SUCH_UNIT,
            p.NOT_WANTED,
            p.FULL,
            p.MACHINE_FAILED,
        ),
        path_parameters=(UNIT,),
        body=Body(
            "application/json",
            {
                "type": "object",
                "properties": {
                    "seconds": {"type": "integer", "minimum": 1, "maximum": LONGEST_HOLD},
                    "reason": {"type": "string", "minLength": 1, "maxLength": LONGEST_REASON},
                    "by": {"type": "string", "maxLength": LONGEST_REASON},
                },
                "required": ["seconds", "reason"],
                "additionalProperties": False,
            },
            "For how long, why, and who says so (the client, by default).",
        ),
    ),
    Route(
        method="POST",
        path="/v1/services/{unit}/release",
        operation="release_service",
        summary="End a hold, and forget what was the matter with the unit before.",
        replies=(Reply(200, "How it is now.", ServiceRow),),
        kinds=(p.NOT_JSON, p.BAD_REQUEST, p.NO_SUCH_UNIT, p.FULL, p.MACHINE_FAILED),
        path_parameters=(UNIT,),
        body=Body(
            "application/json",
            {
                "type": "object",
                "properties": {"by": {"type": "string", "maxLength": LONGEST_REASON}},
                "additionalProperties": False,
            },
            "Who says so (the client, by default).",
            required=False,
        ),
    ),
    Route(
        method="GET",
        path="/v1/services/{unit}/logs",
        operation="get_log",
        summary="The last lines of a unit's journal.",
        replies=(Reply(200, "The lines.", Log),),
        kinds=(p.BAD_REQUEST, p.NO_SUCH_UNIT, p.MACHINE_FAILED),
        path_parameters=(UNIT,),
        query=(LINES,),
    ),
    Route(
        method="GET",
        path="/v1/diagnostics/bundle",
        operation="get_bundle",
        summary="All that there is to say of this VM, without secrets: a tar.gz, as it is made.",
        replies=(Reply(200, "The archive.", bytes, GZIP),),
        kinds=(p.TOO_MANY_STREAMS,),
    ),
    Route(
        method="POST",
        path="/v1/diagnostics/capture",
        operation="capture",
        summary="Capture packets on a NIC, as they pass.",
        replies=(Reply(200, "A capture file (pcap), as it is made.", bytes, PCAP),),
        kinds=(
            p.NOT_JSON,
            p.TOO_LARGE,
            p.DIAGNOSTIC_REFUSED,
            p.TOO_MANY_STREAMS,
            p.MACHINE_FAILED,
        ),
        body=Body("application/json", CAPTURE, "What to capture."),
        longest=LONGEST_REQUEST,
        only_asks=True,
    ),
    Route(
        method="POST",
        path="/v1/diagnostics/{tool}",
        operation="run_diagnostic",
        summary="Try something from this VM: ping, traceroute or arping.",
        replies=(
            Reply(
                200,
                "What it said, when it has ended. With `live`, lines as it says it: first `argv`, "
                "then `stream` and `text`, or `elapsed` while it is silent, and last `exit`.",
                Diagnosis,
            ),
        ),
        kinds=(
            p.NOT_JSON,
            p.UNKNOWN_PATH,
            p.TOO_LARGE,
            p.DIAGNOSTIC_REFUSED,
            p.TOO_MANY_STREAMS,
            p.MACHINE_FAILED,
        ),
        path_parameters=(
            Parameter(
                "tool",
                {"type": "string", "enum": list(TOOLS)},
                "What to try it with.",
                required=True,
            ),
        ),
        query=(LIVE,),
        body=Body("application/json", DIAGNOSTIC, "What to try."),
        longest=LONGEST_REQUEST,
        only_asks=True,
    ),
    _get(
        "/v1/vpn",
        "get_vpn",
        "IPsec tunnels: whether they are up, what goes through, and why not.",
        tuple[VpnRow, ...],
        p.NOTHING_APPLIED,
        p.MACHINE_FAILED,
    ),
    *CONSOLE_ROUTES,
    _rows("interfaces", InterfaceRow, "Network interfaces and their addresses."),
    _rows("routes", RouteRow, "Routes, wanted or there.", p.NOTHING_APPLIED),
    _rows("rules", RuleRow, "Firewall rules and what they counted.", p.NOTHING_APPLIED),
    _rows("nat", NatRow, "Translations of addresses.", p.NOTHING_APPLIED),
    _rows("load-balancer", BalancerRow, "Listeners and their servers.", p.MACHINE_FAILED),
    _rows("dhcp", DhcpRow, "Hosts and leases.", p.NOTHING_APPLIED, p.MACHINE_FAILED),
    _rows("dns", DnsRow, "Names and upstream servers.", p.NOTHING_APPLIED),
)

# What a bundle has of the endpoint's answers: all that need no parameter, come to an end, and are
# not the same everywhere.
_EVERYWHERE = frozenset({"/v1/schema", "/v1/openapi.json", "/v1/problems"})
IN_BUNDLE = tuple(
    route.path
    for route in ROUTES
    if route.method == "GET"
    and "{" not in route.path
    and route.path not in _EVERYWHERE
    and route.replies[0].media_type not in {GZIP, SERVER_SENT_EVENTS}
)
