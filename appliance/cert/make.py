"""Keys with a request to sign, or with a certificate that they sign themselves."""

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.errors import ApplianceError

_DAY = dt.timedelta(days=1)

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def new_key(*, with_rsa: bool) -> PrivateKey:
    """A key that every browser takes."""
    return rsa.generate_private_key(65537, 3072) if with_rsa else ec.generate_private_key(_CURVE)


_CURVE = ec.SECP256R1()


def request(names: Sequence[str], key: PrivateKey) -> str:
    """A request for a certificate of these names, PEM."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(names))
    builder = builder.add_extension(_alternatives(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def self_signed(names: Sequence[str], key: PrivateKey, days: int, now: dt.datetime) -> str:
    """A certificate for these names that nobody else vouches for, PEM: for a lab."""
    subject = _subject(names)
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + days * _DAY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_alternatives(names), critical=False)
        .add_extension(purposes, critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM).decode()


def pem(key: PrivateKey) -> str:
    """The key as PKCS#8, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def write(path: Path, text: str, mode: int) -> None:
    """A new file that nobody else reads where `mode` says so. Raises ApplianceError."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise ApplianceError(f"{path} is there already", "choose another name") from error
    except OSError as error:
        raise ApplianceError(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(handle, "w") as file:
        file.write(text)


def _subject(names: Sequence[str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])


def _alternatives(names: Sequence[str]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([_alternative(name) for name in names])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise ApplianceError(f"{name} is no name", "such as '*.console.example'") from error
