"""Secrets come in and never go out: every one is marked, and a document is shown without them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.diagnostics.scrub import secrets_of
from agent.document import boot
from agent.document.document import InvalidDocument, canonical, parse, schema
from agent.document.secrets import canonical_redacted, redacted
from agent.document.types import REDACTED
from tests.unit.document.planted import planted
from tests.unit.engine.documents import ROUTER, router, with_forward, with_services, with_tunnels

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.json"))

# What a field that holds a secret is called, and nothing else is.
NAMES = {"key", "password", "passphrase", "private_key", "psk", "secret", "token"}
MARKED = {
    "Heartbeat.key",
    "Push.key",
    "RemoteLog.key",
    "Certificates.key",
    "Console.key",
    "Console.passphrase",
    "ConsolePlugin.source",
    "Control.key",
    "GuestPassword.password",
    "Tunnel.psk",
}  # fmt: skip


def pem(kind: str, body: str) -> str:
    return f"-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n"


KEY = pem("PRIVATE KEY", "S0methingThatNobodyMaySee")
WHOLE: dict[str, Any] = {
    **ROUTER,
    "control": {"certificate": pem("CERTIFICATE", "AAAA"), "key": KEY, "allowed_names": ["a"]},
    "ipsec": {
        "connections": {
            "one": {
                "local_address": "203.0.113.10",
                "peer_address": "192.0.2.1",
                "psk": "correct-horse-battery-staple",
                "local_subnets": ["10.1.1.0/24"],
                "remote_subnets": ["10.99.1.0/24"],
            },
            "two": {
                "local_address": "203.0.113.10",
                "peer_address": "192.0.2.2",
                "psk": None,
                "certificates": {
                    "certificate": pem("CERTIFICATE", "AAAA"),
                    "key": KEY,
                    "ca": pem("CERTIFICATE", "AAAA"),
                },
                "local_subnets": ["10.1.1.0/24"],
                "remote_subnets": ["10.99.2.0/24"],
            },
        }
    },
    "passwords": {"guests": {"10.1.1.10": {"mac": "02:00:4c:00:00:01", "password": "Kp7xQ2mZ"}}},
}
SECRETS = ("correct-horse", "S0mething", "Kp7xQ2mZ")


def fields(of: Any) -> Iterator[tuple[str, Any]]:
    """Every field of a JSON Schema, as Type.field."""
    kinds = {**of.get("$defs", {}), of.get("title", ""): of}
    for kind, definition in kinds.items():
        for name, node in definition.get("properties", {}).items():
            yield f"{kind}.{name}", node


def marked(node: Any) -> bool:
    """Is this, or what stands in it, marked as a secret?"""
    if isinstance(node, dict):
        if node.get("x-secret") is True:
            assert node["writeOnly"] is True
            return True
        return any(marked(child) for child in node.values())
    return isinstance(node, list) and any(map(marked, node))


def test_every_secret_of_a_document_is_marked_and_nothing_else() -> None:
    assert {name for name, node in fields(schema()) if marked(node)} == MARKED


def test_what_the_schema_marks_is_what_is_not_shown() -> None:
    sections, values = planted()
    assert len(values) > len(MARKED)  # a type may stand in more than one place
    assert {place[-1] for place in values} == {name.split(".")[1] for name in MARKED}
    shown = json.dumps(redacted(sections))
    assert not [value for value in values.values() if json.dumps(value)[1:-1] in shown]
    assert set(secrets_of(sections)) == set(values.values())


def test_every_secret_of_a_boot_configuration_is_marked() -> None:
    assert {name for name, node in fields(boot.schema()) if marked(node)} == {"ControlSettings.key"}


@pytest.mark.parametrize("of", [schema(), boot.schema()], ids=["document", "boot configuration"])
def test_what_is_named_like_a_secret_is_marked(of: Any) -> None:
    named = {name: node for name, node in fields(of) if name.split(".")[1] in NAMES}
    assert named
    assert [name for name, node in named.items() if not marked(node)] == []


def test_no_secret_is_in_what_is_shown_and_everything_else_is() -> None:
    shown = redacted(WHOLE)
    assert not any(secret in json.dumps(shown) for secret in SECRETS)
    one, two = shown["ipsec"]["connections"].values()
    assert one["psk"] == two["certificates"]["key"] == shown["control"]["key"] == REDACTED
    assert shown["passwords"]["guests"]["10.1.1.10"]["password"] == REDACTED
    assert "certificates" not in one
    assert two["psk"] is None
    expected = json.loads(json.dumps(WHOLE))
    expected["control"]["key"] = REDACTED
    expected["ipsec"]["connections"]["one"]["psk"] = REDACTED
    expected["ipsec"]["connections"]["two"]["certificates"]["key"] = REDACTED
    expected["passwords"]["guests"]["10.1.1.10"]["password"] = REDACTED
    assert shown == expected


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_fields_with_hyphens_are_shown_as_well(path: Path) -> None:
    document = json.loads(path.read_text())
    shown = redacted(document)
    for guest, data in document.get("user_data", {}).get("guests", {}).items():
        assert shown["user_data"]["guests"][guest] == data


def test_the_document_itself_stays_whole() -> None:
    before = json.dumps(WHOLE)
    redacted(WHOLE)
    assert json.dumps(WHOLE) == before


@pytest.mark.parametrize("data", [with_forward(1), with_services(1), router(1)])
def test_document_without_secrets_is_shown_as_it_is(data: bytes) -> None:
    assert redacted(json.loads(data)) == json.loads(data)
    assert canonical_redacted(parse(data)) == parse(data).canonical


def test_canonical_form_is_that_of_the_redacted_value() -> None:
    document = parse(with_tunnels(1, branch="correct-horse-battery-staple"))
    assert canonical_redacted(document) == canonical(redacted(document.value))
    assert b"correct-horse" not in canonical_redacted(document)


@pytest.mark.parametrize(
    "value",
    [
        {"tftp": {"token": "S0mething"}},
        {"passwords": {"guests": {"10.1.1.10": {"password": ["S0mething"]}}}},
        {"ipsec": {"connections": {"one": {"psk2": "S0mething"}}}},
        {"dhcp_dns": {"key": "S0mething"}},
    ],
    ids=["section", "shape", "field", "field of a section without secrets"],
)
def test_what_this_version_does_not_know_is_not_shown(value: dict[str, Any]) -> None:
    assert "S0mething" not in json.dumps(redacted(value))


def test_what_stands_for_a_secret_is_refused_where_it_is_pushed() -> None:
    shown = json.loads(json.dumps(redacted(WHOLE)))
    with pytest.raises(InvalidDocument) as caught:
        parse(json.dumps(shown).encode())
    assert [problem.path for problem in caught.value.problems] == [
        "/control/key",
        "/ipsec/connections/one/psk",
        "/ipsec/connections/two/certificates/key",
        "/passwords/guests/10.1.1.10/password",
    ]
    assert {problem.message for problem in caught.value.problems} == {
        "is what stands for a secret, not the secret"
    }


@pytest.mark.parametrize("field", ["certificate", "ca"])
def test_a_private_key_among_certificates_is_refused(field: str) -> None:
    given = json.loads(json.dumps(WHOLE))
    given["ipsec"]["connections"]["two"]["certificates"][field] += KEY
    with pytest.raises(InvalidDocument) as caught:
        parse(json.dumps(given).encode())
    path = f"/ipsec/connections/two/certificates/{field}"
    assert path in [problem.path for problem in caught.value.problems]
