"""The health checks' answers, and the metrics as a parser of Prometheus' own reads them."""

from dataclasses import replace

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from agent.api.ports import BalancerRow
from agent.engine.errors import Busy
from agent.monitor.health import Level
from tests.unit.api import fake
from tests.unit.api.fake import FakeEngine, FakeMachine, document
from tests.unit.api.fake_health import RESULTS, FakeHealth

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def health() -> FakeHealth:
    return FakeHealth()


@pytest.fixture
def client(engine: FakeEngine, machine: FakeMachine, health: FakeHealth) -> FlaskClient:
    return fake.app(engine, machine, health=health).test_client()


def metrics(client: FlaskClient) -> tuple[Samples, dict[str, str]]:
    """Values by name and labels, and each family's type."""
    answer = client.get("/v1/metrics")
    assert answer.status_code == 200
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    families = list(text_string_to_metric_families(answer.text))
    samples = [sample for family in families for sample in family.samples]
    found = {(s.name, frozenset(s.labels.items())): float(s.value) for s in samples}
    assert len(found) == len(samples), "a series twice"
    return found, {family.name: family.type for family in families}


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"sysvm_{name}", frozenset(labels.items())]


def test_health_has_every_last_result_and_the_worst(client: FlaskClient) -> None:
    answer = client.get("/v1/health").json
    assert answer is not None
    assert answer["worst"] == "failed"
    assert answer["failing"] == ["dns"]
    assert [one["name"] for one in answer["results"]] == ["cpu", "dns", "dhcp"]
    assert answer["results"][1]["missing"] == list(RESULTS[1].missing)
    assert answer["rounds"][0]["next_in"] == 120.0


def test_checks_are_run_of_a_level_and_of_a_name(client: FlaskClient, health: FakeHealth) -> None:
    for query, asked in (
        ("", (None, None)),
        ("?level=basic", (Level.BASIC, None)),
        ("?name=dns", (None, "dns")),
        ("?level=advanced&name=dhcp", (Level.ADVANCED, "dhcp")),
    ):
        assert client.post(f"/v1/health/run{query}").status_code == 200
        assert health.asked[-1] == asked


def test_a_check_that_is_not_there_and_a_level_that_is_none_are_refused(
    client: FlaskClient,
) -> None:
    answer = client.post("/v1/health/run?name=nothing")
    assert (answer.status_code, (answer.json or {})["type"]) == (404, "/v1/problems/no-such-check")
    assert client.post("/v1/health/run?level=middle").status_code == 400


def test_a_round_that_does_not_end_is_busy(client: FlaskClient, health: FakeHealth) -> None:
    health.fails = Busy()
    assert client.post("/v1/health/run").status_code == 503


def test_a_run_is_no_change(client: FlaskClient) -> None:
    assert client.put("/v1/document", data=document()).status_code in {200, 201}
    assert client.post("/v1/health/run").status_code == 200
    status = client.get("/v1/status").json or {}
    assert status["last"]["request"] == "PUT /v1/document"
    assert status["health"] == {"worst": "failed", "failing": ["dns"]}


def test_metrics_are_what_prometheus_reads(client: FlaskClient) -> None:
    assert client.put("/v1/document", data=document()).status_code in {200, 201}
    samples, types = metrics(client)
    assert value(samples, "check_ok", check="cpu", level="basic") == 1
    assert value(samples, "check_ok", check="dns", level="advanced") == 0
    assert value(samples, "check_ok", check="dhcp", level="advanced") == 1
    verdict = {"check": "dns", "level": "advanced", "verdict": "failed"}
    assert value(samples, "check_verdict", **verdict) == 1
    assert value(samples, "service_restarts_total", unit="dnsmasq.service") == 2
    assert value(samples, "service_up", unit="dnsmasq.service") == 1
    assert value(samples, "interface_receive_bytes_total", interface="eth0") == 1
    assert value(samples, "connections") == 7
    assert value(samples, "cpu_seconds_total", mode="busy") == 100.5
    assert value(samples, "change_duration_seconds_count", result="committed") == 1
    assert value(samples, "balancer_up", listener="web", server="vm2") == 0
    assert value(samples, "balancer_up", listener="web", server="") == 1
    assert value(samples, "revision") == value(samples, "generation") == 1
    # The parser takes a counter's name without its suffix.
    assert types["sysvm_interface_receive_bytes"] == "counter"
    assert types["sysvm_change_duration_seconds"] == "summary"
    assert types["sysvm_check_ok"] == "gauge"


def test_what_is_not_known_is_left_out(client: FlaskClient) -> None:
    samples, _ = metrics(client)
    names = {name for name, _ in samples}
    assert "sysvm_revision" not in names
    assert "sysvm_state_free_inodes" not in names
    assert "sysvm_degraded" in names


def test_text_that_means_something_in_the_format_is_escaped(
    engine: FakeEngine, machine: FakeMachine
) -> None:
    evil = 'a"b\\c\nd'
    health = FakeHealth((replace(RESULTS[0], name=evil),))
    samples, _ = metrics(fake.app(engine, machine, health=health).test_client())
    assert value(samples, "check_ok", check=evil, level="basic") == 1


def test_a_great_load_balancer_is_not_told_whole(
    client: FlaskClient, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [BalancerRow(f"l{n}", "FRONTEND", "OPEN", None, 0, 0, 0, 0, "") for n in range(400)]
    rows += [BalancerRow(f"l{n}", "a", "UP", 1, 0, 0, 0, 0, "") for n in range(400)]
    monkeypatch.setattr(machine, "balancer", lambda: tuple(rows))
    samples, _ = metrics(client)
    assert value(samples, "balancer_left_out") == 300
    assert value(samples, "balancer_up", listener="l399", server="") == 1
