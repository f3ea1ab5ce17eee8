"""SSH's files: as looked at, on the control NICs alone, and there only where somebody has a key."""

from ipaddress import ip_interface
from typing import Any

import pydantic
import pytest

from agent.document.boot import BootConfig
from agent.document.site import NicRole
from agent.engine.model import LATER, Reaction, UnitActive
from agent.services import Nic, ssh
from tests.unit.services.conftest import Golden
from tests.unit.services.sites import CONTROL, GUEST, PUBLIC, context, linted, rendered, texts

NAME = "ssh"
KEY = f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5{'A' * 48} ops@example"
OTHER = f"ssh-rsa AAAAB3NzaC1yc2E{'B' * 360}=="
SIX = Nic(
    "eth3", "02:00:00:00:00:04", NicRole.CONTROL,
    (ip_interface("2001:db8:9::10/64"), ip_interface("fe80::1/64")),
)  # fmt: skip


def boot(*keys: str) -> BootConfig:
    """A boot configuration in which these keys may log in."""
    return BootConfig.model_validate(
        {
            "role": "router",
            "hostname": "r-1-vm",
            "nics": {CONTROL.mac: {"role": "control"}},
            "authorized_keys": keys,
        }
    )


def settings(text: str) -> dict[str, list[str]]:
    """sshd_config(5) read back: every keyword, in lower case, with its values."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            keyword, value = line.split(" ", 1)
            found.setdefault(keyword.lower(), []).append(value)
    return found


def test_files_render_as_looked_at(golden: Golden) -> None:
    where = context(PUBLIC, GUEST, CONTROL, SIX)
    golden(NAME, rendered(NAME, {"authorized_keys": [KEY, OTHER]}, where))


def test_stands_on_control_addresses_only() -> None:
    where = context(PUBLIC, GUEST, CONTROL, SIX)
    artifacts = rendered(NAME, {"authorized_keys": [KEY]}, where)
    told = settings(texts(artifacts)[ssh.CONFIGURATION])
    assert told["listenaddress"] == ["192.0.2.10", "2001:db8:9::10"]
    assert told["port"] == ["3922"]
    opened = [(o.nic, str(o.destination), o.ports and o.ports.first) for o in artifacts.openings]
    assert opened == [("eth2", "192.0.2.10", 3922), ("eth3", "2001:db8:9::10", 3922)]
    assert [str(c.address) for c in artifacts.claims] == ["192.0.2.10", "2001:db8:9::10"]


def test_nothing_but_a_key_lets_anybody_in() -> None:
    told = settings(texts(rendered(NAME, {"authorized_keys": [KEY]}))[ssh.CONFIGURATION])
    assert told["authenticationmethods"] == ["publickey"]
    for keyword in (
        "passwordauthentication", "kbdinteractiveauthentication", "permitemptypasswords", "usepam",
        "allowtcpforwarding", "x11forwarding", "allowagentforwarding", "permittunnel",
    ):  # fmt: skip
        assert told[keyword] == ["no"], keyword


@pytest.mark.parametrize("value", [{}, {"authorized_keys": []}])
def test_without_a_key_there_is_nothing(value: dict[str, Any]) -> None:
    artifacts = rendered(NAME, value)
    assert (artifacts.files, artifacts.units, artifacts.openings) == ((), (), ())


def test_without_a_control_nic_there_is_nothing() -> None:
    where = context(PUBLIC, GUEST)
    assert rendered(NAME, {"authorized_keys": [KEY]}, where).units == ()


def test_keys_of_the_boot_configuration_hold_until_the_document_has_some() -> None:
    where = context(PUBLIC, GUEST, CONTROL, boot=boot(KEY))
    assert KEY in texts(rendered(NAME, {}, where))[ssh.AUTHORIZED_KEYS]
    replaced = texts(rendered(NAME, {"authorized_keys": [OTHER]}, where))[ssh.AUTHORIZED_KEYS]
    assert OTHER in replaced
    assert KEY not in replaced
    assert rendered(NAME, {"authorized_keys": []}, where).units == ()


def test_another_key_restarts_nothing() -> None:
    files = {file.path: file for file in rendered(NAME, {"authorized_keys": [KEY]}).files}
    assert files[ssh.AUTHORIZED_KEYS].reaction is Reaction.NONE
    assert files[ssh.CONFIGURATION].reaction is Reaction.RESTART


def test_an_image_without_sshd_is_no_reason_to_fail() -> None:
    artifacts = rendered(NAME, {"authorized_keys": [KEY]})
    section = ssh.Section.model_validate({"authorized_keys": [KEY]})
    assert ssh.check(section, context(), artifacts) == ()
    assert all(
        probe == UnitActive("sysvm-ssh.target") or isinstance(probe, LATER)
        for probe in ssh.probe(section, context(), artifacts)
    )


def test_the_same_key_twice_is_a_problem() -> None:
    assert [(p.path, p.message) for p in linted(NAME, {"authorized_keys": [KEY, KEY + "2"]})] == [
        ("/ssh/authorized_keys/1", "is there already")
    ]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "ssh-ed25519",
        f'command="sh" {KEY}',
        f"{KEY}\n{OTHER}",
        f"ssh-dss {'A' * 100}",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        f"{KEY}\u0085",
    ],
)
def test_what_is_no_plain_public_key_is_refused(key: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        ssh.Section.model_validate({"authorized_keys": [key]})
