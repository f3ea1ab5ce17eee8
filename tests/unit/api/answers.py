"""What is asked in most tests, and what a refusal has to look like."""

import json
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from agent.api import problems
from tests.unit.api.fake import document


def expect_problem(response: TestResponse, kind: problems.Kind) -> dict[str, Any]:
    """RFC 9457, in our shape."""
    assert response.status_code == kind.status, response.get_data(as_text=True)
    assert response.content_type == "application/problem+json"
    body: dict[str, Any] = json.loads(response.get_data())
    assert body["type"] == f"/v1/problems/{kind.name}"
    assert body["status"] == kind.status
    assert all(body[name] for name in ("title", "detail", "hint"))
    assert body["retryable"] is kind.retryable
    for problem in body.get("problems", []):
        assert problem.keys() == {"path", "message", "hint"}
    return body


def put(client: FlaskClient, generation: int = 1, query: str = "", **more: Any) -> TestResponse:
    return client.put(f"/v1/document{query}", data=document(generation), **more)
