"""`sysvm cert`: what it makes is good, what it checks is told, what DNS says is judged."""

import re
import stat
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner, Result

from agent.console.names import label
from appliance.cert.names import ask
from appliance.cli import app
from appliance.lab.pki import Authority

WILD = "*.console.example"
NAME = "203-0-113-7.console.example"


def cert(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["cert", *map(str, arguments)])


@pytest.mark.parametrize("kind", [(), ("--rsa",)])
def test_a_self_signed_pair_is_found_good(tmp_path: Path, kind: Sequence[str]) -> None:
    out = tmp_path / "lab"
    assert cert("self-signed", WILD, "203.0.113.7", "--out", out, *kind).exit_code == 0
    assert stat.S_IMODE((tmp_path / "lab.key").stat().st_mode) == 0o600
    result = cert("check", tmp_path / "lab.pem", "--key", tmp_path / "lab.key", "--name", NAME)
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"good for {WILD}, 203.0.113.7, until 20")


def test_a_request_asks_for_the_names(tmp_path: Path) -> None:
    assert cert("request", WILD, "192.0.2.1", "--out", tmp_path / "a.example").exit_code == 0
    request = x509.load_pem_x509_csr((tmp_path / "a.example.csr").read_bytes())
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [WILD]
    assert request.is_signature_valid
    assert stat.S_IMODE((tmp_path / "a.example.key").stat().st_mode) == 0o600


def test_nothing_is_written_over(tmp_path: Path) -> None:
    assert cert("self-signed", "a.example", "--out", tmp_path / "a").exit_code == 0
    before = (tmp_path / "a.key").read_text()
    result = cert("self-signed", "a.example", "--out", tmp_path / "a")
    assert result.exit_code != 0
    assert (tmp_path / "a.key").read_text() == before


def test_every_fault_is_told(tmp_path: Path) -> None:
    authority = Authority.create("Root")
    certificate, _ = authority.issue("a.example").write(tmp_path, "a")
    _, key = authority.issue("b.example").write(tmp_path, "b")
    result = cert("check", certificate, "--key", key, "--name", NAME)
    assert result.exit_code == 1
    assert "fault: key: does not belong to CN=a.example" in result.output
    assert f"fault: {certificate}: the chain is incomplete" in result.output
    assert f"fault: {certificate}: is not for {NAME}" in result.output


def answers(
    domain: str, said: dict[tuple[str, str], list[str]], address: str = "203.0.113.7"
) -> list[tuple[str, bool, str]]:
    def resolve(name: str, kind: str) -> Sequence[str]:
        if (name, kind) not in said:
            raise LookupError("nobody answers")
        return said[name, kind]

    found = ask(domain, [ip_address(address)], resolve)
    return [(one.name, one.good, one.said) for one in found]


@pytest.mark.parametrize(
    ("domain", "name", "said", "good", "words"),
    [
        (WILD, NAME, ["203.0.113.7"], True, "203.0.113.7"),
        (WILD, NAME, ["203.0.113.8"], False, "203.0.113.8, not 203.0.113.7"),
        (WILD, NAME, [], False, "there is no such name"),
        ("console.example", "console.example", ["203.0.113.7"], True, "203.0.113.7"),
        ("console.example", "console.example", ["192.0.2.1"], True, "load balancer's"),
    ],
)
def test_what_dns_says_is_judged(
    domain: str, name: str, said: list[str], good: bool, words: str
) -> None:
    ((asked, verdict, told),) = answers(domain, {(name, "A"): said})
    assert (asked, verdict) == (name, good)
    assert words in told


def test_an_ipv6_address_has_a_name_that_is_one() -> None:
    name = "2001-0db8-0000-0000-0000-0000-0000-0001.console.example"
    said = {(name, "AAAA"): ["2001:db8::1"]}
    assert answers(WILD, said, "2001:db8::1") == [(name, True, "2001:db8::1")]
    for address in ("::", "::1", "fd00::", "2001:db8::1"):
        first = label(ip_address(address))
        assert re.fullmatch(r"[0-9a-f]{4}(-[0-9a-f]{4}){7}", first), first


def test_nobody_who_answers_is_told() -> None:
    assert answers(WILD, {}) == [(NAME, False, "nobody answers")]


def test_an_address_that_is_none_is_refused() -> None:
    assert cert("dns", WILD, "console").exit_code != 0
