"""The description says what the endpoint is: nothing more, nothing less, and it validates."""

import re
from typing import Any

import flask
import jsonschema
import pytest
from flask.testing import FlaskClient

from agent.api import openapi
from agent.api.operations import Operations
from agent.api.routes import ROUTES, Route
from tests.unit.api.fake import BLOB, document, sha256

DESCRIPTION: dict[str, Any] = dict(openapi.description())
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


def test_every_route_is_described_and_every_description_has_a_route(app: flask.Flask) -> None:
    served = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD"}
    }
    described = {
        (method.upper(), path) for path, item in DESCRIPTION["paths"].items() for method in item
    }
    assert served == described == {(route.method, route.path) for route in ROUTES}


def test_every_operation_is_there_once() -> None:
    names = [route.operation for route in ROUTES]
    assert len(names) == len(set(names))
    assert all(callable(getattr(Operations, name)) for name in names)


def test_it_is_openapi_3_1() -> None:
    """Structure as in the specification, sections 4.8.1 to 4.8.24."""
    assert DESCRIPTION["openapi"].startswith("3.1.")
    assert {"title", "version"} <= DESCRIPTION["info"].keys()
    for path, item in DESCRIPTION["paths"].items():
        assert path.startswith("/v1/")
        assert item.keys() <= METHODS
        for operation in item.values():
            _check_operation(path, operation)


def _check_operation(path: str, operation: dict[str, Any]) -> None:
    assert {"operationId", "summary", "responses"} <= operation.keys()
    parameters = operation.get("parameters", [])
    assert all(p.keys() >= {"name", "in", "schema", "description"} for p in parameters)
    in_path = {p["name"] for p in parameters if p["in"] == "path"}
    assert in_path == set(re.findall(r"{(\w+)}", path))
    assert all(p["required"] is True for p in parameters if p["in"] == "path")
    for status, response in operation["responses"].items():
        assert re.fullmatch("[1-5][0-9][0-9]", status)
        assert response["description"]
        for media in response.get("content", {}).values():
            assert "schema" in media
    if "requestBody" in operation:
        assert operation["requestBody"]["content"]


def test_every_schema_is_one_and_every_reference_leads_somewhere() -> None:
    schemas = DESCRIPTION["components"]["schemas"]
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["description"]
    for reference in _references(DESCRIPTION):
        if reference != "/v1/schema":
            assert reference.removeprefix("#/components/schemas/") in schemas


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [r for part in value.values() for r in _references(part)]
    if isinstance(value, list):
        return [reference for part in value for reference in _references(part)]
    return []


READS = [route for route in ROUTES if route.method == "GET"]


@pytest.mark.parametrize("route", READS, ids=lambda route: route.path)
def test_answers_are_as_described(client: FlaskClient, route: Route) -> None:
    client.put("/v1/document", data=document())
    client.put(f"/v1/blobs/{sha256(BLOB)}", data=BLOB)
    path = route.path.format(
        sha256=sha256(BLOB), number=1, unit="dnsmasq.service", name="busy", session="s1"
    )
    response = client.get(path)
    assert response.status_code == 200, response.get_data()
    content = DESCRIPTION["paths"][route.path]["get"]["responses"]["200"]["content"]
    schema = content[response.content_type]["schema"]
    if response.is_json:
        _validate(response.get_json(), schema, client)


def test_changes_and_problems_are_as_described(client: FlaskClient) -> None:
    responses = DESCRIPTION["paths"]["/v1/document"]["put"]["responses"]
    for query, status in (
        ("", 201),
        ("?confirm_within=9", 202),
        ("?dry_run=1", 200),
        ("?x=1", 400),
    ):
        response = client.put(f"/v1/document{query}", data=document(status))
        assert response.status_code == status
        schema = responses[str(status)]["content"][response.content_type]["schema"]
        _validate(response.get_json(force=True), schema, client)


def _validate(value: Any, schema: dict[str, Any], client: FlaskClient) -> None:
    if schema == {"$ref": "/v1/schema"}:
        schema = client.get("/v1/schema").get_json(force=True)
    whole = {**schema, "components": DESCRIPTION["components"]}
    jsonschema.validate(value, whole, cls=jsonschema.Draft202012Validator)
