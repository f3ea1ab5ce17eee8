"""Certificates and revocation lists that the VM uses: the control endpoint's, IPsec's, and those of
any daemon's files. An expired list of the control endpoint's CA keeps every client out."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agent.engine.model import Desired, pointer
from agent.monitor.checks import Check, Finding, Round, failed, skipped, unknown
from agent.monitor.checks.clock import duration
from agent.monitor.dates import NotDer, Validity, validities
from agent.monitor.health import Level, Verdict

DAY = 86400.0
_CONTROL = {"front/server.pem": "certificate", "front/ca.pem": "ca", "front/crl.pem": "crl"}
_BEGIN = b"-----BEGIN "


@dataclass(frozen=True, slots=True)
class Dated:
    """One certificate or list, and where the document has it."""

    path: str
    validity: Validity


class _Known:
    """Dates by the digest of what they were read from: a file is read once."""

    def __init__(self) -> None:
        self._found: dict[bytes, tuple[Validity, ...]] = {}

    def of(self, texts: Mapping[str, bytes]) -> tuple[Dated, ...]:
        """What there is in these texts, by path. Raises NotDer."""
        kept: dict[bytes, tuple[Validity, ...]] = {}
        found = []
        for path, text in texts.items():
            digest = hashlib.sha256(text).digest()
            kept[digest] = self._found.get(digest) or validities(text)
            found += [Dated(path, one) for one in kept[digest]]
        self._found = kept
        return tuple(found)


_KNOWN = _Known()


def texts(desired: Desired) -> Mapping[str, bytes]:
    """PEM by where the document has it."""
    return dict(_texts(desired))


def _texts(desired: Desired) -> Iterator[tuple[str, bytes]]:
    for path, file in sorted(desired.files.items()):
        if path in _CONTROL:
            yield pointer("control", _CONTROL[path]), file.content
        elif path.endswith((".pem", ".crt")) and _BEGIN in file.content:
            yield path, file.content
    for name, connection in sorted(desired.connections.items()):
        if _BEGIN in connection.content:
            blocks = "\n".join(_strings(json.loads(connection.content)))
            yield pointer("ipsec", "connections", name, "certificates"), blocks.encode()


def _strings(value: object) -> Iterator[str]:
    """Every certificate or list in what charon is told."""
    if isinstance(value, str):
        if "-----BEGIN CERTIFICATE" in value or "-----BEGIN X509 CRL" in value:
            yield value
    elif isinstance(value, dict):
        for child in value.values():
            yield from _strings(child)
    elif isinstance(value, list):
        for child in value:
            yield from _strings(child)


def judge(dated: tuple[Dated, ...], now: float, days: int) -> Finding:
    """Is each valid now, and are certificates for `days` more? Lists are renewed more often."""
    wrong: list[tuple[str, str]] = []
    left: list[float] = []
    for one in dated:
        what = _what(one)
        ends = one.validity.ends
        if one.validity.begins > now:
            wrong.append((one.path, f"{what} is not valid yet"))
        elif ends is not None and ends <= now:
            wrong.append((one.path, f"{what} expired {duration(now - ends)} ago"))
        elif ends is not None and one.validity.kind == "certificate":
            left.append((ends - now) / DAY)
            if left[-1] < days:
                wrong.append((one.path, f"{what} expires in {duration(ends - now)}"))
    first = min(left, default=None)
    if not wrong:
        text = f"{len(dated)} are valid" + (
            f", the first to end in {first:.0f} days" if left else ""
        )
    else:
        text = "; ".join(said for _, said in wrong[:3])
    return Finding(
        verdict=Verdict.FAILED if wrong else Verdict.PASSED,
        message=text,
        missing=failed("", (f"{path}: {said}" for path, said in wrong)).missing,
        path=wrong[0][0] if wrong else "",
        value=None if first is None else round(first, 2),
        threshold=float(days),
        unit="days",
    )


def _what(one: Dated) -> str:
    name = f" of {one.validity.name}" if one.validity.name else ""
    return f"the {one.validity.kind}{name}"


def run(given: Round) -> Finding:
    if given.desired is None:
        return skipped("nothing has been applied yet")
    try:
        dated = _KNOWN.of(texts(given.desired))
    except NotDer as error:
        return unknown(f"a certificate cannot be read: {error}")
    if not dated:
        return skipped("the document has none")
    return judge(dated, given.machine.now(), given.thresholds.certificate_days)


CHECKS = (Check("certificates", Level.BASIC, run),)
