"""The password server's files and rules: as looked at, secret, and one guest's alone."""

import json
from typing import Any

import pydantic
import pytest

from agent.engine.model import ACCEPT, DROP, Artifacts, HttpReturns, Reaction
from agent.services import passwords
from tests.unit.services.conftest import Golden
from tests.unit.services.sites import CONTROL, PUBLIC, context, linted, rendered, texts

NAME = "passwords"
MAC = "02:00:4c:00:00:01"
ONE: dict[str, Any] = {"guests": {"10.1.1.10": {"mac": MAC, "password": 'Kp"7x\\Q{2m}'}}}


def guests(artifacts: Artifacts) -> dict[str, Any]:
    """What the server reads, by address."""
    text = texts(artifacts)[passwords.GUESTS].partition("\n")[2]
    found: dict[str, Any] = json.loads(text)["guests"]
    return found


def test_files_render_as_looked_at(golden: Golden) -> None:
    golden(NAME, rendered(NAME, ONE))


def test_a_password_is_read_back_as_it_was_given() -> None:
    assert guests(rendered(NAME, ONE))["10.1.1.10"]["password"] == 'Kp"7x\\Q{2m}'


def test_only_the_server_reads_the_passwords() -> None:
    files = {file.path: file for file in rendered(NAME, ONE).files}
    file = files[passwords.GUESTS]
    assert (file.mode, file.owner) == (0o600, "sysvm-passwords:nogroup")
    assert b"Kp" not in files[passwords.LISTEN].content
    assert "Kp" not in repr(file)


def test_another_password_restarts_nothing_and_is_another_one() -> None:
    before = rendered(NAME, ONE)
    changed = {"guests": {"10.1.1.10": {"mac": MAC, "password": "other"}}}
    after = rendered(NAME, changed)
    assert before.files[0] == after.files[0]
    assert [file.reaction for file in before.files] == [Reaction.RESTART, Reaction.NONE]
    assert guests(before)["10.1.1.10"]["id"] != guests(after)["10.1.1.10"]["id"]
    assert guests(rendered(NAME, ONE)) == guests(before)


def test_an_address_with_a_password_comes_in_with_its_mac_only_and_every_other_may_ask() -> None:
    artifacts = rendered(NAME, ONE)
    rules = [(str(r.source) if r.source else "", r.source_mac, r.target) for r in artifacts.rules]
    assert rules == [
        ("10.1.1.10/32", MAC, ACCEPT),
        ("10.1.1.10/32", None, DROP),
        ("", None, ACCEPT),
    ]
    opened = [(o.nic, str(o.destination), o.gate) for o in artifacts.openings]
    assert opened == [("eth1", "10.1.1.1", passwords.CHAIN)]


def test_the_witness_is_the_files() -> None:
    def path(value: Any) -> str:
        section = passwords.Section.model_validate(value)
        probes = passwords.probe(section, context(), rendered(NAME, value))
        return next(probe.path for probe in probes if isinstance(probe, HttpReturns))

    assert path(ONE) == path(ONE)
    assert path(ONE) != path({})


def test_without_a_guest_nic_there_is_nothing() -> None:
    assert rendered(NAME, {}, context(PUBLIC, CONTROL)).units == ()
    assert rendered(NAME, {}).units != ()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("10.1.1.1", "10.1.1.1 is the VM's own address"),
        ("10.9.9.9", "10.9.9.9 is in no guest network"),
    ],
)
def test_an_address_that_no_guest_can_have_is_a_problem(address: str, message: str) -> None:
    value = {"guests": {address: {"mac": MAC, "password": "x"}}}
    assert [(p.path, p.message) for p in linted(NAME, value)] == [
        (f"/passwords/guests/{address}", message)
    ]


@pytest.mark.parametrize("password", ["", "a b", "a\nb", "ä", "x" * 129])
def test_what_a_guest_cannot_read_as_one_word_is_refused(password: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        passwords.Section.model_validate(
            {"guests": {"10.1.1.10": {"mac": MAC, "password": password}}}
        )
