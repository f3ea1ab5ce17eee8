"""What is secret in the database, and has to be told to an agent again: sealed (AES-256-GCM).

The key is a file that all managers of a database have, and that is in no backup of the database.
What was sealed for one purpose cannot be put in another's place.
"""

import base64
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, insert, select

from appliance.errors import ApplianceError
from appliance.manager.database import Database
from appliance.manager.tables import meta

_NONCE = 12
_PROOF = "sealed with the key of this database"


class WrongKey(ApplianceError):
    """The key is none, or not the one that the database was sealed with."""


class Seal:
    """Seals and opens with one key."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def close(self, text: str, purpose: str) -> str:
        """The text, sealed for this purpose."""
        nonce = os.urandom(_NONCE)
        sealed = self._cipher.encrypt(nonce, text.encode(), purpose.encode())
        return base64.b64encode(nonce + sealed).decode()

    def open(self, sealed: str, purpose: str) -> str:
        """The text. Raises WrongKey."""
        data = base64.b64decode(sealed)
        try:
            return self._cipher.decrypt(data[:_NONCE], data[_NONCE:], purpose.encode()).decode()
        except InvalidTag as error:
            raise WrongKey(
                f"what was sealed for {purpose} does not open", "the managers' key file"
            ) from error


def read_key(path: Path) -> bytes:
    """The key in a file of 64 hex digits; a file that is not there is made. Raises WrongKey."""
    if not path.exists():
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
    try:
        key = bytes.fromhex(path.read_text().strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise WrongKey(f"{path} has no key", "64 hex digits: openssl rand -hex 32")
    return key


def prove(database: Database, seal: Seal) -> None:
    """Make sure that the database was sealed with this key. Raises WrongKey."""

    def look(connection: Connection) -> str:
        found = connection.execute(select(meta.c.value).where(meta.c.name == "seal")).scalar()
        if found is None:
            found = seal.close(_PROOF, "seal")
            connection.execute(insert(meta).values(name="seal", value=found))
        return str(found)

    if seal.open(database.write(look), "seal") != _PROOF:
        raise WrongKey("the key is not this database's")
