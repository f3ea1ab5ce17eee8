"""The keys of a lab's management: its authority, its server and its clients, good and bad."""

import datetime as dt
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

MANAGER = "sysvm-manager"

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key, both PEM."""

    certificate: str
    key: str

    @property
    def serial(self) -> int:
        """The certificate's number, by which it is revoked."""
        return x509.load_pem_x509_certificate(self.certificate.encode()).serial_number

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write NAME.pem and NAME.key into `folder`; their paths."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_text(self.certificate)
        key.touch(mode=0o600)
        key.write_text(self.key)
        return certificate, key


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority: what it signs is trusted by who trusts its certificate."""

    identity: Identity

    @classmethod
    def create(cls, name: str) -> "Authority":
        """A new authority of this name, with a new key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        subject_key = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        now = _now()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + 3650 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(subject_key, critical=False)
            .add_extension(_authority_key(subject_key), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(Identity(_pem(certificate), _private_pem(key)))

    def issue(
        self,
        name: str,
        *,
        addresses: Iterable[str] = (),
        names: Iterable[str] = (),
        valid: tuple[dt.timedelta, dt.timedelta] = (-_DAY, 365 * _DAY),
    ) -> Identity:
        """A certificate for a client and server of this name, valid between two times from now.

        The name is both the subject's common name and, with `names` and `addresses`, one of its
        alternative names.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        authority = x509.load_pem_x509_certificate(self.identity.certificate.encode())
        signer = self._key()
        alternatives: list[x509.GeneralName] = [x509.DNSName(entry) for entry in (name, *names)]
        alternatives += [x509.IPAddress(ipaddress.ip_address(entry)) for entry in addresses]
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        subject_key = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(authority.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_now() + valid[0])
            .not_valid_after(_now() + valid[1])
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(_authority_key(subject_key), critical=False)
            .sign(signer, hashes.SHA256())
        )
        return Identity(_pem(certificate), _private_pem(key))

    def crl(self, revoked: Iterable[Identity] = ()) -> str:
        """The list of certificates that are not to be trusted any more, PEM."""
        authority = x509.load_pem_x509_certificate(self.identity.certificate.encode())
        now = _now()
        subject_key = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(authority.subject)
            .last_update(now - _DAY)
            .next_update(now + 3650 * _DAY)
            .add_extension(_authority_key(subject_key), critical=False)
            .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        )
        for identity in revoked:
            entry = (
                x509.RevokedCertificateBuilder()
                .serial_number(identity.serial)
                .revocation_date(now - _DAY)
                .build()
            )
            builder = builder.add_revoked_certificate(entry)
        crl = builder.sign(self._key(), hashes.SHA256())
        return crl.public_bytes(serialization.Encoding.PEM).decode()

    def _key(self) -> ec.EllipticCurvePrivateKey:
        key = serialization.load_pem_private_key(self.identity.key.encode(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("the authority's key is not of an elliptic curve")
        return key


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one lab.

    `manager` is the one client that the VM lets in. The others are what it must refuse: `revoked`
    is on the revocation list, `expired` was valid yesterday, `stranger` is of another authority
    and `misnamed` is of the right one, for a name that is not allowed.
    """

    authority: Authority
    server: Identity
    manager: Identity
    revoked: Identity
    expired: Identity
    stranger: Identity
    misnamed: Identity

    @classmethod
    def create(cls, *addresses: str) -> "Keys":
        """New keys for VMs that listen on these addresses and on loopback."""
        authority = Authority.create("sysvm lab authority")
        return cls(
            authority=authority,
            server=authority.issue(
                "sysvm", addresses=(*addresses, "127.0.0.1", "::1"), names=("localhost",)
            ),
            manager=authority.issue(MANAGER),
            revoked=authority.issue(MANAGER),
            expired=authority.issue(MANAGER, valid=(-10 * _DAY, -_DAY)),
            stranger=Authority.create("another authority").issue(MANAGER),
            misnamed=authority.issue("somebody-else"),
        )

    @property
    def crl(self) -> str:
        """The authority's revocation list, with `revoked` on it."""
        return self.authority.crl([self.revoked])

    def write(self, folder: Path) -> None:
        """Write everything into `folder`, for a later `load` and for `curl`."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.authority.identity.write(folder, "ca")
        (folder / "crl.pem").write_text(self.crl)
        for name in _CLIENTS:
            identity: Identity = getattr(self, name)
            identity.write(folder, name)

    @classmethod
    def load(cls, folder: Path) -> "Keys":
        """The keys that `write` wrote."""
        return cls(
            authority=Authority(_read(folder, "ca")),
            **{name: _read(folder, name) for name in _CLIENTS},
        )


_CLIENTS = ("server", "manager", "revoked", "expired", "stranger", "misnamed")


def _read(folder: Path, name: str) -> Identity:
    return Identity((folder / f"{name}.pem").read_text(), (folder / f"{name}.key").read_text())


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _authority_key(subject_key: x509.SubjectKeyIdentifier) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
