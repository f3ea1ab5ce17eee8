"""Every path of the endpoint, in one table: Flask's routes and /v1/openapi.json are made of it.

A family of paths is a module here, and a row of its table one method of one path.
"""

from agent.api.routes import (
    consoles,
    descriptions,
    diagnostics,
    documents,
    events,
    machine,
    services,
)
from agent.api.routes.documents import LONGEST_WAIT
from agent.api.routes.route import LONGEST_DOCUMENT, Body, Parameter, Reply, Route
from agent.api.streams import GZIP, SERVER_SENT_EVENTS

__all__ = [
    "IN_BUNDLE",
    "LONGEST_DOCUMENT",
    "LONGEST_WAIT",
    "ROUTES",
    "Body",
    "Parameter",
    "Reply",
    "Route",
]

ROUTES: tuple[Route, ...] = (
    *documents.ROUTES,
    *machine.ROUTES,
    *services.ROUTES,
    *events.ROUTES,
    *diagnostics.ROUTES,
    *consoles.ROUTES,
    *descriptions.ROUTES,
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
