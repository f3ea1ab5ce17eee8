"""Services over the endpoint: how they are watched, held and released."""

import pytest
from flask.testing import FlaskClient

from agent.api import problems
from tests.unit.api.fake import NOW, FakeEngine, FakeMachine, FakeWatch, app, value

PATH = "/v1/services/dnsmasq"


@pytest.fixture
def watch() -> FakeWatch:
    return FakeWatch()


@pytest.fixture
def client(watch: FakeWatch) -> FlaskClient:
    client = app(FakeEngine(), FakeMachine(), watch=watch).test_client()
    assert client.put("/v1/document", json=value()).status_code == 201
    return client


def test_a_row_has_what_the_monitor_knows(client: FlaskClient) -> None:
    rows = {row["unit"]: row for row in client.get("/v1/services").get_json()}
    row = rows["dnsmasq.service"]
    assert (row["state"], row["alive"], row["ready"], row["correct"]) == ("running", *[True] * 3)
    assert (row["restarts"], row["held_until"], row["held_by"]) == (1, None, "")
    assert row["since"] is not None
    assert rows["haproxy.service"]["state"] == "not-wanted"
    assert rows["haproxy.service"]["alive"] is None


def test_a_unit_is_held_and_released(client: FlaskClient, watch: FakeWatch) -> None:
    wish = {"seconds": 1800, "reason": "an upgrade", "by": "ann"}
    answer = client.post(f"{PATH}/hold", json=wish)
    assert answer.status_code == 200
    row = answer.get_json()
    assert (row["state"], row["held_by"], row["held_why"]) == ("held", "ann", "an upgrade")
    assert watch.holds["dnsmasq.service"].until == NOW + 1800
    assert client.post(f"{PATH}/release", json={"by": "bob"}).get_json()["state"] == "running"
    assert watch.released == [("dnsmasq.service", "bob")]
    assert client.post(f"{PATH}/release").status_code == 200


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"seconds": 60},
        {"reason": "x"},
        {"seconds": 0, "reason": "x"},
        {"seconds": True, "reason": "x"},
        {"seconds": 10**9, "reason": "x"},
        {"seconds": 60, "reason": " "},
        {"seconds": 60, "reason": "two\nlines"},
        {"seconds": 60, "reason": "x" * 201},
        {"seconds": 60, "reason": "x", "by": "\x1b[2J"},
        {"seconds": 60, "reason": "x", "until": 3},
    ],
)
def test_a_hold_without_sense_is_refused(client: FlaskClient, wish: object) -> None:
    answer = client.post(f"{PATH}/hold", json=wish)
    assert answer.status_code == problems.BAD_REQUEST.status
    assert answer.get_json()["type"].endswith(problems.BAD_REQUEST.name)


def test_only_what_is_wanted_is_held(client: FlaskClient) -> None:
    wish = {"seconds": 60, "reason": "x"}
    answer = client.post("/v1/services/strongswan/hold", json=wish)
    assert answer.status_code == problems.NOT_WANTED.status
    assert client.post("/v1/services/cron/hold", json=wish).status_code == 404


def test_an_operators_restart_forgets_earlier_deaths(client: FlaskClient, watch: FakeWatch) -> None:
    assert client.post(f"{PATH}/restart").status_code == 200
    assert watch.cleared == ["dnsmasq.service"]
