"""A request to the manager, checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.manager.access import Caller
from appliance.manager.routes import Route


@dataclass(frozen=True, slots=True)
class Call:
    """Who asks for what. `query` has every parameter, `body` the route's type."""

    route: Route
    caller: Caller
    path: Mapping[str, str]
    query: Mapping[str, Any]
    body: Any
    data: bytes  # the body as it came, where the route gives it no type
