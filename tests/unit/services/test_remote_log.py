"""The section that sends the journal elsewhere: as looked at, parsed back, and what is refused."""

import re
from typing import Any

import pydantic
import pytest

from agent.engine.model import Reaction, UnitActive
from agent.services import remote_log
from tests.unit.services.conftest import Golden
from tests.unit.services.sites import GUEST, PUBLIC, context, linted, rendered, service, texts

NAME = "remote_log"
PEM = "-----BEGIN CERTIFICATE-----\nTUlJQg==\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nTUlJQg==\n-----END PRIVATE KEY-----\n"
LEAST: dict[str, Any] = {"name": "log.example", "ca": PEM}
WHOLE: dict[str, Any] = {
    **LEAST,
    "address": "192.0.2.7",
    "port": 6515,
    "certificate": PEM,
    "key": KEY,
    "severity": "warning",
    "facilities": ["daemon", "auth"],
}


def parameters(text: str) -> dict[str, str]:
    """Every `name="value"` of the configuration; a later one of the same name wins."""
    return dict(re.findall(r'^\s*([A-Za-z_.]+)="([^"]*)"$', text, re.MULTILINE))


def test_files_render_as_looked_at(golden: Golden) -> None:
    golden(NAME, rendered(NAME, WHOLE))


def test_parses_back() -> None:
    text = texts(rendered(NAME, WHOLE))[remote_log.CONFIGURATION]
    found = parameters(text)
    assert (found["target"], found["port"], found["device"]) == ("192.0.2.7", "6515", "eth2")
    assert found["streamDriverPermittedPeers"] == "log.example"
    assert found["streamDriverAuthMode"] == "x509/name"
    assert 'if $syslogseverity <= 4 and $syslogfacility-text == ["auth", "daemon"] then {' in text
    assert text.count("{") == text.count("}")
    assert text.count("(") == text.count(")")


def test_least_that_can_be_said() -> None:
    artifacts = rendered(NAME, LEAST)
    text = texts(artifacts)[remote_log.CONFIGURATION]
    assert parameters(text)["target"] == "log.example"
    assert "if $syslogseverity <= 6 then {" in text
    assert "CertFile" not in text
    assert [file.path for file in artifacts.files] == [
        "remote_log/rsyslog.conf",
        "remote_log/ca.pem",
    ]


def test_only_rsyslog_reads_the_key_and_it_starts_anew_with_another() -> None:
    files = {file.path: file for file in rendered(NAME, WHOLE).files}
    key = files["remote_log/client.key"]
    assert (key.mode, key.owner) == (0o600, "sysvm-log:sysvm-log")
    assert {file.reaction for file in files.values()} == {Reaction.RESTART}
    assert {file.unit for file in files.values()} == {remote_log.UNIT}
    assert "TUlJQg" not in repr(key)


def test_it_runs_only_where_it_is_wanted() -> None:
    assert remote_log.ABSENT is None
    artifacts = rendered(NAME, LEAST)
    assert [unit.name for unit in artifacts.units] == [remote_log.UNIT]
    section = remote_log.Section.model_validate(LEAST)
    assert service(NAME).probe(section, context(), artifacts) == (UnitActive(remote_log.UNIT),)
    (command,) = service(NAME).check(section, context(), artifacts)
    assert command.argv[:2] == ("rsyslogd", "-N1")


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"address": "198.51.100.7"}, "/remote_log/address"),
        ({"certificate": PEM}, "/remote_log/key"),
        ({"key": KEY}, "/remote_log/certificate"),
    ],
)
def test_what_cannot_work_is_said_with_its_path(change: dict[str, Any], path: str) -> None:
    assert [problem.path for problem in linted(NAME, {**LEAST, **change})] == [path]


def test_vm_without_a_control_nic_sends_nothing_anywhere() -> None:
    (problem,) = linted(NAME, LEAST, context(PUBLIC, GUEST))
    assert problem.path == "/remote_log/name"


@pytest.mark.parametrize(
    "change",
    [
        {"name": 'a"b'}, {"name": "a b"}, {"name": ""}, {"name": "a\n"}, {"severity": "bad"},
        {"facilities": ['daemon"]']}, {"port": 0}, {"ca": "x"}, {"key": PEM + "x"}, {"more": 1},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        remote_log.Section.model_validate({**LEAST, **change})
