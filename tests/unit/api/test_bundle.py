"""The bundle: everything there is to say, within bounds, and nothing that is secret."""

import base64
import hashlib
import io
import json
import random
import tarfile
from dataclasses import replace
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient

from agent.api.routes import IN_BUNDLE
from agent.console import wire
from agent.console.sessions import Credentials, Live, Session, State
from agent.console.targets import Target, TargetKind
from agent.diagnostics import bundle
from agent.diagnostics.bundle import COMMANDS, Archive, commands_of, slug
from agent.diagnostics.scrub import Scrubber
from agent.document.document import canonical
from agent.document.types import REDACTED
from agent.engine.model import Command
from tests.unit.api.fake import NOW, FakeEngine, FakeMachine, value
from tests.unit.document.planted import ANY, planted

PASSWORD = "Canary-pass-1f2e3d"
KEY_LINE = "MC4CAQAwBQYDK2VwBCIEIDtWq6zNeKQnvYRgqVhOeFhVWMbTzMGvVHYpWQ5q9n2X"
KEY = f"-----BEGIN PRIVATE KEY-----\n{KEY_LINE}\n-----END PRIVATE KEY-----\n"


def entries(content: bytes) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
        for member in tar.getmembers():
            folder, _, name = member.name.partition("/")
            assert folder.startswith("sysvm-booted-")
            assert member.mode == 0o600
            file = tar.extractfile(member)
            assert file is not None
            found[name] = file.read()
    return found


def fetched(client: FlaskClient) -> dict[str, bytes]:
    response = client.get("/v1/diagnostics/bundle")
    assert response.status_code == 200
    assert response.content_type == "application/gzip"
    assert ".tar.gz" in response.headers["Content-Disposition"]
    return entries(response.get_data())


def manifest(found: dict[str, bytes]) -> dict[str, Any]:
    rows = json.loads(found["manifest.json"])["entries"]
    return {row["name"]: row for row in rows}


def test_it_has_what_the_endpoint_answers_documents_commands_and_journals(
    client: FlaskClient, machine: FakeMachine
) -> None:
    client.put("/v1/document", data=json.dumps(value()))
    found = fetched(client)
    about = manifest(found)
    assert json.loads(found["api/status.json"])["hostname"] == "vm1"
    assert json.loads(found["documents/1.json"])["generation"] == 1
    for path in IN_BUNDLE:
        assert any(row["source"] == path and row["exit"] == 200 for row in about.values()), path
    assert found["services/nat/conntrack-L.txt"] == b"all is well\n"
    assert found["vm/ip-address.txt"] == b"all is well\n"
    assert found["journal/dnsmasq.service.txt"] == b"all is well\n"
    assert {*COMMANDS, ("conntrack", "-L")} <= set(machine.inspected)
    assert about.keys() == found.keys() - {"manifest.json"}


def test_it_can_be_had_before_the_first_document(client: FlaskClient) -> None:
    found = fetched(client)
    assert json.loads(found["api/show-rules.json"])["type"] == "/v1/problems/nothing-applied"
    assert manifest(found)["api/show-rules.json"]["exit"] == 404


def test_what_fails_is_told_and_the_rest_is_there(
    client: FlaskClient, machine: FakeMachine
) -> None:
    machine.says = ["sh", "-c", "echo half; exit 3"]
    machine.fails = RuntimeError("nobody foresaw this")
    found = fetched(client)
    rows = manifest(found)
    assert rows["vm/ip-address.txt"]["exit"] == 3
    assert any("nobody foresaw this" in row["problem"] for row in rows.values())


def test_secrets_of_documents_and_of_the_boot_are_nowhere(
    client: FlaskClient, machine: FakeMachine
) -> None:
    """Hostile case 54: whoever wrote them down, and in whatever form."""
    document = value()
    guest = {"mac": "02:00:4c:00:01:0a", "password": PASSWORD}
    document["passwords"] = {"guests": {"10.1.1.10": guest}}
    assert client.put("/v1/document", data=json.dumps(document)).status_code == 201
    machine.others = (KEY,)
    leaks = [PASSWORD, KEY_LINE, KEY, PASSWORD.encode().hex(), KEY.encode().hex()]
    leaks += [base64.b64encode(word.encode()).decode() for word in (PASSWORD, KEY)]
    leaks += [json.dumps(PASSWORD), f"a{PASSWORD}b", f"password={PASSWORD}"]
    machine.says = ["printf", r"%s\n", *leaks]
    machine.lines = tuple(leaks)
    whole = b"\n".join(fetched(client).values())
    assert b"<secret>" in whole
    for leak in leaks:
        assert leak.encode() not in whole
    assert PASSWORD.encode() not in whole
    assert KEY_LINE.encode() not in whole


def forms(value: str) -> list[str]:
    """As others write it."""
    found = [value, json.dumps(value)[1:-1], quote(value, safe=""), value.encode().hex()]
    return found + [base64.b64encode(b"x" * n + value.encode()).decode() for n in range(3)]


def test_whatever_the_schema_marks_as_secret_is_nowhere(
    client: FlaskClient, engine: FakeEngine, machine: FakeMachine
) -> None:
    """Every field of every section, of each role: planted, and told by whoever could tell it."""
    assert client.put("/v1/document", data=json.dumps(value())).status_code == 201
    sections, values = planted()
    assert {"console", "control", "events", "ipsec", "passwords", "remote_log"} <= sections.keys()
    kept = engine.kept[1]
    texts = {**kept.document.texts, **{n: canonical(part) for n, part in sections.items()}}
    engine.kept[1] = replace(kept, document=replace(kept.document, texts=texts))
    leaks = [form for secret in values.values() for form in forms(secret)]
    machine.says = ["printf", r"%s\n", *leaks]
    machine.lines = tuple(leaks)
    found = fetched(client)
    whole = b"\n".join(found.values())
    for place, secret in values.items():
        for form in (
            secret,
            json.dumps(secret)[1:-1],
            quote(secret, safe=""),
            secret.encode().hex(),
        ):
            assert form.encode() not in whole, place
        for number in range(3):
            form = base64.b64encode(b"x" * number + secret.encode()).decode()
            assert form[4:-4].encode() not in whole, place
    document = json.loads(found["documents/1.json"])
    for place in values:
        node = document
        for name in place:
            node = node[name.replace(ANY, "one")]
        assert node == REDACTED, place


def test_what_a_console_session_shows_the_hypervisor_is_nowhere(
    client: FlaskClient, machine: FakeMachine
) -> None:
    """Credentials, secrets and their digests: a session's row is made of what is in none of it."""
    names = ("username", "password", "ca", "certificate", "key")
    canaries = {name: f"Session-canary-{name}" for name in names}
    digest, resume = hashlib.sha256(b"secret").digest(), hashlib.sha256(b"resume").digest()
    session = Session(
        id="s1",
        digest=digest,
        vm="i-2-10",
        user="alice",
        title="web",
        target=Target(kind=TargetKind.VNC, address=ip_address("10.2.0.7"), port=5901),
        credentials=Credentials(**canaries),
    )
    live = Live(session, State.OPEN, deadline=0.0, opened=1.0, resume_digest=resume)
    machine.console_says = {
        **machine.console_says,
        "sessions": [{**wire.row(live, 2.0), "credentials": canaries}],
    }
    found = fetched(client)
    assert b"alice" in found["api/console-sessions.json"]
    whole = b"\n".join(found.values()) + repr(live).encode()
    for canary in (*canaries.values(), digest.hex(), base64.b64encode(digest).decode()):
        assert canary.encode() not in whole, canary


# -- bounds ------------------------------------------------------------------------------------


def test_entry_is_cut_at_a_line_and_says_so(
    client: FlaskClient, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "LONGEST_ENTRY", 1000)
    machine.says = ["sh", "-c", "while :; do echo 0123456; done"]
    found = fetched(client)
    assert len(found["vm/ip-address.txt"]) == 1000
    assert manifest(found)["vm/ip-address.txt"]["truncated"]


def test_bundle_is_cut_and_says_what_is_left_out(
    client: FlaskClient, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "LONGEST_BUNDLE", 20_000)
    machine.says = ["sh", "-c", "yes 0123456 | head -c 8000"]
    found = fetched(client)
    assert sum(len(content) for name, content in found.items() if name != "manifest.json") <= 20_000
    left_out = [row for row in manifest(found).values() if row["problem"] == "the bundle is full"]
    assert len(left_out) > 10
    assert len(machine.inspected) < 10


def test_half_a_secret_at_a_cut_is_not_left() -> None:
    archive = Archive("a", Scrubber(["secret-value"]), NOW)
    archive.add("x", "cat x", b"one\ntwo secret-v", truncated=True)
    archive.add("y", "cat secret-value", b"", problem="no secret-value")
    content = archive.close({})
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
        assert tar.getnames() == ["a/x", "a/manifest.json"]
        file = tar.extractfile("a/x")
        assert file is not None
        assert file.read() == b"one\n"
        file = tar.extractfile("a/manifest.json")
        assert file is not None
        assert b"secret-value" not in file.read()


def test_archive_is_taken_away_while_it_is_made() -> None:
    archive = Archive("a", Scrubber(()), NOW)
    archive.add("x", "x", random.Random(7).randbytes(300_000))  # noqa: S311 - it has to be long
    assert archive.taken()
    assert archive.taken() == b""


def test_each_command_is_run_once_under_a_name_of_its_own() -> None:
    both = {"nat": [Command(("ip", "address"))], "firewall": [Command(("ip", "address"))]}
    rows = list(commands_of(both))
    assert [name for name, command in rows if command.argv == ("ip", "address")] == [
        "services/firewall/ip-address.txt"
    ]
    names = [name for name, _ in rows]
    assert len(names) == len(set(names))
    assert slug(("cat", "../../etc/passwd")) == "cat-..-..-etc-passwd"


@pytest.mark.parametrize("argv", COMMANDS)
def test_commands_only_look(argv: tuple[str, ...]) -> None:
    assert argv[0] in {
        "cat", "chronyc", "conntrack", "df", "findmnt", "ip", "ip6tables-nft-save", "ipset",
        "iptables-nft-save", "journalctl", "ps", "ss", "sysctl", "systemctl", "systemd-analyze",
        "uname",
    }  # fmt: skip
    assert not {"-w", "-F", "-X", "flush", "restart", "set"} & set(argv)
