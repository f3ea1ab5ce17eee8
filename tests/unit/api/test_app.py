"""Every path of the endpoint, every way in which it says no."""

import json
import logging
import time

import pytest
from flask.testing import FlaskClient

from agent.api import problems
from agent.api.app import PEER
from agent.document.types import REDACTED
from agent.engine.errors import (
    AwaitingConfirm,
    Busy,
    EngineError,
    GenerationConflict,
    NoSuchRevision,
    NotProvisional,
    StaleGeneration,
    UnreadableState,
)
from agent.engine.host import CheckFailed, HostFull, StepFailed
from agent.engine.model import Degraded, Outcome, Problem, Refused, RolledBack
from tests.unit.api.answers import expect_problem, put
from tests.unit.api.fake import BLOB, FakeEngine, FakeMachine, document, sha256, value

MAC = "02:00:4c:00:01:0a"


# -- the document ------------------------------------------------------------------------------


def test_first_document_is_created_and_comes_back_as_it_was(client: FlaskClient) -> None:
    response = put(client)
    assert response.status_code == 201
    answer = response.get_json()
    assert answer["result"] == "committed"
    assert answer["revision"] == 1
    assert answer["generation"] == 1
    assert answer["plan"] == ["+ address 203.0.113.5/24 on eth2"]
    assert answer["warnings"] == ["haproxy.service was down before"]
    assert answer["duration_ms"] >= 0
    got = client.get("/v1/document")
    assert got.get_data() == document()
    assert got.headers["ETag"] == response.headers["ETag"] == f'"{sha256(document())}"'


def test_no_answer_tells_a_secret(client: FlaskClient) -> None:
    data = json.dumps(
        value() | {"passwords": {"guests": {"10.1.1.10": {"mac": MAC, "password": "Kp7xQ2mZ"}}}}
    )
    pushed = client.put("/v1/document", data=data)
    assert pushed.status_code == 201
    for path in ("/v1/document", "/v1/revisions/1"):
        answer = client.get(path)
        document = answer.get_json() if path == "/v1/document" else answer.get_json()["document"]
        assert "Kp7xQ2mZ" not in json.dumps(document)
        assert document["passwords"]["guests"]["10.1.1.10"] == {"mac": MAC, "password": REDACTED}
    got = client.get("/v1/document")
    assert got.headers["ETag"] == pushed.headers["ETag"]
    back = client.put("/v1/document", data=got.get_data())
    found = expect_problem(back, problems.REFUSED)["problems"]
    assert [one["path"] for one in found] == ["/passwords/guests/10.1.1.10/password"]


def test_first_document_after_a_boot_is_created(client: FlaskClient, engine: FakeEngine) -> None:
    put(client, 0)
    engine.current_is_of_the_boot()
    assert put(client).status_code == 201
    assert put(client, 2).status_code == 200


def test_next_document_is_200(client: FlaskClient) -> None:
    put(client)
    assert put(client, 2).status_code == 200


def test_same_document_again_is_unchanged(client: FlaskClient) -> None:
    put(client)
    answer = put(client)
    assert answer.status_code == 200
    assert answer.get_json()["result"] == "unchanged"
    assert answer.get_json()["revision"] == 1


def test_same_document_again_is_told_that_it_still_has_to_be_confirmed(client: FlaskClient) -> None:
    put(client)
    first = put(client, 2, "?confirm_within=120")
    for query in ("", "?confirm_within=600"):
        again = put(client, 2, query)
        assert again.status_code == 202
        answer = again.get_json()
        assert answer["result"] == "unchanged"
        for name in ("revision", "confirm", "deadline", "seconds_left"):
            assert answer[name] == first.get_json()[name]
    assert client.post("/v1/revisions/2/confirm").get_json()["confirm"] is None
    answer = put(client, 2)
    assert (answer.status_code, answer.get_json()["confirm"]) == (200, None)


def test_document_that_the_client_has_is_not_sent_again(client: FlaskClient) -> None:
    etag = put(client).headers["ETag"]
    assert client.get("/v1/document", headers={"If-None-Match": etag}).status_code == 304
    assert client.get("/v1/document", headers={"If-None-Match": '"other"'}).status_code == 200


def test_no_document_yet(client: FlaskClient) -> None:
    expect_problem(client.get("/v1/document"), problems.NOTHING_APPLIED)
    expect_problem(client.get("/v1/drift"), problems.NOTHING_APPLIED)
    expect_problem(client.get("/v1/show/rules"), problems.NOTHING_APPLIED)
    assert client.get("/v1/show/interfaces").get_json() == []


def test_provisional_change_says_how_to_confirm_it(client: FlaskClient) -> None:
    put(client)
    response = put(client, 2, "?confirm_within=120")
    assert response.status_code == 202
    answer = response.get_json()
    assert answer["result"] == "provisional"
    assert answer["confirm"] == "/v1/revisions/2/confirm"
    assert answer["seconds_left"] == 120
    assert answer["deadline"] == "2027-01-15T08:02:00Z"
    told = client.get("/v1/status").get_json()
    assert told["provisional"] is True
    assert (told["deadline"], told["seconds_left"]) == (answer["deadline"], 120)
    confirmed = client.post(answer["confirm"])
    assert confirmed.status_code == 200
    assert confirmed.get_json()["result"] == "committed"
    assert client.get("/v1/status").get_json()["provisional"] is False
    expect_problem(client.post(answer["confirm"]), problems.NOT_PROVISIONAL)


@pytest.mark.parametrize("seconds", ["0", "0.5", "3601", "-1", "nan", "inf", "soon", ""])
def test_time_to_confirm_has_bounds(client: FlaskClient, engine: FakeEngine, seconds: str) -> None:
    response = put(client, 1, f"?confirm_within={seconds}")
    expect_problem(response, problems.BAD_REQUEST)
    assert engine.calls == []


def test_dry_run_tells_the_plan_and_does_nothing(client: FlaskClient, engine: FakeEngine) -> None:
    response = put(client, 1, "?dry_run=1")
    assert response.status_code == 200
    assert response.get_json() == {"plan": ["+ address 203.0.113.5/24 on eth2"]}
    assert engine.calls == ["plan"]


@pytest.mark.parametrize("query", ["?dryrun=1", "?dry_run=yes", "?dry_run=1&dry_run=0", "?x"])
def test_query_that_is_not_understood_changes_nothing(
    client: FlaskClient, engine: FakeEngine, query: str
) -> None:
    expect_problem(put(client, 1, query), problems.BAD_REQUEST)
    assert engine.calls == []


def test_if_match_guards_a_push(client: FlaskClient) -> None:
    etag = put(client).headers["ETag"]
    stale = put(client, 2, headers={"If-Match": '"0123"'})
    expect_problem(stale, problems.PRECONDITION_FAILED)
    expect_problem(put(client, 2, headers={"If-Match": f"W/{etag}"}), problems.PRECONDITION_FAILED)
    assert put(client, 2, headers={"If-Match": f'"0123", {etag}'}).status_code == 200
    assert put(client, 3, headers={"If-Match": "*"}).status_code == 200


def test_if_match_of_anything_fails_where_nothing_is(client: FlaskClient) -> None:
    response = put(client, 1, headers={"If-Match": "*"})
    expect_problem(response, problems.PRECONDITION_FAILED)


@pytest.mark.parametrize("header", ["0123", "", '"a" b', ","])
def test_if_match_that_is_no_etag_is_refused(
    client: FlaskClient, engine: FakeEngine, header: str
) -> None:
    expect_problem(put(client, 1, headers={"If-Match": header}), problems.BAD_REQUEST)
    assert engine.calls == []


def test_patch_changes_the_document_that_runs(client: FlaskClient) -> None:
    etag = put(client).headers["ETag"]
    change = {"generation": 2, "site": {"hostname": "vm2"}}
    headers = {"If-Match": etag}
    dry = client.patch("/v1/document?dry_run=1", json=change, headers=headers)
    assert dry.get_json()["plan"]
    assert client.patch("/v1/document", json=change, headers=headers).status_code == 200
    assert client.get("/v1/document").get_json()["site"]["hostname"] == "vm2"
    again = client.patch("/v1/document", json=change, headers=headers)
    expect_problem(again, problems.PRECONDITION_FAILED)


def test_patch_needs_if_match(client: FlaskClient, engine: FakeEngine) -> None:
    expect_problem(client.patch("/v1/document", json={}), problems.PRECONDITION_REQUIRED)
    assert engine.calls == []


def test_json_patch_is_not_mistaken_for_a_merge_patch(client: FlaskClient) -> None:
    response = client.patch(
        "/v1/document", data="[]", content_type="application/json-patch+json; charset=utf-8"
    )
    expect_problem(response, problems.UNSUPPORTED_MEDIA)


def test_compressed_body_is_refused(client: FlaskClient) -> None:
    response = put(client, 1, headers={"Content-Encoding": "gzip"})
    expect_problem(response, problems.UNSUPPORTED_MEDIA)


def test_form_type_of_curl_does_not_eat_the_body(client: FlaskClient) -> None:
    response = put(client, content_type="application/x-www-form-urlencoded")
    assert response.status_code == 201


# -- what is refused ---------------------------------------------------------------------------


def test_invalid_document_has_every_problem(client: FlaskClient) -> None:
    bad = value() | {"site": {"hostname": "a\nserver=6.6.6.6", "nics": {}}, "tftp": {}}
    body = expect_problem(client.put("/v1/document", json=bad), problems.REFUSED)
    paths = {problem["path"] for problem in body["problems"]}
    assert {"/tftp", "/site/hostname", "/site/nics"} <= paths
    expect_problem(client.get("/v1/document"), problems.NOTHING_APPLIED)


NOT_JSON = {
    "nothing": b"",
    "half": b'{"generation": 1',
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep-objects": b'{"a":' * 100_000,
    "twice": b'{"generation": 1, "generation": 2}',
    "nan": b'{"generation": NaN}',
    "infinite": b'{"generation": 1e400}',
    "latin-1": '{"a": "é"}'.encode("latin-1"),
    "long-number": b'{"generation": ' + b"9" * 100_000 + b"}",
    "utf-16": '{"generation": 1}'.encode("utf-16"),
}


@pytest.mark.parametrize("data", NOT_JSON.values(), ids=NOT_JSON.keys())
@pytest.mark.parametrize("query", ["", "?dry_run=1"])
def test_what_is_not_json_is_400_at_once(client: FlaskClient, data: bytes, query: str) -> None:
    began = time.monotonic()
    response = client.put(f"/v1/document{query}", data=data)
    expect_problem(response, problems.NOT_JSON)
    assert time.monotonic() - began < 5  # generous: the machine may be busy


def test_patch_that_is_not_json_is_400(client: FlaskClient) -> None:
    etag = put(client).headers["ETag"]
    response = client.patch("/v1/document", data=b"{", headers={"If-Match": etag})
    expect_problem(response, problems.NOT_JSON)


def test_huge_integer_is_invalid(client: FlaskClient) -> None:
    bad = value() | {"generation": 2**70}
    expect_problem(client.put("/v1/document", json=bad), problems.REFUSED)


def test_body_that_is_too_large_is_413(client: FlaskClient, engine: FakeEngine) -> None:
    response = client.put("/v1/document", data=b" " * (16 * 2**20 + 1))
    expect_problem(response, problems.TOO_LARGE)
    assert engine.calls == []


def test_older_and_conflicting_generations_are_409(client: FlaskClient) -> None:
    put(client, 7)
    expect_problem(put(client, 6), problems.STALE_GENERATION)
    other = client.put("/v1/document", data=document(7, "other"))
    expect_problem(other, problems.GENERATION_CONFLICT)


PROBLEM = Problem("/nat/forwards/ssh", "cannot be bound", "another port")
ENDS: list[tuple[Outcome, problems.Kind]] = [
    (Refused((PROBLEM, Problem("", "says haproxy"))), problems.REFUSED),
    (RolledBack(3, "haproxy: cannot bind", (PROBLEM,)), problems.DID_NOT_HOLD),
    (RolledBack(3, "systemd: timeout"), problems.ROLLED_BACK),
    (RolledBack(0, "systemd: timeout", (Problem("", "somewhere"),)), problems.ROLLED_BACK),
    (Degraded("the disk is gone"), problems.DEGRADED),
]


@pytest.mark.parametrize(("outcome", "kind"), ENDS)
def test_how_a_change_ends_badly(
    client: FlaskClient, engine: FakeEngine, outcome: Outcome, kind: problems.Kind
) -> None:
    engine.ends = outcome
    body = expect_problem(put(client), kind)
    found = getattr(outcome, "problems", ())
    assert [p["path"] for p in body.get("problems", [])] == [p.path for p in found]
    last = client.get("/v1/status").get_json()["last"]
    assert last["result"] == kind.name
    assert last["request"] == "PUT /v1/document"


def test_roll_back_says_what_runs_again(client: FlaskClient, engine: FakeEngine) -> None:
    engine.ends = RolledBack(3, "systemd: timeout")
    assert "revision 3 runs again" in put(client).get_json(force=True)["detail"]


RAISED: list[tuple[Exception, problems.Kind]] = [
    (StaleGeneration(1, 2), problems.STALE_GENERATION),
    (GenerationConflict(1, "a", "b"), problems.GENERATION_CONFLICT),
    (AwaitingConfirm(4), problems.AWAITING_CONFIRM),
    (NotProvisional(4), problems.NOT_PROVISIONAL),
    (NoSuchRevision(4), problems.NO_SUCH_REVISION),
    (NoSuchRevision(None), problems.NO_SUCH_REVISION),
    (Busy(2.2), problems.BUSY),
    (HostFull("no space left on device"), problems.FULL),
    (UnreadableState("state.json", "is not JSON"), problems.UNREADABLE_STATE),
    (CheckFailed("haproxy -c", "no such file", "/load_balancer"), problems.REFUSED),
    (StepFailed("read units", "no bus"), problems.MACHINE_FAILED),
]


@pytest.mark.parametrize(("error", "kind"), RAISED)
def test_what_the_engine_raises(
    client: FlaskClient, engine: FakeEngine, error: Exception, kind: problems.Kind
) -> None:
    engine.fails = error
    expect_problem(put(client), kind)


def test_busy_says_when_to_try_again(client: FlaskClient, engine: FakeEngine) -> None:
    engine.fails = Busy(2.2)
    assert put(client).headers["Retry-After"] == "3"


def test_every_error_of_the_engine_has_its_answer() -> None:
    from agent.engine import errors

    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, EngineError) and kind is not EngineError
    ]
    handled = {type(error) for error, _ in RAISED} | {
        errors.PreconditionFailed,
        errors.NothingApplied,
    }
    assert set(kinds) <= handled


def test_unforeseen_error_tells_the_log_and_not_the_client(
    client: FlaskClient, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.fails = ZeroDivisionError("a secret")
    body = expect_problem(put(client), problems.UNEXPECTED)
    assert "secret" not in json.dumps(body)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_unknown_paths_and_methods(client: FlaskClient) -> None:
    for path in ("/", "/v1", "/v2/document", "/v1/document/", "/v1/revisions/x", "/v1/show/all"):
        expect_problem(client.get(path), problems.UNKNOWN_PATH)
    response = client.post("/v1/document")
    expect_problem(response, problems.METHOD_NOT_ALLOWED)
    assert response.headers["Allow"] == "GET, HEAD, PATCH, PUT"
    expect_problem(client.options("/v1/document"), problems.METHOD_NOT_ALLOWED)


# -- blobs -------------------------------------------------------------------------------------


def test_blob_is_stored_once(client: FlaskClient) -> None:
    path = f"/v1/blobs/{sha256(BLOB)}"
    expect_problem(client.get(path), problems.NO_SUCH_BLOB)
    assert client.head(path).status_code == 404
    first = client.put(path, data=BLOB)
    assert (first.status_code, first.get_json()["size"]) == (201, len(BLOB))
    assert client.put(path, data=BLOB).status_code == 200
    assert client.get(path).get_data() == BLOB
    head = client.head(path)
    assert (head.status_code, head.get_data()) == (200, b"")
    assert head.headers["Content-Length"] == str(len(BLOB))


def test_blob_that_is_not_what_its_name_says(client: FlaskClient, machine: FakeMachine) -> None:
    path = f"/v1/blobs/{sha256(BLOB)}"
    body = expect_problem(client.put(path, data=BLOB + b"x"), problems.DIGEST_MISMATCH)
    assert sha256(BLOB + b"x") in body["detail"]
    assert machine.blobs == {}


@pytest.mark.parametrize("name", ["x", "A" * 64, "0" * 63, "..", "%2e%2e"])
def test_blob_of_another_name(client: FlaskClient, name: str) -> None:
    assert client.put(f"/v1/blobs/{name}", data=BLOB).status_code in {400, 404}


def test_blob_has_a_limit_and_a_disk(client: FlaskClient, machine: FakeMachine) -> None:
    large = b"x" * (4 * 2**20 + 1)
    expect_problem(client.put(f"/v1/blobs/{sha256(large)}", data=large), problems.TOO_LARGE)
    allowed = large[:-1]
    assert client.put(f"/v1/blobs/{sha256(allowed)}", data=allowed).status_code == 201
    machine.fails = HostFull("no space left on device")
    expect_problem(client.put(f"/v1/blobs/{sha256(BLOB)}", data=BLOB), problems.FULL)


# -- revisions ---------------------------------------------------------------------------------


def test_revisions_say_which_one_runs(client: FlaskClient) -> None:
    put(client)
    put(client, 2, "?confirm_within=60")
    answer = client.get("/v1/revisions").get_json()
    assert (answer["current"], answer["confirmed"], answer["seconds_left"]) == (2, 1, 60)
    assert [(r["revision"], r["state"]) for r in answer["revisions"]] == [
        (2, "provisional"),
        (1, "confirmed"),
    ]
    one = client.get("/v1/revisions/1").get_json()
    assert one["document"] == value()
    assert one["info"]["age"] == 60
    expect_problem(client.get("/v1/revisions/9"), problems.NO_SUCH_REVISION)


@pytest.mark.parametrize("body", [b"", b"{}", b' {"revision": null} '])
def test_roll_back_to_the_one_before(client: FlaskClient, body: bytes) -> None:
    put(client)
    put(client, 2)
    response = client.post("/v1/rollback", data=body)
    assert response.status_code == 200
    assert response.get_json()["revision"] == 3
    assert client.get("/v1/document").get_data() == document(1)


def test_roll_back_to_a_named_one(client: FlaskClient) -> None:
    for generation in (1, 2, 3):
        put(client, generation)
    assert client.post("/v1/rollback", json={"revision": 1}).status_code == 200
    assert client.get("/v1/document").get_data() == document(1)
    expect_problem(client.post("/v1/rollback", json={"revision": 9}), problems.NO_SUCH_REVISION)


@pytest.mark.parametrize(
    "body", [b"[]", b'{"revision": "1"}', b'{"revision": true}', b'{"to": 1}', b'{"revision": -1}']
)
def test_roll_back_that_is_not_understood(
    client: FlaskClient, engine: FakeEngine, body: bytes
) -> None:
    expect_problem(client.post("/v1/rollback", data=body), problems.BAD_REQUEST)
    expect_problem(client.post("/v1/rollback", data=b"{"), problems.NOT_JSON)
    assert engine.calls == []


def test_roll_back_where_nothing_was_before(client: FlaskClient) -> None:
    put(client)
    expect_problem(client.post("/v1/rollback"), problems.NO_SUCH_REVISION)


# -- the log -----------------------------------------------------------------------------------


def test_changes_leave_a_line_with_who_and_what(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    headers = {"X-Sysvm-Client": "manager-1.example"}
    put(client, headers=headers, environ_overrides={PEER: "uid 0 pid 7"})
    client.get("/v1/status")
    put(client, 2, "?dry_run=1")
    assert len(caplog.messages) == 1
    line = caplog.messages[0]
    assert line.startswith("PUT /v1/document by manager-1.example (uid 0 pid 7): committed")
    assert "revision 1, generation 1" in line


def test_client_cannot_write_its_own_line(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    put(client, headers={"X-Sysvm-Client": "a\x1b[2Jb"})
    client.put("/v1/blobs/x%0ay", data=b"")
    assert all(line.isprintable() for line in caplog.messages)
    assert "an unprintable name" in caplog.messages[0]


def test_log_has_paths_of_a_document_and_none_of_its_values(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bad = value() | {"site": {"hostname": "CANARY!", "nics": {}}}
    expect_problem(client.put("/v1/document", json=bad), problems.REFUSED)
    assert "/site/hostname" in caplog.text
    assert "CANARY" not in caplog.text
