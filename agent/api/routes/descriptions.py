"""What the endpoint says of itself: the document's schema, its paths, its problems."""

from agent.api.problems import Kind
from agent.api.routes.route import Parameter, Reply, Route, get

ROUTES: tuple[Route, ...] = (
    get("/v1/schema", "get_schema", "The JSON Schema of a document.", {"type": "object"}),
    get("/v1/openapi.json", "get_openapi", "This description.", {"type": "object"}),
    get(
        "/v1/problems",
        "get_problems",
        "Every type of problem that this endpoint answers with.",
        tuple[Kind, ...],
    ),
    get(
        "/v1/problems/{name}",
        "get_problem",
        "One type of problem: what it means and what to do next.",
        Reply(200, "The type.", Kind),
        path_parameters=(Parameter("name", {"type": "string"}, "Its name.", required=True),),
    ),
)
