"""The units of this VM's services: how they are, restarted, held, and what they said."""

from agent.api import problems as p
from agent.api.answers import Log
from agent.api.routes.route import Parameter, Reply, Route, get, integer, members, post
from agent.api.services import LONGEST_HOLD, LONGEST_REASON
from agent.api.show import ServiceRow

_UNIT = Parameter(
    "unit", {"type": "string"}, "A systemd unit, with or without `.service`.", required=True
)
_LINES = Parameter("lines", integer(1, 10000, default=100), "How many.")
_BY = {"type": "string", "maxLength": LONGEST_REASON}
_NOW = Reply(200, "How it is now.", ServiceRow)

ROUTES: tuple[Route, ...] = (
    get(
        "/v1/services",
        "get_services",
        "The units of this VM's services.",
        tuple[ServiceRow, ...],
        p.MACHINE_FAILED,
    ),
    post(
        "/v1/services/{unit}/restart",
        "restart_service",
        "Restart a unit that the document wants.",
        _NOW,
        p.NO_SUCH_UNIT,
        p.NOT_WANTED,
        p.MACHINE_FAILED,
        path_parameters=(_UNIT,),
    ),
    post(
        "/v1/services/{unit}/hold",
        "hold_service",
        "Leave a unit alone for a while: it is neither restarted nor alerted of.",
        _NOW,
        p.NOT_JSON,
        p.BAD_REQUEST,
        p.NO_SUCH_UNIT,
        p.NOT_WANTED,
        p.FULL,
        p.MACHINE_FAILED,
        path_parameters=(_UNIT,),
        body=members(
            "For how long, why, and who says so (the client, by default).",
            {
                "seconds": integer(1, LONGEST_HOLD),
                "reason": {"type": "string", "minLength": 1, "maxLength": LONGEST_REASON},
                "by": _BY,
            },
            needed=("seconds", "reason"),
        ),
    ),
    post(
        "/v1/services/{unit}/release",
        "release_service",
        "End a hold, and forget what was the matter with the unit before.",
        _NOW,
        p.NOT_JSON,
        p.BAD_REQUEST,
        p.NO_SUCH_UNIT,
        p.FULL,
        p.MACHINE_FAILED,
        path_parameters=(_UNIT,),
        body=members("Who says so (the client, by default).", {"by": _BY}, required=False),
    ),
    get(
        "/v1/services/{unit}/logs",
        "get_log",
        "The last lines of a unit's journal.",
        Reply(200, "The lines.", Log),
        p.BAD_REQUEST,
        p.NO_SUCH_UNIT,
        p.MACHINE_FAILED,
        path_parameters=(_UNIT,),
        query=(_LINES,),
    ),
)
