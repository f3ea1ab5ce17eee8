"""The role console-proxy's: sessions, reports, draining."""

from agent.api import problems as p
from agent.api.consoles import Accepted, ConsoleReport, ConsoleRow, Consoles
from agent.api.routes.route import (
    Body,
    Parameter,
    Reply,
    Route,
    delete,
    get,
    integer,
    members,
    post,
    put,
)
from agent.api.streams import SERVER_SENT_EVENTS

_LONGEST_SESSION = 512 * 1024  # bytes
_SESSION = Parameter(
    "session",
    {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"},
    "The session's name, of management's own.",
    required=True,
)
_PUSHED = {"$ref": "#/components/schemas/ConsoleSession"}
_NOW = Reply(200, "How it is now.", Consoles)

ROUTES: tuple[Route, ...] = (
    get(
        "/v1/console/sessions",
        "get_consoles",
        "The console proxy, and its sessions with who sees what from where.",
        Consoles,
        p.NOT_WANTED,
        p.MACHINE_FAILED,
    ),
    get(
        "/v1/console/reports",
        "get_console_reports",
        "The console proxy's reports as Server-Sent Events: every few seconds, and soon "
        "after a change.",
        Reply(200, "Each one's data.", ConsoleReport, SERVER_SENT_EVENTS),
        p.TOO_MANY_STREAMS,
        p.MACHINE_FAILED,
    ),
    get(
        "/v1/console/sessions/{session}",
        "get_console",
        "One session.",
        ConsoleRow,
        p.NO_SUCH_SESSION,
        p.NOT_WANTED,
        p.MACHINE_FAILED,
        path_parameters=(_SESSION,),
    ),
    put(
        "/v1/console/sessions/{session}",
        "put_console",
        "Let the browser that has a secret see a screen. The same one again changes nothing; with "
        "another target, or other credentials, the VM has moved, and its browser is sent after it.",
        (Reply(200, "It was there, or has moved.", Accepted), Reply(201, "It waits.", Accepted)),
        p.NOT_JSON,
        p.BAD_REQUEST,
        p.TOO_LARGE,
        p.SESSION_REFUSED,
        p.NOT_WANTED,
        p.MACHINE_FAILED,
        path_parameters=(_SESSION,),
        body=Body("application/json", _PUSHED, "The session."),
        longest=_LONGEST_SESSION,
    ),
    delete(
        "/v1/console/sessions/{session}",
        "delete_console",
        "End a session; its browser is told.",
        Reply(200, "It is over.", Accepted),
        p.NO_SUCH_SESSION,
        p.NOT_WANTED,
        p.MACHINE_FAILED,
        path_parameters=(_SESSION,),
    ),
    post(
        "/v1/console/drain",
        "drain_consoles",
        "Let nobody new in; after a while browsers are told to come back elsewhere (1012).",
        _NOW,
        p.NOT_JSON,
        p.BAD_REQUEST,
        p.NOT_WANTED,
        p.MACHINE_FAILED,
        body=members(
            "Seconds that open sessions may go on.",
            {"within": integer(0, 86400, default=300)},
            required=False,
        ),
    ),
    delete(
        "/v1/console/drain",
        "undrain_consoles",
        "Let browsers in again.",
        _NOW,
        p.NOT_WANTED,
        p.MACHINE_FAILED,
    ),
)
