"""Certificates: whatever the order and the form of the key, and every fault in one answer."""

import datetime as dt
import itertools
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from agent.console.certificates import Pair, check, covers

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
NAME = "203-0-113-7.console.example"


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass(frozen=True)
class Issued:
    certificate: x509.Certificate
    private: Any

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def key(self, form: PrivateFormat = PrivateFormat.PKCS8, passphrase: str | None = None) -> str:
        secret = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
        data: bytes = self.private.private_bytes(Encoding.PEM, form, secret)
        return data.decode()


def issue(
    subject: str,
    signer: Issued | None = None,
    *,
    ca: bool = False,
    names: Sequence[str] = (),
    private: Any = None,
    days: tuple[int, int] = (-10, 300),
    usage: x509.ObjectIdentifier | None = None,
    issuer: str | None = None,
) -> Issued:
    private = private or ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(
            name(issuer) if issuer else signer.certificate.subject if signer else name(subject)
        )
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + days[0] * DAY)
        .not_valid_after(NOW + days[1] * DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        alternatives = x509.SubjectAlternativeName([x509.DNSName(one) for one in names])
        builder = builder.add_extension(alternatives, critical=False)
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    signing = signer.private if signer else private
    algorithm = None if isinstance(signing, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return Issued(builder.sign(signing, algorithm), private)


ROOT = issue("Root", ca=True)
MIDDLE = issue("Middle", ROOT, ca=True)
LEAF = issue("server", MIDDLE, names=["*.console.example"])
PIECES = {"server": LEAF.pem, "middle": MIDDLE.pem, "root": ROOT.pem}


def told(pair: Pair) -> str:
    return "\n".join(map(str, pair.faults))


def test_a_whole_chain_has_no_fault_and_goes_out_without_its_root() -> None:
    pair = check(PIECES, LEAF.key(), wanted=[NAME], now=NOW)
    assert pair.faults == ()
    assert pair.usable
    assert pair.chain == LEAF.pem + MIDDLE.pem
    assert pair.key == LEAF.key()
    assert pair.names == ("*.console.example",)
    assert pair.expires == NOW + 300 * DAY


@pytest.mark.parametrize("order", list(itertools.permutations(PIECES)))
def test_the_order_does_not_matter(order: Sequence[str]) -> None:
    pair = check({one: PIECES[one] for one in order}, LEAF.key())
    assert (pair.faults, pair.chain) == ((), LEAF.pem + MIDDLE.pem)
    whole = check({"all": "".join(PIECES[one] for one in order)}, LEAF.key())
    assert (whole.faults, whole.chain) == ((), LEAF.pem + MIDDLE.pem)


@pytest.mark.parametrize("private", [rsa.generate_private_key(65537, 2048), LEAF.private])
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("passphrase", [None, "open sesame"])
def test_forms_of_keys(private: Any, form: PrivateFormat, passphrase: str | None) -> None:
    server = issue("server", MIDDLE, names=["a.example"], private=private)
    pair = check({**PIECES, "server": server.pem}, server.key(form, passphrase), passphrase or "")
    assert pair.faults == ()
    assert pair.key == server.key()


def test_a_self_signed_pair_is_one() -> None:
    alone = issue("lab", names=["lab.example"])
    pair = check({"own": alone.pem}, alone.key(), wanted=["lab.example"], now=NOW)
    assert (pair.faults, pair.chain) == ((), alone.pem)


def test_without_its_root_a_chain_is_whole_and_says_whom_it_counts_on() -> None:
    pair = check({"server": LEAF.pem, "middle": MIDDLE.pem}, LEAF.key())
    assert pair.usable
    assert told(pair) == "middle: the chain ends before CN=Root, which browsers have to know"


OTHER = issue("other", MIDDLE, names=["other.example"])
EXPIRED = issue("server", MIDDLE, names=["*.console.example"], days=(-10, -1))
EARLY = issue("server", MIDDLE, names=["*.console.example"], days=(1, 10))
FORGED = issue("Middle", ROOT, ca=True)


@pytest.mark.parametrize(
    ("pieces", "key", "passphrase", "faults"),
    [
        ({}, LEAF.key(), "", ["there is no certificate"]),
        ({"a": "x"}, LEAF.key(), "", ["a: is not PEM (-----BEGIN CERTIFICATE----- and so on)"]),
        ({"a": LEAF.pem[:-10]}, LEAF.key(), "", ["a: begins and does not end"]),
        (PIECES, "", "", ["key: is not PEM"]),
        (PIECES, LEAF.pem, "", ["key: is no private key"]),
        (PIECES, LEAF.key() * 2, "", ["key: has more than one private key"]),
        (PIECES, OTHER.key(), "", ["key: does not belong to CN=server"]),
        (PIECES, LEAF.key(passphrase="right"), "", ["passphrase: is missing"]),
        (PIECES, LEAF.key(passphrase="right"), "wrong", ["passphrase: does not fit the key"]),
        (PIECES, LEAF.key(), "extra", ["passphrase: is not needed"]),
        ({"s": LEAF.pem}, LEAF.key(), "", ["s: the chain is incomplete: the certificate of CN=Mi"]),
        ({"s": LEAF.pem, "r": ROOT.pem}, LEAF.key(), "", ["CN=Middle is missing", "r: CN=Root is"]),
        ({**PIECES, "b": MIDDLE.pem}, LEAF.key(), "", ["b: CN=Middle is in middle, too"]),
        ({**PIECES, "b": OTHER.pem}, LEAF.key(), "", ["b: CN=other is not part of the chain"]),
        ({**PIECES, "server": EXPIRED.pem}, EXPIRED.key(), "", ["CN=server expired on 2026-05-31"]),
        ({**PIECES, "server": EARLY.pem}, EARLY.key(), "", ["is valid from 2026-06-02 on"]),
        ({**PIECES, "middle": FORGED.pem}, LEAF.key(), "", ["middle: did not sign CN=server"]),
        ({"m": MIDDLE.pem, "r": ROOT.pem}, LEAF.key(), "", ["there is no server certificate"]),
        ({**PIECES, "k": LEAF.key()}, LEAF.key(), "", ["k: has a private key in it"]),
        ({**PIECES, "server": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"},
         LEAF.key(), "", ["server: cannot be read"]),
    ],
)  # fmt: skip
def test_a_fault_is_named(
    pieces: dict[str, str], key: str, passphrase: str, faults: list[str]
) -> None:
    pair = check(pieces, key, passphrase, now=NOW)
    for fault in faults:
        assert fault in told(pair)
    assert pair.usable is (faults == ["passphrase: is not needed"])


def test_every_fault_is_in_one_answer() -> None:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - which is the point
    usage = ExtendedKeyUsageOID.CLIENT_AUTH
    server = issue(
        "server", MIDDLE, names=["other.example"], private=weak, days=(-9, -1), usage=usage
    )
    pieces = {"s": server.pem, "m": MIDDLE.pem + MIDDLE.pem, "r": ROOT.pem, "x": "garbage"}
    pair = check(pieces, server.key(), wanted=[NAME], now=NOW)
    for fault in (
        "key: has 1024 bits (2048 at least)",
        "s: CN=server expired on 2026-05-31",
        "s: CN=server is not for servers",
        f"s: is not for {NAME} (it is for other.example)",
        "m: CN=Middle is twice in it",
        "x: is not PEM",
    ):
        assert fault in told(pair)


def test_what_bad_url_decoding_does_is_named() -> None:
    encoded = urllib.parse.quote(LEAF.pem)
    assert "server: is percent-encoded" in told(check({**PIECES, "server": encoded}, LEAF.key()))
    plus = next(
        one for one in (issue("s", MIDDLE, names=["a"]) for _ in range(50)) if "+" in one.pem
    )
    blank = urllib.parse.unquote_plus(
        plus.pem.replace("-----BEGIN CERTIFICATE", "-----BEGIN CERTIFICATE")
    )
    pair = check({**PIECES, "server": blank}, plus.key())
    assert "server: has blanks within (each + became a blank" in told(pair)


def test_what_cannot_be_read_is_not_missed_as_well() -> None:
    blank = LEAF.pem.replace("+", " ") if "+" in LEAF.pem else LEAF.pem.replace("A", " ", 3)
    pair = check({**PIECES, "server": blank}, LEAF.key())
    assert [fault.piece for fault in pair.faults] == ["server"]
    assert not pair.usable


def test_a_key_that_no_browser_takes() -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    server = issue("server", MIDDLE, names=["a.example"], private=private)
    assert "neither RSA nor" in told(check({**PIECES, "server": server.pem}, server.key()))


def test_an_authority_that_is_none_may_not_sign() -> None:
    fake = issue("Fake", ROOT)
    server = issue("server", fake, names=["a.example"])
    pair = check({"s": server.pem, "f": fake.pem, "r": ROOT.pem}, server.key())
    assert "f: CN=Fake may not sign others" in told(pair)


def test_a_renewed_certificate_beside_the_old_one() -> None:
    old = issue("server", MIDDLE, names=["a"], private=LEAF.private, days=(-300, 20))
    pair = check({**PIECES, "old": old.pem}, LEAF.key())
    assert told(pair) == "old: CN=server is an older one of the same key"
    assert pair.chain.startswith(LEAF.pem)


def test_what_ends_soon_is_said_and_works() -> None:
    soon = issue("server", MIDDLE, names=["a"], days=(-10, 10))
    pair = check({**PIECES, "server": soon.pem}, soon.key(), now=NOW)
    assert pair.usable
    assert told(pair) == "server: CN=server expires on 2026-06-11"


def test_without_a_time_nothing_is_too_old() -> None:
    assert check({**PIECES, "server": EXPIRED.pem}, EXPIRED.key()).usable


@pytest.mark.parametrize(
    ("given_", "wanted", "good"),
    [
        ("*.console.example", NAME, True),
        ("*.console.example", "console.example", False),
        ("*.console.example", "a.b.console.example", False),
        ("Console.Example", "console.example", True),
        ("*", "console", False),
    ],
)
def test_what_a_name_covers(given_: str, wanted: str, good: bool) -> None:
    assert covers(given_, wanted) is good


@given(st.text(max_size=300), st.text(max_size=300), st.text(max_size=10))
def test_any_text_is_an_answer(certificate: str, key: str, passphrase: str) -> None:
    assert not check({"a": certificate, "b": LEAF.pem + certificate}, key, passphrase).usable


def test_the_key_is_not_in_what_is_printed() -> None:
    assert "PRIVATE" not in repr(check(PIECES, LEAF.key()))
    assert serialization.load_pem_private_key(check(PIECES, LEAF.key()).key.encode(), None)
