"""The endpoint: who may do what, what is refused, and that every call is written down."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.manager import access, audit, openapi
from appliance.manager.access import Role
from appliance.manager.database import Database
from appliance.manager.manager import Manager, Settings
from appliance.manager.operations import Operations
from appliance.manager.routes import LONGEST, ROUTES, Route
from appliance.manager.vm_operations import VmOperations
from tests.unit.manager.agent import Keys
from tests.unit.manager.rig import Person, Rig

EXAMPLES = {
    "session": "0" * 32,
    "screen": "vm1",
    "proxy": "p1",
    "vm": "r-1-vm",
    "token": "0" * 16,
    "blob": "0" * 64,
}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A manager without its threads, and no proxies."""
    folder = tmp_path_factory.mktemp("manager")
    database = Database(f"sqlite:///{folder}/manager.db")
    settings = Settings(name="m1", key=b"k" * 32, identity=Keys(folder).identity)
    manager = Manager(database, settings)
    yield Rig(manager, manager.app, database)
    manager.close()
    database.close()


@pytest.fixture
def client(rig: Rig) -> FlaskClient:
    return rig.app.test_client()


def path_of(route: Route) -> str:
    path = route.path
    for name in route.parameters:
        path = path.replace(f"{{{name}}}", EXAMPLES[name])
    return path


ids = [f"{route.method} {route.path}" for route in ROUTES]


@pytest.mark.parametrize("route", ROUTES, ids=ids)
def test_without_a_token_nothing_is_answered(client: FlaskClient, route: Route) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer sysvm_" + "x" * 43},
        {"Authorization": "Basic x"},
    ):
        answer = client.open(path_of(route), method=route.method, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("route", ROUTES, ids=ids)
@pytest.mark.parametrize("role", Role)
def test_a_role_may_do_what_the_table_says_and_nothing_else(
    rig: Rig, route: Route, role: Role
) -> None:
    status, problem = rig.person(role, "somebody").ask(route.method, path_of(route), [])
    assert (status == 403) is (role not in route.roles), problem


@pytest.mark.parametrize("route", ROUTES, ids=ids)
def test_every_route_has_its_operation(route: Route) -> None:
    assert callable(getattr(VmOperations, route.operation, getattr(Operations, route.operation, 0)))
    assert route.roles


def test_a_token_that_is_revoked_or_over_opens_nothing(rig: Rig) -> None:
    root = rig.person(Role.OPERATE, "root")
    _, made = root.ask("POST", "/v1/tokens", {"name": "bob", "role": "see"})
    bob = Person(rig.app.test_client(), made["token"])
    assert bob.ask("GET", "/v1/proxies")[0] == 200
    assert root.ask("DELETE", f"/v1/tokens/{made['id']}")[0] == 200
    assert bob.ask("GET", "/v1/proxies")[0] == 401
    over = rig.database.write(lambda c: access.make(c, "eve", Role.SEE, 0.0, 10.0))
    assert Person(rig.app.test_client(), over.token).ask("GET", "/v1/proxies")[0] == 401


def test_a_token_is_told_once_and_kept_as_a_hash(rig: Rig) -> None:
    root = rig.person(Role.OPERATE, "root")
    _, made = root.ask("POST", "/v1/tokens", {"name": "bob", "role": "see", "lifetime": 60})
    assert made["token"] not in json.dumps(root.get("/v1/tokens"))
    with rig.database.read() as connection:
        rows = connection.exec_driver_sql("SELECT * FROM tokens").all()
    assert made["token"] not in repr(rows)


def test_the_cloud_makes_users_tokens_and_no_others(rig: Rig) -> None:
    cloud = rig.person(Role.CLOUD, "cloud")
    assert cloud.ask("POST", "/v1/tokens", {"name": "alice", "role": "user"})[0] == 200
    assert cloud.ask("POST", "/v1/tokens", {"name": "alice", "role": "operate"})[0] == 403


def test_every_call_is_written_down_with_how_it_was_answered(rig: Rig) -> None:
    root = rig.person(Role.OPERATE, "root")
    rig.person(Role.SEE, "looker").ask("DELETE", "/v1/proxies/p9")
    root.ask("DELETE", "/v1/proxies/p9")
    found = root.get("/v1/audit?limit=2")
    assert [(one["who"], one["request"], one["status"], one["subject"]) for one in found] == [
        ("operate:root", "DELETE /v1/proxies/{proxy}", 404, "p9"),
        ("see:looker", "DELETE /v1/proxies/{proxy}", 403, "p9"),
    ]
    assert {one["source"] for one in found} == {"127.0.0.1"}


def test_a_database_that_fails_is_said_and_calls_are_written_down_later(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/manager.db")
    manager = Manager(
        database, Settings(name="m1", key=b"k" * 32, identity=Keys(tmp_path).identity)
    )
    root = Rig(manager, manager.app, database).person(Role.OPERATE, "root")
    database.write(lambda c: c.exec_driver_sql("ALTER TABLE proxies RENAME TO gone"))
    status, problem = root.ask("GET", "/v1/proxies")
    assert (status, problem["type"], problem["retryable"]) == (503, "/v1/problems/database", True)
    database.write(lambda c: c.exec_driver_sql("ALTER TABLE gone RENAME TO proxies"))
    database.write(lambda c: c.exec_driver_sql("ALTER TABLE audit RENAME TO gone"))
    assert root.ask("DELETE", "/v1/proxies/p1")[0] == 404
    database.write(lambda c: c.exec_driver_sql("ALTER TABLE gone RENAME TO audit"))
    manager.audit.flush()
    found = [(one["request"], one["status"]) for one in root.get("/v1/audit")]
    assert found == [("DELETE /v1/proxies/{proxy}", 404), ("GET /v1/proxies", 503)]
    manager.close()
    database.close()


def test_nobody_fills_the_audit(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/manager.db")
    manager = Manager(
        database, Settings(name="m1", key=b"k" * 32, identity=Keys(tmp_path).identity)
    )
    stranger = Person(manager.app.test_client(), "")
    for _ in range(audit.STRANGERS + 20):
        assert stranger.ask("POST", "/v1/console-sessions", {})[0] == 401
    manager.audit.flush_strangers()
    with database.read() as connection:
        found = audit.listed(connection, None, 1000)
    assert len(found) == audit.STRANGERS + 1
    assert (found[0].request, found[0].subject) == ("more of these", "20 calls")
    assert (found[1].who, found[1].request, found[1].status) == (
        "", "POST /v1/console-sessions", 401,
    )  # fmt: skip
    manager.close()
    database.close()


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        ({}, ["/vm"]),
        ({"vm": "a\nb", "user": "", "valid": 0}, ["/user", "/valid", "/vm"]),
        (
            {"vm": "a", "target": {"address": "127.0.0.1.nip.io"}},
            ["/target/address", "/target/port"],
        ),
        ({"vm": "a", "more": 1}, ["/more"]),
        ({"vm": "a", "user": "alice", "target": {"address": "10.2.0.7", "port": 1}}, ["/zone"]),
    ],
)
def test_all_problems_come_at_once(rig: Rig, body: dict[str, Any], paths: list[str]) -> None:
    status, problem = rig.person(Role.CLOUD, "cloud").ask("POST", "/v1/console-sessions", body)
    assert (status, problem["type"]) == (422, "/v1/problems/invalid")
    assert [one["path"] for one in problem["problems"]] == paths


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/v1/nothing", 404, "unknown-path"),
        ("PATCH", "/v1/proxies", 405, "method-not-allowed"),
        ("GET", "/v1/proxies?x=1", 400, "bad-request"),
        ("GET", "/v1/console-sessions?limit=0", 400, "bad-request"),
        ("GET", "/v1/console-sessions?limit=5&limit=6", 400, "bad-request"),
        ("GET", "/v1/console-sessions?vm=%0a", 400, "bad-request"),
        ("GET", "/v1/console-sessions/..%2f..", 404, "unknown-path"),
        ("GET", "/v1/console-sessions/xyz", 400, "bad-request"),
        ("GET", "//evil.example/%2f..", 404, "unknown-path"),
        ("PUT", "/v1/proxies/-x", 400, "bad-request"),
    ],
)
def test_what_is_malformed_is_said(
    rig: Rig, method: str, path: str, status: int, kind: str
) -> None:
    answer = rig.person(Role.OPERATE, "root").ask(method, path)
    assert (answer[0], answer[1]["type"]) == (status, f"/v1/problems/{kind}")


def test_bodies_are_bounded(rig: Rig) -> None:
    root = rig.person(Role.OPERATE, "root")
    status, problem = root.ask("PUT", "/v1/proxies/p1", "x" * LONGEST)
    assert (status, problem["type"]) == (413, "/v1/problems/too-large")


@settings(max_examples=60)
@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["vm", "user", "zone", "target", "credentials", "policy", "valid"]), inner
    ), max_leaves=10,
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_nonsense_is_a_problem_and_never_a_mistake_of_ours(rig: Rig, data: bytes) -> None:
    cloud = rig.person(Role.CLOUD, "cloud")
    headers = {"Authorization": f"Bearer {cloud.token}"}
    answer = cloud.client.post("/v1/console-sessions", data=data, headers=headers)
    assert answer.status_code in {400, 404, 422, 503}, answer.data


def test_a_problem_says_what_it_is(client: FlaskClient) -> None:
    assert client.get("/v1/problems/no-proxy").json["status"] == 503  # type: ignore[index]  # it is
    assert client.get("/v1/problems/nothing").status_code == 404


def test_the_description_is_that_of_the_routes(client: FlaskClient) -> None:
    told = client.get("/v1/openapi.json").json
    assert told == json.loads(json.dumps(openapi.description()))
    operations = {(method.upper(), path) for path, item in told["paths"].items() for method in item}
    assert operations == {(route.method, route.path) for route in ROUTES}
    known = told["components"]["schemas"]
    for name, schema in known.items():
        jsonschema.Draft202012Validator.check_schema(schema)
        references = [part for part in json.dumps(schema).split('"') if part.startswith("#/")]
        assert all(one.rsplit("/", 1)[-1] in told["components"]["schemas"] for one in references), (
            name
        )


def test_the_page_runs_only_its_own_script(client: FlaskClient) -> None:
    answer = client.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert b"<script>" not in answer.data
    assert b" on" not in answer.data.replace(b" one", b"")


def test_a_database_of_another_key_is_refused(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/manager.db")
    identity = Keys(tmp_path).identity
    Manager(database, Settings(name="m1", key=b"k" * 32, identity=identity)).close()
    with pytest.raises(Exception, match="does not open"):
        Manager(database, Settings(name="m2", key=b"l" * 32, identity=identity))
    database.close()
