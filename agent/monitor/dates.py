"""Until when certificates and revocation lists are valid, read from their DER.

`cryptography` would cost the agent 11 MiB for two dates of each (measured: its X.509 part, unique
memory of the process), so this walks to them: RFC 5280, 4.1 and 5.1; X.690 for the encoding.
"""

import base64
import binascii
import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass

_BLOCK = re.compile(rb"-----BEGIN (CERTIFICATE|X509 CRL)-----([A-Za-z0-9+/=\s]*)-----END \1-----")
_SEQUENCE, _SET, _VERSION, _INTEGER = 0x30, 0x31, 0xA0, 0x02
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_COMMON_NAME = b"\x55\x04\x03"  # 2.5.4.3


class NotDer(ValueError):
    """This is not a certificate or a revocation list."""


@dataclass(frozen=True, slots=True)
class Validity:
    """When something begins and ends to be valid, in seconds since the epoch."""

    kind: str  # certificate, revocation list
    name: str  # the subject's or, of a list, the issuer's common name; may be empty
    begins: float
    ends: float | None  # a list need not say


def validities(pem: bytes) -> tuple[Validity, ...]:
    """Of every certificate and list among these PEM blocks (RFC 7468). Raises NotDer."""
    return tuple(_validity(*match.groups()) for match in _BLOCK.finditer(pem))


def _validity(label: bytes, text: bytes) -> Validity:
    try:
        der = base64.b64decode(b"".join(text.split()), validate=True)
        outer = next(_elements(der))
        signed = next(_elements(outer[1]))
        parts = list(_elements(signed[1]))
        return _certificate(parts) if label == b"CERTIFICATE" else _list(parts)
    except (binascii.Error, IndexError, StopIteration, ValueError) as error:
        raise NotDer(str(error) or "it ends too early") from error


def _certificate(parts: list[tuple[int, bytes]]) -> Validity:
    """[version], serial, signature, issuer, validity, subject, …"""
    first = 1 if parts[0][0] == _VERSION else 0
    begins, ends = (_time(*part) for part in list(_elements(parts[first + 3][1]))[:2])
    return Validity("certificate", _common_name(parts[first + 4][1]), begins, ends)


def _list(parts: list[tuple[int, bytes]]) -> Validity:
    """[version], signature, issuer, thisUpdate, [nextUpdate], …"""
    first = 1 if parts[0][0] == _INTEGER else 0
    begins = _time(*parts[first + 2])
    after = parts[first + 3] if len(parts) > first + 3 else (0, b"")
    ends = _time(*after) if after[0] in {_UTC_TIME, _GENERALIZED_TIME} else None
    return Validity("revocation list", _common_name(parts[first + 1][1]), begins, ends)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each element, one after the other."""
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            if not 1 <= size <= 4:
                raise NotDer("a length that DER does not have")
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if at + length > len(data):
            raise NotDer("it ends too early")
        yield tag, data[at : at + length]
        at += length


def _time(tag: int, content: bytes) -> float:
    text = content.decode("ascii")
    if tag == _UTC_TIME:  # two digits of the year: 50 to 99 are the last century's
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise NotDer("there is no time where one should be")
    return dt.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=dt.UTC).timestamp()


def _common_name(name: bytes) -> str:
    for _, attributes in _elements(name):
        for _, attribute in _elements(attributes):
            parts = list(_elements(attribute))
            if len(parts) == 2 and parts[0][1] == _COMMON_NAME:
                return parts[1][1].decode(errors="replace")
    return ""
