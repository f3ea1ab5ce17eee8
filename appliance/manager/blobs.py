"""What documents name by its SHA-256 (guests' user data): kept sealed, and given to VMs again."""

import base64
import hashlib
import re
from collections.abc import Iterator

from sqlalchemy import Connection, insert, select

from appliance.manager.seal import Seal
from appliance.manager.tables import blobs

_NAMED = re.compile(rb'"([0-9a-f]{64})"')


class OtherContent(ValueError):
    """The content is not what its name says."""


def keep(connection: Connection, seal: Seal, name: str, content: bytes, now: float) -> bool:
    """Keep it; is it new? Raises OtherContent."""
    if hashlib.sha256(content).hexdigest() != name:
        raise OtherContent(name)
    if connection.execute(select(blobs.c.sha256).where(blobs.c.sha256 == name)).first():
        return False
    sealed = seal.close(base64.b64encode(content).decode(), f"blob {name}")
    connection.execute(insert(blobs).values(sha256=name, sealed=sealed, kept=now))
    return True


def named(connection: Connection, seal: Seal, document: bytes) -> Iterator[tuple[str, bytes]]:
    """Those that are kept of what a document names."""
    names = sorted({found.decode() for found in _NAMED.findall(document)})
    for start in range(0, len(names), 500):
        part = names[start : start + 500]
        query = select(blobs).where(blobs.c.sha256.in_(part)).order_by(blobs.c.sha256)
        for row in connection.execute(query):
            yield row.sha256, base64.b64decode(seal.open(row.sealed, f"blob {row.sha256}"))
