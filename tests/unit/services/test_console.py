"""The console section: what the proxy is told, where it listens, and every fault with its path."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import IPv4Address, ip_interface
from pathlib import Path
from typing import Any

import pydantic
import pytest

from agent.console import configuration
from agent.console.configuration import Service
from agent.document.document import schema
from agent.document.secrets import redacted
from agent.document.site import NicRole
from agent.engine.model import Artifacts, HttpReturns, Reaction, UnitActive
from agent.roles import Role
from agent.services import Context, Nic, console
from appliance.lab.pki import Authority
from tests.unit.services import sites
from tests.unit.services.conftest import Golden
from tests.unit.services.sites import CONTROL, GUEST, PUBLIC, linted, rendered, texts

NAME = "console"
PLAIN: dict[str, Any] = {"networks": ["10.2.0.0/24"]}
AUTHORITY = Authority.create("Root")
NAMES = ["203-0-113-10.console.example", "203-0-113-11.console.example"]
IDENTITY = AUTHORITY.issue("proxy", names=["*.console.example"])
TLS: dict[str, Any] = {
    "networks": ["10.2.0.0/24", "fd00:2::/64"],
    "domain": "*.console.example",
    "certificates": {"root": AUTHORITY.identity.certificate, "server": IDENTITY.certificate},
    "key": IDENTITY.key,
}


def read(artifacts: Artifacts, folder: Path) -> configuration.Configuration:
    """What the proxy makes of it."""
    for path, text in texts(artifacts).items():
        (folder / Path(path).name).write_text(text)
    return configuration.read(folder)


def paths(section: Mapping[str, Any], where: Context | None = None) -> dict[str, str]:
    return {problem.path: problem.message for problem in linted(NAME, section, where)}


def test_files_render_as_looked_at(golden: Golden) -> None:
    golden(NAME, rendered(NAME, PLAIN))


def test_what_is_rendered_is_what_the_proxy_reads(tmp_path: Path) -> None:
    given = read(rendered(NAME, TLS), tmp_path)
    assert given.hosts == frozenset(NAMES)
    assert given.origins == frozenset(f"https://{name}" for name in NAMES)
    assert given.cap == 50
    listen = configuration.listeners(tmp_path)
    where = [(one.address, one.port, one.service, one.to) for one in listen]
    assert where == [
        ("203.0.113.10", 443, Service.TLS, f"https://{NAMES[0]}"),
        ("203.0.113.10", 80, Service.REDIRECT, f"https://{NAMES[0]}"),
        ("203.0.113.11", 443, Service.TLS, f"https://{NAMES[1]}"),
        ("203.0.113.11", 80, Service.REDIRECT, f"https://{NAMES[1]}"),
        ("127.0.0.1", 8447, Service.STATUS, ""),
    ]


def test_guests_networks_and_the_vms_own_addresses_are_no_targets(tmp_path: Path) -> None:
    given = read(rendered(NAME, PLAIN | {"guest_networks": ["10.2.0.128/25"]}), tmp_path)
    forbidden = set(map(str, given.rules.forbidden))
    assert {"10.2.0.128/25", "10.1.1.0/24", "2001:db8:1::/64"} <= forbidden
    assert {"203.0.113.10/32", "192.0.2.10/32", "10.1.1.1/32"} <= forbidden


def test_the_chain_goes_out_without_the_root_and_the_key_to_the_proxy_alone() -> None:
    artifacts = rendered(NAME, TLS)
    files = {file.path: file for file in artifacts.files}
    assert files[console.CHAIN].content.decode() == IDENTITY.certificate
    for path in (console.KEY, console.CONSOLE):
        assert (files[path].mode, files[path].owner) == (0o600, console.OWNER)
    assert "PRIVATE" not in repr(artifacts)


def test_other_certificates_are_read_again_without_a_restart() -> None:
    before = {file.path: file for file in rendered(NAME, TLS).files}
    other = AUTHORITY.issue("proxy", names=["*.console.example"])
    pieces = TLS["certificates"] | {"server": other.certificate}
    changed = {"certificates": pieces, "key": other.key}
    after = {file.path: file for file in rendered(NAME, TLS | changed).files}
    assert before[console.LISTEN] == after[console.LISTEN]
    differ = {path for path in after if before[path] != after[path]}
    assert differ == {console.CONSOLE, console.CHAIN, console.KEY}
    assert {after[path].reaction for path in differ} == {Reaction.RELOAD}


def test_another_port_ends_no_session() -> None:
    before = {file.path: file for file in rendered(NAME, TLS).files}
    after = {file.path: file for file in rendered(NAME, TLS | {"port": 8443}).files}
    differ = {path for path in after if before[path] != after[path]}
    assert console.LISTEN in differ
    assert {after[path].reaction for path in differ} == {Reaction.RELOAD}


def test_the_probe_asks_for_these_very_files() -> None:
    artifacts = rendered(NAME, TLS)
    section = console.Section.model_validate(TLS)
    unit, witness = console.probe(section, sites.context(), artifacts)
    assert unit == UnitActive(console.UNIT)
    assert isinstance(witness, HttpReturns)
    assert (witness.address, witness.port) == (IPv4Address("127.0.0.1"), 8447)
    found = json.loads(texts(artifacts)[console.CONSOLE])["witness"]
    assert witness.path == f"/witness/{found}"
    changed = json.loads(texts(rendered(NAME, TLS | {"max_sessions": 51}))[console.CONSOLE])
    assert changed["witness"] != found


def opened(artifacts: Artifacts) -> list[tuple[str | None, str, int]]:
    return [(o.nic, str(o.destination), o.ports.first) for o in artifacts.openings if o.ports]


def test_only_public_addresses_are_opened() -> None:
    assert opened(rendered(NAME, TLS)) == [
        ("eth0", "203.0.113.10", 443),
        ("eth0", "203.0.113.10", 80),
        ("eth0", "203.0.113.11", 443),
        ("eth0", "203.0.113.11", 80),
    ]
    assert {port for _, _, port in opened(rendered(NAME, TLS | {"plain_port": None}))} == {443}


@pytest.mark.parametrize(
    ("section", "hosts", "origins", "ports"),
    [
        (PLAIN, {"203.0.113.10", "203.0.113.11"}, "http", {80}),
        (PLAIN | {"plain_port": 8080}, {"203.0.113.10:8080", "203.0.113.11:8080"}, "http", {8080}),
        (PLAIN | {"plain_port": None}, {"203.0.113.10:443", "203.0.113.11:443"}, "http", {443}),
        (PLAIN | {"domain": "con.example"}, {"con.example"}, "http", {80}),
        (
            PLAIN | {"domain": "con.example", "balancer_does_tls": True, "port": 8080},
            {"con.example:8080"},
            "https",
            {8080},
        ),
        (
            PLAIN
            | {"domain": "con.example", "balancer_does_tls": True, "port": 8080}
            | {"public_port": 443},
            {"con.example"},
            "https",
            {8080},
        ),
        (TLS | {"public_port": 8443}, {f"{name}:8443" for name in NAMES}, "https", {80, 443}),
    ],
)
def test_what_browsers_may_call_it(
    section: dict[str, Any], hosts: set[str], origins: str, ports: set[int], tmp_path: Path
) -> None:
    artifacts = rendered(NAME, section)
    given = read(artifacts, tmp_path)
    assert given.hosts == hosts
    assert given.origins == {f"{origins}://{host}" for host in hosts}
    assert {port for _, _, port in opened(artifacts)} == ports


def test_an_ipv6_address_is_called_as_browsers_do(tmp_path: Path) -> None:
    six = Nic("eth0", PUBLIC.mac, NicRole.PUBLIC, (ip_interface("2001:db8::7/64"),))
    where = sites.context(six, CONTROL)
    given = read(rendered(NAME, PLAIN, where), tmp_path)
    assert given.hosts == {"[2001:db8::7]"}
    section = TLS | {"networks": ["fd00:2::/64"]}
    name = "2001-0db8-0000-0000-0000-0000-0000-0007.console.example"
    assert paths(section, where) == {}
    assert read(rendered(NAME, section, where), tmp_path).hosts == {name}
    assert {one.to for one in configuration.listeners(tmp_path) if one.to} == {f"https://{name}"}


def test_faults_have_their_paths_and_come_together() -> None:
    other = Authority.create("Other")
    section = TLS | {
        "domain": "console.example",
        "certificates": TLS["certificates"] | {"other": other.identity.certificate, "bad": "x"},
        "plain_port": 443,
        "networks": ["0.0.0.0/0"],
        "passphrase": None,
    }
    assert paths(section) == {
        "/console/plain_port": "is 443, as port is",
        "/console/networks/0": "is everything",
        "/console/certificates/other": "CN=Other is not part of the chain",
        "/console/certificates/bad": "is not PEM",
        "/console/certificates/server": "is not for console.example",
    }


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        ({"key": None}, "/console/key", "is missing"),
        ({"key": AUTHORITY.issue("x").key}, "/console/key", "does not belong to CN=proxy"),
        ({"certificates": {}}, "/console/certificates", "there is no certificate"),
        ({"balancer_does_tls": True}, "/console/balancer_does_tls", "there are certificates, too"),
    ],
)
def test_a_fault_has_its_path(change: dict[str, Any], path: str, message: str) -> None:
    assert paths(TLS | change) == {path: message}


def test_without_a_public_address_there_is_nothing_to_be_had() -> None:
    assert "/site/nics" in paths(PLAIN, sites.context(GUEST, CONTROL))


@pytest.mark.parametrize(
    "change",
    [
        {"networks": []},
        {"domain": "console"},
        {"domain": "*.*.example"},
        {"domain": "a.example\n"},
        {"framed_by": ["https://a.example/"]},
        {"framed_by": ["https://a.example; script-src *"]},
        {"token_plugin": {"path": "os.path; import x"}},
        {"key": "<secret>"},
        {"max_sessions": 0},
    ],
)
def test_what_types_refuse(change: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        console.Section.model_validate(PLAIN | change)


def test_nothing_secret_is_told_back() -> None:
    given = {"token_plugin": {"path": "a.B", "source": "user:pass"}, "passphrase": "open sesame"}
    shown = json.dumps(redacted({"console": TLS | given}))
    for word in ("PRIVATE", "user:pass", "open sesame"):
        assert word not in shown
    assert "BEGIN CERTIFICATE" in shown


def test_it_is_the_console_proxys_alone() -> None:
    assert frozenset({Role.CONSOLE_PROXY}) == console.ROLES
    assert "console" in schema()["properties"]


def test_certificates_that_have_run_out_are_a_fault_of_a_push_alone() -> None:
    section = console.Section.model_validate(TLS)
    now = datetime.now(UTC).timestamp()
    assert list(console.untimely(section, now)) == []
    problem = next(iter(console.untimely(section, now + 100 * 365 * 86400)))
    assert problem.path == "/console/certificates/server"
    assert "expired on" in problem.message
    assert list(console.untimely(console.Section.model_validate(PLAIN), now)) == []
    assert paths(TLS) == {}  # which knows no time
