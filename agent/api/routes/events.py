"""Events: asked for, waited for, streamed, acknowledged."""

from agent.api import events
from agent.api import problems as p
from agent.api.answers import Acknowledged, Events
from agent.api.routes.route import Parameter, Reply, Route, get, integer, members, post
from agent.api.streams import SERVER_SENT_EVENTS
from agent.monitor.events import Severity
from agent.monitor.rows import EventRow

_QUERY = (
    Parameter(
        "after",
        integer(0, default=0),
        "Events with greater numbers: the `next` of the answer before, or the last that was kept.",
    ),
    Parameter(
        "stream",
        {"type": "string"},
        "The `stream` that `after` is of. Where there is another one by now, all its events come.",
    ),
    Parameter("tail", integer(0, events.MOST), "Instead of `after`: from the last so many on."),
    Parameter(
        "severity",
        {"type": "string", "enum": [str(severity) for severity in Severity], "default": "info"},
        "Only events that are at least as bad.",
    ),
)

ROUTES: tuple[Route, ...] = (
    get(
        "/v1/events",
        "get_events",
        "Events that are kept, in order; with `wait`, not before there is one.",
        Reply(200, "Events, and where to go on.", Events),
        p.TOO_MANY_STREAMS,
        query=(
            *_QUERY,
            Parameter("limit", integer(1, events.MOST, default=100), "At most so many."),
            Parameter(
                "wait",
                integer(0, events.LONGEST_WAIT, default=0),
                "Seconds to wait for an event where there is none.",
            ),
        ),
    ),
    get(
        "/v1/events/stream",
        "get_event_stream",
        "Events as they come, as Server-Sent Events.",
        Reply(200, "Each one's data.", EventRow, SERVER_SENT_EVENTS),
        p.TOO_MANY_STREAMS,
        query=_QUERY,
        headers=(
            Parameter(
                "Last-Event-ID",
                {"type": "string"},
                "The `id` of the last event that came, in place of `stream` and `after`.",
            ),
        ),
    ),
    post(
        "/v1/events/acknowledge",
        "acknowledge_events",
        "All events up to a number have arrived; the VM need keep them no longer.",
        Reply(200, "Up to which number that is so.", Acknowledged),
        p.NOT_JSON,
        p.NO_SUCH_EVENT,
        body=members(
            "The stream, and the greatest number up to which none is missing.",
            {"stream": {"type": "string"}, "seq": integer(0)},
            needed=("stream", "seq"),
        ),
        only_asks=True,  # it changes nothing of the VM, and comes often
    ),
)
