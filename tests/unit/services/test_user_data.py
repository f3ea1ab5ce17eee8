"""apache's files: as looked at, parsed back, and refused where they would be wrong."""

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine.model import Artifacts, HttpReturns, Reaction
from agent.services import BLOBS, CURRENT, OBJECTS, user_data
from tests.unit.services.conftest import Golden
from tests.unit.services.sites import context, lines, linted, rendered, texts

NAME = "user_data"
BLOB = "ab" * 32
WHOLE: dict[str, Any] = {
    "guests": {
        "10.1.1.10": {
            "mac": "02:00:4c:00:00:01",
            "user_data": BLOB,
            "metadata": {
                "service-offering": "Medium 2x4",
                "public-ipv4": "203.0.113.11",
                "public-keys": ["ssh-ed25519 AAAA a", "ssh-ed25519 AAAA b"],
            },
            "extra": {"rack": {"value": "b12 ä"}, "cert": {"blob": "cd" * 32}},
        },
        "10.1.1.11": {"mac": "02:00:4c:00:00:02"},
    }
}


def guest(**more: Any) -> dict[str, Any]:
    return {"guests": {"10.1.1.10": {"mac": "02:00:4c:00:00:01"} | more}}


def served(artifacts: Artifacts, address: str, key: str) -> bytes | str | None:
    """What a guest would get: an object's content, a blob's name, or nothing."""
    found = texts(artifacts).get(f"apache2/maps/{key}", "")
    targets = dict(line.split(" ") for line in lines(found))
    folder, _, digest = targets.get(address, "").partition("/")
    if folder == "objects":
        assert hashlib.sha256(artifacts.objects[digest]).hexdigest() == digest
        return artifacts.objects[digest]
    return digest or None


def test_whole_section_renders_as_looked_at(golden: Golden) -> None:
    golden(NAME, rendered(NAME, WHOLE))


def test_each_guest_is_served_its_own() -> None:
    artifacts = rendered(NAME, WHOLE)
    assert served(artifacts, "10.1.1.10", "user-data") == BLOB
    assert served(artifacts, "10.1.1.10", "service-offering") == b"Medium 2x4"
    assert served(artifacts, "10.1.1.10", "public-ipv4") == b"203.0.113.11"
    assert served(artifacts, "10.1.1.10", "public-keys") == (
        b"ssh-ed25519 AAAA a\nssh-ed25519 AAAA b\n"
    )
    assert served(artifacts, "10.1.1.10", "rack") == "b12 ä".encode()
    assert served(artifacts, "10.1.1.10", "cert") == "cd" * 32
    assert served(artifacts, "10.1.1.10", "local-ipv4") == b"10.1.1.10"
    assert served(artifacts, "10.1.1.10", "meta-data") == (
        b"cert\nlocal-ipv4\npublic-ipv4\npublic-keys\nrack\nservice-offering\n"
    )
    assert served(artifacts, "10.1.1.11", "user-data") is None
    assert served(artifacts, "10.1.1.11", "service-offering") is None
    assert served(artifacts, "10.1.1.11", "meta-data") == b"local-ipv4\n"


def test_blobs_that_are_named_have_to_be_there() -> None:
    assert rendered(NAME, WHOLE).blobs == {BLOB, "cd" * 32}


def test_one_guest_more_asks_nothing_of_apache() -> None:
    more = {"guests": WHOLE["guests"] | {"10.1.1.12": {"mac": "02:00:4c:00:00:03"}}}
    old, new = texts(rendered(NAME, WHOLE)), rendered(NAME, more)
    differing = [f for f in new.files if old[f.path] != f.content.decode()]
    assert {f.reaction for f in differing} == {Reaction.NONE}
    assert "apache2/witness" in {f.path for f in differing}


def test_new_key_is_a_reload() -> None:
    old, new = texts(rendered(NAME, guest())), rendered(NAME, guest(extra={"a": {"value": "b"}}))
    differing = {f.path: f.reaction for f in new.files if old.get(f.path) != f.content.decode()}
    assert differing["apache2/apache2.conf"] is Reaction.RELOAD


def test_witness_is_for_both_files() -> None:
    paths = set()
    for value in (guest(), guest(extra={"a": {"value": "b"}}), WHOLE, {}):
        section = user_data.Section.model_validate(value)
        probes = user_data.probe(section, context(), rendered(NAME, value))
        (page,) = [p for p in probes if isinstance(p, HttpReturns)]
        assert (str(page.address), page.port, page.status) == ("10.1.1.1", 80, 204)
        paths.add(page.path)
    assert len(paths) == 4


def test_only_address_and_mac_together_come_in() -> None:
    artifacts = rendered(NAME, WHOLE)
    pairs = {(str(rule.source), rule.source_mac, rule.chain) for rule in artifacts.rules}
    assert pairs == {
        ("10.1.1.10/32", "02:00:4c:00:00:01", "user-data"),
        ("10.1.1.11/32", "02:00:4c:00:00:02", "user-data"),
    }
    (opening,) = artifacts.openings
    assert (opening.nic, opening.gate, str(opening.ports)) == ("eth1", "user-data", "80")


def test_no_string_of_a_client_is_looked_up() -> None:
    conf = texts(rendered(NAME, WHOLE))["apache2/apache2.conf"]
    lookups = [word for line in conf.splitlines() for word in line.split("${")[1:]]
    assert {word.split("}")[0].split(":", 1)[1] for word in lookups} == {
        "%{REMOTE_ADDR",
        "maps",
    }


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"guests": {"10.1.1.1": {"mac": "02:00:4c:00:00:01"}}}, "/user_data/guests/10.1.1.1"),
        ({"guests": {"10.9.1.1": {"mac": "02:00:4c:00:00:01"}}}, "/user_data/guests/10.9.1.1"),
        (guest(extra={"vm-id": {"value": "x"}}), "/user_data/guests/10.1.1.10/extra/vm-id"),
        (guest(extra={"user-data": {"blob": BLOB}}), "/user_data/guests/10.1.1.10/extra/user-data"),
        (guest(extra={"a": {}}), "/user_data/guests/10.1.1.10/extra/a"),
        (
            guest(extra={"a": {"value": "x", "blob": BLOB}}),
            "/user_data/guests/10.1.1.10/extra/a",
        ),
    ],
)
def test_lint_names_the_place(value: Any, path: str) -> None:
    assert [problem.path for problem in linted(NAME, value)] == [path]


HOSTILE = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["a\nb", "a\r", "\0", "\u0085", "\u2028", "../x", "${user-data:10.1.1.1}", "%{ENV:X}", "#"]
    ),
)


@given(value=HOSTILE, key=HOSTILE, line=HOSTILE)
def test_strings_are_refused_or_served_as_they_were(value: str, key: str, line: str) -> None:
    for body in (
        guest(metadata={"vm-id": value}),
        guest(extra={key: {"value": "x"}}),
        guest(metadata={"public-keys": [line]}),
    ):
        try:
            section = user_data.Section.model_validate(body)
        except pydantic.ValidationError:
            continue
        if any(user_data.lint(section, context())):
            continue
        artifacts = user_data.render(section, context())
        for path, text in texts(artifacts).items():
            if path.startswith("apache2/maps/"):
                assert all(len(entry.split(" ")) == 2 for entry in lines(text))
        metadata = section.guests[next(iter(section.guests))].metadata
        if metadata.vm_id is not None:
            assert served(artifacts, "10.1.1.10", "vm-id") == value.encode()
            assert value.isprintable() or not any(ord(c) < 32 for c in value)
        if metadata.public_keys is not None:
            assert served(artifacts, "10.1.1.10", "public-keys") == f"{line}\n".encode()


@pytest.mark.skipif(shutil.which("apache2") is None, reason="apache2 is not installed")
def test_apache_accepts_what_is_rendered(tmp_path: Path) -> None:
    places = {
        CURRENT: tmp_path,
        OBJECTS: tmp_path / "objects",
        BLOBS: tmp_path / "blobs",
        "/run/apache2": tmp_path / "run",
    }
    for place in places.values():
        place.mkdir(exist_ok=True)
    for file in rendered(NAME, WHOLE).files:
        content = file.content.decode()
        for old, new in places.items():
            content = content.replace(old, str(new))
        path = tmp_path / file.path
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(content)
    argv = ["apache2", "-t", "-f", str(tmp_path / "apache2/apache2.conf")]
    checked = subprocess.run(argv, capture_output=True, timeout=10, check=False)
    assert checked.returncode == 0, checked.stderr
