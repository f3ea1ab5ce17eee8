"""Dates of certificates and lists: ours against those that cryptography reads."""

import base64
import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from agent.monitor.dates import NotDer, validities
from appliance.lab.pki import Authority


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("an authority")


def test_dates_and_names_are_those_that_are_in_it(authority: Authority) -> None:
    for days in (1, 400, 3650 * 3):  # beyond 2049 the encoding is another one
        valid = (dt.timedelta(days=-1), dt.timedelta(days=days))
        pem = authority.issue("vm.example", valid=valid).certificate
        known = x509.load_pem_x509_certificate(pem.encode())
        (found,) = validities(pem.encode())
        assert (found.kind, found.name) == ("certificate", "vm.example")
        assert found.begins == known.not_valid_before_utc.timestamp()
        assert found.ends == known.not_valid_after_utc.timestamp()


def test_a_revocation_list_says_when_the_next_one_comes(authority: Authority) -> None:
    pem = authority.crl([authority.issue("gone.example")])
    known = x509.load_pem_x509_crl(pem.encode())
    (found,) = validities(pem.encode())
    assert (found.kind, found.name) == ("revocation list", "an authority")
    assert known.next_update_utc is not None
    assert found.ends == known.next_update_utc.timestamp()


def test_all_of_a_chain_and_nothing_of_a_key(authority: Authority) -> None:
    one = authority.issue("a.example")
    text = one.certificate + one.key + authority.identity.certificate
    assert [v.name for v in validities(text.encode())] == ["a.example", "an authority"]
    assert validities(one.key.encode()) == ()
    assert validities(b"") == ()


def test_every_authority_that_this_machine_trusts_is_read() -> None:
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if not bundle.exists():
        pytest.skip("no certificates here")
    text = bundle.read_bytes()
    known = x509.load_pem_x509_certificates(text)
    assert [v.ends for v in validities(text)] == [c.not_valid_after_utc.timestamp() for c in known]


@given(st.binary(max_size=200), st.integers(0, 600))
def test_whatever_it_is_it_is_read_or_refused(noise: bytes, cut: int) -> None:
    der = base64.b64decode(SAMPLE)
    for content in (noise, der[:cut], der[:cut] + noise):
        lines = base64.encodebytes(content)
        pem = b"-----BEGIN CERTIFICATE-----\n" + lines + b"-----END CERTIFICATE-----\n"
        try:
            validities(pem)
        except NotDer:
            continue


SAMPLE = "".join(Authority.create("sample").identity.certificate.splitlines()[1:-1])
