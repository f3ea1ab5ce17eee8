"""sysvm-front's file: as looked at, parsed back, and refused where it would be wrong."""

from typing import Any

import pytest

from agent.document.boot import BootConfig
from agent.engine.model import HaproxyRuns, Reaction, Reload
from agent.services import control
from tests.unit.services.conftest import Golden
from tests.unit.services.sites import CONTROL, GUEST, PUBLIC, context, linted, rendered, texts

NAME = "control"
CFG = "front/haproxy.cfg"


def pem(kind: str, body: str = "AAAA") -> str:
    return f"-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n"


WHOLE: dict[str, Any] = {
    "port": 9443,
    "ca": pem("CERTIFICATE", "CA"),
    "crl": pem("X509 CRL"),
    "certificate": pem("CERTIFICATE"),
    "key": pem("PRIVATE KEY"),
    "allowed_names": ["management.example", "second.example"],
}


def boot(**more: Any) -> BootConfig:
    """A boot configuration with a control endpoint."""
    value = {
        "schema": 1,
        "role": "router",
        "hostname": "r-1-vm",
        "nics": {CONTROL.mac: {"role": "control", "addresses": {"192.0.2.10/24": {}}}},
        "control": {
            "ca": pem("CERTIFICATE", "BOOTCA"),
            "certificate": pem("CERTIFICATE", "BOOT"),
            "key": pem("PRIVATE KEY", "BOOT"),
            "allowed_names": ["boot.example"],
        }
        | more,
    }
    return BootConfig.model_validate(value)


def booted(**more: Any) -> Any:
    return context(PUBLIC, GUEST, CONTROL, boot=boot(**more))


def test_whole_section_renders_as_looked_at(golden: Golden) -> None:
    golden(NAME, rendered(NAME, WHOLE))


def test_stands_on_control_nics_and_loopback_only() -> None:
    artifacts = rendered(NAME, WHOLE)
    binds = [line.split()[1] for line in texts(artifacts)[CFG].splitlines() if "    bind " in line]
    assert binds == ["127.0.0.1:9443", "192.0.2.10:9443"]
    assert [(o.nic, str(o.destination), str(o.ports)) for o in artifacts.openings] == [
        ("eth2", "192.0.2.10", "9443")
    ]
    assert [(str(c.address), str(c.ports)) for c in artifacts.claims] == [("192.0.2.10", "9443")]


def test_nothing_configured_wants_nothing() -> None:
    assert rendered(NAME, {}).units == ()
    assert linted(NAME, {}) == []


def test_boot_configuration_holds_without_a_section() -> None:
    artifacts = control.render(control.ABSENT, booted())
    found = texts(artifacts)
    assert "BOOTCA" in found["front/ca.pem"]
    assert "-m str boot.example" in found[CFG]
    assert "127.0.0.1:8443" in found[CFG]
    assert "crl-file" not in found[CFG]
    assert artifacts.units[0].reload is Reload.HAPROXY_MASTER


def test_section_replaces_what_it_gives_and_no_more() -> None:
    names = {"allowed_names": ["new.example"]}
    found = texts(rendered(NAME, names, booted(crl=pem("X509 CRL", "BOOTCRL"))))
    assert "-m str new.example" in found[CFG]
    assert "boot.example" not in found[CFG]
    assert "BOOTCA" in found["front/ca.pem"]
    assert "BOOTCRL" in found["front/crl.pem"]


def test_new_ca_does_not_keep_the_old_ones_revocations() -> None:
    authority = {"ca": pem("CERTIFICATE", "NEWCA")}
    found = texts(rendered(NAME, authority, booted(crl=pem("X509 CRL", "BOOTCRL"))))
    assert "front/crl.pem" not in found
    assert "crl-file" not in found[CFG]


def test_key_is_nobody_elses() -> None:
    files = {file.path: file for file in rendered(NAME, WHOLE).files}
    assert files["front/server.pem"].mode == 0o600
    assert files["front/server.pem"].owner == "sysvm-front:sysvm"
    assert all("PRIVATE" not in repr(file) for file in files.values())
    assert all(file.reaction is Reaction.RELOAD for file in files.values())


def test_witness_changes_with_the_certificate() -> None:
    seen = set()
    for value in (WHOLE, WHOLE | {"key": pem("PRIVATE KEY", "B")}, WHOLE | {"port": 1}):
        section = control.Section.model_validate(value)
        probes = control.probe(section, context(), rendered(NAME, value))
        (runs,) = [p for p in probes if isinstance(p, HaproxyRuns)]
        seen.add(runs.description)
    assert len(seen) == 3


def test_clients_headers_are_removed_before_ours_is_set() -> None:
    text = texts(rendered(NAME, WHOLE))[CFG]
    refuse, remove, put = (
        text.index(words) for words in ("unless allowed", "del-header", "set-header X-Sysvm-Client")
    )
    assert refuse < remove < put
    assert text.count("verify required") == 2
    assert "ssl-min-ver TLSv1.3" in text


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        ({"key": WHOLE["key"]}, ["/control/certificate"]),
        ({"certificate": WHOLE["certificate"]}, ["/control/key"]),
        (
            {"ca": WHOLE["ca"]},
            ["/control/certificate", "/control/key", "/control/allowed_names"],
        ),
    ],
)
def test_lint_names_what_is_missing(value: Any, paths: list[str]) -> None:
    assert [problem.path for problem in linted(NAME, value)] == paths
