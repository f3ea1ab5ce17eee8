"""The proxy's certificates: which belongs to the key, what chain they make, and every fault.

Pure, over text: whoever calls says what time it is, or that it does not matter (a VM that boots
with a certificate that has run out since is to come up as it was).
"""

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_WEAK = frozenset({"md5", "sha1"})
_SOON = dt.timedelta(days=21)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong. `piece` is the name of the certificate's piece, or `key` or `passphrase`."""

    piece: str
    message: str
    hint: str = ""
    grave: bool = True  # else it works, and should be known

    def __str__(self) -> str:
        text = f"{self.piece}: {self.message}" if self.piece else self.message
        return f"{text} ({self.hint})" if self.hint else text


@dataclass(frozen=True, slots=True)
class Pair:
    """What was found: the certificate's chain as a server sends it, and the key, both PEM."""

    faults: tuple[Fault, ...]
    chain: str = ""  # the server's certificate first, without the root
    key: str = field(default="", repr=False)  # PKCS#8, not encrypted
    names: tuple[str, ...] = ()  # that the certificate is good for
    expires: dt.datetime | None = None  # the first of the chain to

    @property
    def usable(self) -> bool:
        return not any(fault.grave for fault in self.faults)


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    name: str
    certificate: "Certificate"


def check(
    pieces: Mapping[str, str],
    key: str,
    passphrase: str = "",
    *,
    wanted: Sequence[str] = (),
    now: dt.datetime | None = None,
) -> Pair:
    """What these certificates (PEM by name, any number in each, in any order) and this key make.

    `wanted` are the names that browsers will call the server by.
    """
    faults: list[Fault] = []
    found = list(_certificates(pieces, faults))
    unread = bool(faults)  # the one that is missing may be among those
    private = _private_key(key, passphrase, faults)
    unique = list(_unique(found, faults))
    if not unique:
        if not faults:
            faults.append(Fault("", "there is no certificate"))
        return Pair(tuple(faults))
    leaf = _leaf(unique, private, faults, unread=unread)
    if leaf is None:
        return Pair(tuple(faults))
    chain = _chain(leaf, unique, faults)
    faults += _unused(unique, chain)
    faults += _properties(leaf, chain, now)
    names = _names(leaf.certificate)
    faults += _uncovered(leaf, names, wanted)
    sent = [one for one in chain if one is leaf or not _self_signed(one.certificate)]
    return Pair(
        tuple(faults),
        "".join(_pem(one.certificate) for one in sent),
        "" if private is None else _pkcs8(private),
        names,
        min(one.certificate.not_valid_after_utc for one in chain),
    )


# -- reading -----------------------------------------------------------------------------------


def _blocks(name: str, text: str, faults: list[Fault]) -> Iterator[tuple[str, str]]:
    """The PEM blocks of a text: what each is of, and the whole of it, if it can be read at all."""
    if re.search(r"%[0-9A-Fa-f]{2}", text):
        faults.append(
            Fault(name, "is percent-encoded", "it was encoded once more than it was decoded")
        )
        return
    whole = list(_BLOCK.finditer(text))
    if not whole:
        what = "begins and does not end" if "-----BEGIN" in text else "is not PEM"
        faults.append(Fault(name, what, "-----BEGIN CERTIFICATE----- and so on"))
    for block in whole:
        body = block[2].strip("\r\n")
        lines = [line for line in body.replace("\r", "").split("\n") if ":" not in line]
        if any(" " in line.strip() for line in lines):
            hint = "each + became a blank, where a form's URL was decoded: send them as %2B"
            faults.append(Fault(name, "has blanks within", hint))
            continue
        yield block[1], block[0]


def _certificates(pieces: Mapping[str, str], faults: list[Fault]) -> Iterator[_Piece]:
    from cryptography import x509

    for name, text in pieces.items():
        for kind, block in _blocks(name, text, faults):
            if kind not in {"CERTIFICATE", "TRUSTED CERTIFICATE", "X509 CERTIFICATE"}:
                what = "has a private key in it" if "KEY" in kind else f"has a {kind} in it"
                faults.append(Fault(name, what, "only certificates belong here"))
                continue
            try:
                yield _Piece(name, x509.load_pem_x509_certificate(block.encode()))
            except ValueError as error:
                faults.append(Fault(name, "cannot be read", str(error)[:200]))


def _private_key(text: str, passphrase: str, faults: list[Fault]) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    blocks = [one for one in _blocks("key", text, faults) if "PRIVATE KEY" in one[0]]
    if len(blocks) != 1:
        if not any(fault.piece == "key" for fault in faults):
            what = "is no private key" if not blocks else "has more than one private key"
            faults.append(Fault("key", what))
        return None
    kind, block = blocks[0]
    encrypted = kind.startswith("ENCRYPTED") or "Proc-Type: 4,ENCRYPTED" in block
    if encrypted and not passphrase:
        faults.append(Fault("passphrase", "is missing", "the key is encrypted"))
        return None
    if passphrase and not encrypted:
        faults.append(Fault("passphrase", "is not needed: the key is not encrypted", grave=False))
    try:
        given = passphrase.encode() if encrypted else None
        key = serialization.load_pem_private_key(block.encode(), given)
    except (ValueError, TypeError) as error:
        piece, what = (
            ("passphrase", "does not fit the key") if encrypted else ("key", "is unreadable")
        )
        faults.append(Fault(piece, what, str(error)[:120]))
        return None
    except UnsupportedAlgorithm as error:  # which is no ValueError
        faults.append(Fault("key", "is of a kind that is not supported", str(error)[:120]))
        return None
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < 2048:
            faults.append(Fault("key", f"has {key.key_size} bits", "2048 at least"))
    elif not isinstance(key, ec.EllipticCurvePrivateKey):
        faults.append(Fault("key", "is neither RSA nor of an elliptic curve, as browsers want it"))
        return None
    return key


def _unique(found: Iterable[_Piece], faults: list[Fault]) -> Iterator[_Piece]:
    seen: dict[bytes, str] = {}
    for one in found:
        digest = one.certificate.fingerprint(_sha256())
        if digest in seen:
            also = "twice in it" if seen[digest] == one.name else f"in {seen[digest]}, too"
            faults.append(Fault(one.name, f"{_called(one.certificate)} is {also}"))
            continue
        seen[digest] = one.name
        yield one


# -- deciding ----------------------------------------------------------------------------------


def _leaf(
    pieces: Sequence[_Piece], key: Any, faults: list[Fault], *, unread: bool
) -> _Piece | None:
    """The server's own certificate: the key's, or else the one that signed none of the others."""
    if key is not None:
        own = [one for one in pieces if _same_key(one.certificate, key)]
        if own:
            newest = max(own, key=lambda one: one.certificate.not_valid_after_utc)
            faults += [
                Fault(one.name, f"{_called(one.certificate)} is an older one of the same key")
                for one in own
                if one is not newest
            ]
            return newest
    ends = [one for one in pieces if not _is_ca(one.certificate)]
    if not ends and unread:
        return None
    if key is not None:
        of = ", ".join(_called(one.certificate) for one in ends) or "any of the certificates"
        faults.append(Fault("key", f"does not belong to {of}"))
    if len(ends) == 1:
        return ends[0]
    if not ends:
        faults.append(Fault("", "there is no server certificate", "all of them are authorities'"))
    elif key is None:
        faults.append(Fault("", "there are several server certificates, and no key to tell them"))
    return None


def _chain(leaf: _Piece, pieces: Sequence[_Piece], faults: list[Fault]) -> list[_Piece]:
    """From the server's certificate up, as far as the pieces go."""
    chain = [leaf]
    while not _self_signed(chain[-1].certificate):
        last = chain[-1]
        named = [
            one
            for one in pieces
            if one not in chain and one.certificate.subject == last.certificate.issuer
        ]
        signers = [one for one in named if _signed(last.certificate, one.certificate)]
        if not signers:
            issuer = last.certificate.issuer.rfc4514_string()
            if named:
                what = f"did not sign {_called(last.certificate)}, though it has the signer's name"
                faults.append(Fault(named[0].name, what))
            elif last is leaf:
                what = f"the chain is incomplete: the certificate of {issuer} is missing"
                faults.append(Fault(leaf.name, what, "add the intermediate certificates"))
            else:
                what = f"the chain ends before {issuer}, which browsers have to know"
                faults.append(Fault(last.name, what, grave=False))
            break
        signer = max(signers, key=lambda one: one.certificate.not_valid_after_utc)
        if not _is_ca(signer.certificate):
            faults.append(Fault(signer.name, f"{_called(signer.certificate)} may not sign others"))
        chain.append(signer)
    return chain


def _unused(pieces: Sequence[_Piece], chain: Sequence[_Piece]) -> Iterator[Fault]:
    for one in pieces:
        if one not in chain and not _is_older(one, pieces):
            yield Fault(one.name, f"{_called(one.certificate)} is not part of the chain")


def _is_older(one: _Piece, pieces: Sequence[_Piece]) -> bool:
    """Is it an older one of a key that is there (which `_leaf` has told)?"""
    own = one.certificate.public_key()
    return any(
        other is not one
        and not _is_ca(one.certificate)
        and other.certificate.public_key() == own
        and other.certificate.not_valid_after_utc >= one.certificate.not_valid_after_utc
        for other in pieces
    )


def _properties(leaf: _Piece, chain: Sequence[_Piece], now: dt.datetime | None) -> Iterator[Fault]:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    for one in chain:
        certificate = one.certificate
        called = _called(certificate)
        if now is not None:
            if certificate.not_valid_after_utc <= now:
                yield Fault(one.name, f"{called} expired on {certificate.not_valid_after_utc:%F}")
            elif certificate.not_valid_after_utc <= now + _SOON:
                when = f"{certificate.not_valid_after_utc:%F}"
                yield Fault(one.name, f"{called} expires on {when}", grave=False)
            if certificate.not_valid_before_utc > now:
                when = f"{certificate.not_valid_before_utc:%F}"
                yield Fault(one.name, f"{called} is valid from {when} on", "is the clock right?")
        algorithm = certificate.signature_hash_algorithm
        if algorithm is not None and algorithm.name in _WEAK and not _self_signed(certificate):
            yield Fault(one.name, f"{called} is signed with {algorithm.name}")
    try:
        usage = leaf.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    allowed = (
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    )
    if not any(purpose in usage for purpose in allowed):
        yield Fault(leaf.name, f"{_called(leaf.certificate)} is not for servers")


def _uncovered(leaf: _Piece, names: Sequence[str], wanted: Sequence[str]) -> Iterator[Fault]:
    if not names:
        yield Fault(leaf.name, "names no server", "browsers look for subject alternative names")
        return
    for name in wanted:
        if not any(covers(given, name) for given in names):
            yield Fault(leaf.name, f"is not for {name}", f"it is for {', '.join(names[:10])}")


def covers(given: str, name: str) -> bool:
    """Is a certificate for `given` good for `name`? A wildcard stands for one label (RFC 6125)."""
    given, name = given.lower(), name.lower()
    if given == name:
        return True
    if not given.startswith("*."):
        return False
    _, dot, rest = name.partition(".")
    return bool(dot) and rest == given[2:]


# -- looking -----------------------------------------------------------------------------------


def _sha256() -> Any:
    from cryptography.hazmat.primitives import hashes

    return hashes.SHA256()


def _names(certificate: "Certificate") -> tuple[str, ...]:
    from cryptography import x509

    try:
        value = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    except ValueError:
        return ()
    addresses = value.get_values_for_type(x509.IPAddress)
    return (*value.get_values_for_type(x509.DNSName), *map(str, addresses))


def _called(certificate: "Certificate") -> str:
    text = certificate.subject.rfc4514_string() or "a certificate without a name"
    return "".join(c if c.isprintable() else "?" for c in text)[:120]


def _is_ca(certificate: "Certificate") -> bool:
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _self_signed(certificate: "Certificate") -> bool:
    return certificate.subject == certificate.issuer and _signed(certificate, certificate)


def _signed(certificate: "Certificate", signer: "Certificate") -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(signer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _same_key(certificate: "Certificate", key: Any) -> bool:
    try:
        return bool(certificate.public_key() == key.public_key())
    except ValueError:
        return False


def _pem(certificate: "Certificate") -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode()


def _pkcs8(key: Any) -> str:
    from cryptography.hazmat.primitives import serialization

    text: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return text.decode()
