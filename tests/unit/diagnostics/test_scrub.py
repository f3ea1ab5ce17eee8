"""Secrets are found in any text, as they are and as others write them; other text stays."""

import base64
import json
import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.diagnostics.scrub import STAND_IN, Scrubber, private_keys_of, secrets_of

SECRET = 'Correct "horse" battery\\staple'
PEM = (
    "-----BEGIN PRIVATE KEY-----\n"
    "MC4CAQAwBQYDK2VwBCIEIDtWq6zNeKQnvYRgqVhOeFhVWMbTzMGvVHYpWQ5q9n2X\n"
    "-----END PRIVATE KEY-----\n"
)


def scrubbed(text: bytes, *values: str) -> bytes:
    return Scrubber(values or (SECRET,)).scrub(text)


@pytest.mark.parametrize(
    "form",
    [
        SECRET.encode(),
        json.dumps(SECRET).encode(),
        quote(SECRET, safe="").encode(),
        SECRET.encode().hex().encode(),
        SECRET.encode().hex().upper().encode(),
        base64.b64encode(SECRET.encode()),
        base64.urlsafe_b64encode(SECRET.encode()),
        base64.b64encode(b"x" + SECRET.encode() + b"yz"),
        base64.b64encode(b"xy" + SECRET.encode() + b"yz"),
        base64.b64encode(b"xyz" + SECRET.encode() + b"yz"),
    ],
)
def test_secret_is_found_in_whatever_form(form: bytes) -> None:
    found = scrubbed(b"before " + form + b" after\n")
    assert found.startswith(b"before ")
    assert found.endswith(b" after\n")
    assert STAND_IN in found
    assert form.strip(b'"')[4:-4] not in found


def test_every_occurrence_and_nothing_else() -> None:
    text = b"aaaa one two one\ntwo-three threefour\n"
    assert scrubbed(text, "two-three", "three", "aaa") == (
        b"aaaa one two one\n" + STAND_IN + b" " + STAND_IN + b"four\n"
    )
    assert Scrubber(()).scrub(text) == text


def test_longest_of_two_that_begin_alike() -> None:
    assert scrubbed(b"password1234!", "password", "password1234") == STAND_IN + b"!"


def test_private_keys_go_whole_also_without_their_end() -> None:
    for text in (PEM, PEM[:80]):
        assert Scrubber(()).scrub(f"a\n{text}".encode()).startswith(b"a\n" + STAND_IN)
    line = PEM.splitlines()[1]
    assert scrubbed(f"x {line} y".encode(), PEM) == b"x " + STAND_IN + b" y"
    certificate = PEM.replace("PRIVATE KEY", "CERTIFICATE").encode()
    assert Scrubber(()).scrub(certificate) == certificate


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("  user admin insecure-password s3cret", "  user admin insecure-password <secret>"),
        ("  user admin password $6$abc", "  user admin password <secret>"),
        ("  stats auth admin:s3cret", "  stats auth <secret>"),
        ("secret = s3cret", "secret = <secret>"),
        ('secret="s3 cret"', 'secret="<secret>"'),
        ("PASSWORD=s3cret next", "PASSWORD=<secret> next"),
        ('{"psk": "s3\\"cret", "a": 1}', '{"psk": "<secret>", "a": 1}'),
        ('{"token": null}', '{"token": null}'),
        ('{"password": {"a": 1}}', '{"password": {"a": 1}}'),
        ("sysvm-passwords.service: started", "sysvm-passwords.service: started"),
        ("the password server listens", "the password server listens"),
    ],
)
def test_what_is_called_a_secret_is_one(line: str, left: str) -> None:
    assert Scrubber(()).scrub(line.encode()).decode() == left


@given(
    value=st.text("abcXYZ0123+/= \"\\'", min_size=4, max_size=40),
    before=st.binary(max_size=30),
    after=st.binary(max_size=30),
)
def test_no_value_passes(value: str, before: bytes, after: bytes) -> None:
    secret = f"K{value}K"
    for form in (secret.encode(), secret.encode().hex().encode()):
        assert form not in scrubbed(before + form + after, secret)


def test_many_secrets_cost_no_more_than_few() -> None:
    text = b"Nov 26 19:00:00 vm1 haproxy[7]: 10.1.1.10:443 [26/Nov/2026] web web/vm2 0/0/1\n" * 6000
    scrubber = Scrubber(f"pass-{number:05}-word" for number in range(2000))
    began = time.process_time()
    assert scrubber.scrub(text) == text
    assert time.process_time() - began < 5  # generous: half a second for half a mebibyte


def test_secrets_of_a_document_are_those_that_are_not_shown() -> None:
    document = {
        "generation": 7,
        "passwords": {"guests": {"10.1.1.10": {"password": "G4est-pass"}}},
        "a_later_section": {"x": ["one", {"y": "two"}], "z": 7},
    }
    found = set(secrets_of(document))
    assert {"one", "two"} <= found
    assert "G4est-pass" in found


def test_secrets_of_a_console_proxy() -> None:
    console = {
        "networks": ["10.2.0.0/24"],
        "key": PEM,
        "passphrase": "Open sesame",
        "token_plugin": {"path": "a.B", "source": "redis:host:pw"},
    }
    assert set(secrets_of({"console": console})) == {PEM, "Open sesame", "redis:host:pw"}


def test_private_keys_of_any_value() -> None:
    assert list(private_keys_of({"a": [{"key": PEM, "b": "x"}], "c": 7})) == [PEM]
