"""The endpoint on the machine: status, drift, services, logs, legacy rules."""

from flask.testing import FlaskClient

from agent.api import problems
from agent.api.ports import MachineFailed
from agent.engine.model import Plan
from tests.unit.api.answers import expect_problem, put
from tests.unit.api.fake import PLAN, FakeEngine, FakeMachine, document, sha256

UNIT = "dnsmasq.service"


def test_status_before_the_first_document(client: FlaskClient) -> None:
    answer = client.get("/v1/status").get_json()
    assert answer["hostname"] == "booted"
    assert answer["running"] is None
    assert answer["drift"] is None
    assert answer["last"] is None
    assert answer["state_problem"] == ""


def test_status_says_that_nothing_is_kept(client: FlaskClient, machine: FakeMachine) -> None:
    machine.state_problem = "the state partition cannot be used"
    assert client.get("/v1/status").get_json()["state_problem"] == machine.state_problem


def test_status_on_one_screen(client: FlaskClient, engine: FakeEngine) -> None:
    put(client)
    engine.drifted = PLAN
    engine.degrade("why")
    answer = client.get("/v1/status").get_json()
    assert answer["hostname"] == "vm1"
    assert answer["role"] == "router"
    assert answer["running"]["digest"] == sha256(document())
    assert answer["drift"] is True
    assert answer["degraded"] == "why"
    assert answer["agent"]["memory"] == 31 * 2**20
    assert answer["last"]["result"] == "committed"
    assert answer["interfaces"][1]["missing"] == ["203.0.113.5/24"]


def test_drift_is_the_plan_that_would_mend_it(
    client: FlaskClient, engine: FakeEngine, machine: FakeMachine
) -> None:
    put(client)
    machine.legacy = ()
    assert client.get("/v1/drift").get_json() == {"drift": False, "plan": []}
    engine.drifted = Plan(PLAN.steps)
    assert client.get("/v1/drift").get_json() == {
        "drift": True,
        "plan": ["+ address 203.0.113.5/24 on eth2"],
    }


def test_rules_in_the_legacy_tables_are_drift(client: FlaskClient) -> None:
    put(client)
    answer = client.get("/v1/drift").get_json()
    assert answer["drift"] is True
    assert answer["plan"][0].startswith("- legacy ipv4 filter: ")


def test_legacy_rules_are_shown_and_removed(client: FlaskClient, machine: FakeMachine) -> None:
    found = client.get("/v1/legacy-rules").get_json()["rules"]
    assert found[0]["rule"] == "-A INPUT -p tcp --dport 22 -j ACCEPT"
    assert client.delete("/v1/legacy-rules").get_json()["rules"] == found
    assert client.get("/v1/legacy-rules").get_json()["rules"] == []
    machine.fails = MachineFailed("read the legacy tables", "the child crashed")
    expect_problem(client.get("/v1/legacy-rules"), problems.MACHINE_FAILED)


def test_services_are_restarted_only_where_they_are_wanted(
    client: FlaskClient, machine: FakeMachine
) -> None:
    path = f"/v1/services/{UNIT}/restart"
    expect_problem(client.post(path), problems.NOT_WANTED)
    put(client)
    answer = client.post(path)
    assert (answer.status_code, answer.get_json()["unit"]) == (200, UNIT)
    assert client.post("/v1/services/dnsmasq/restart").status_code == 200
    assert machine.restarted == [UNIT, UNIT]
    for unit in ("ssh", "sysvm-agent", "-h", "dnsmasq.socket", "a%20b"):
        expect_problem(client.post(f"/v1/services/{unit}/restart"), problems.NO_SUCH_UNIT)
    machine.fails = MachineFailed("restart dnsmasq.service", "failed")
    expect_problem(client.post(path), problems.MACHINE_FAILED)
    units = {row["unit"]: row["wanted"] for row in client.get("/v1/services").get_json()}
    assert units[UNIT] is True


def test_logs_of_our_units_only(client: FlaskClient, machine: FakeMachine) -> None:
    machine.lines = tuple(f"line {i}" for i in range(200))
    assert len(client.get("/v1/services/dnsmasq/logs").get_json()["lines"]) == 100
    answer = client.get("/v1/services/sysvm-agent/logs?lines=2").get_json()
    assert answer == {"unit": "sysvm-agent.service", "lines": ["line 198", "line 199"]}
    for unit in ("ssh", "sysvm-agent.service@x", "--all", "sysvm-", "*"):
        expect_problem(client.get(f"/v1/services/{unit}/logs"), problems.NO_SUCH_UNIT)
    for lines in ("0", "-1", "10001", "x", "999999999999"):
        response = client.get(f"/v1/services/dnsmasq/logs?lines={lines}")
        expect_problem(response, problems.BAD_REQUEST)


def test_every_problem_describes_itself(client: FlaskClient) -> None:
    listed = client.get("/v1/problems").get_json()
    assert [kind["name"] for kind in listed] == list(problems.KINDS)
    for kind in problems.KINDS.values():
        assert client.get(kind.type).get_json()["hint"] == kind.hint
    expect_problem(client.get("/v1/problems/none"), problems.UNKNOWN_PATH)
