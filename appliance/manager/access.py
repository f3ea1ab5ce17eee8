"""Who may do what: tokens, of which the database has the SHA-256, and the roles that they have."""

import enum
import hashlib
import secrets
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from appliance.manager.tables import tokens

PREFIX = "sysvm_"  # so that a token that leaked is found by whoever looks for such


class Role(enum.StrEnum):
    """What a token may be used for."""

    SEE = "see"  # an operator who looks
    USE = "use"  # and opens consoles
    OPERATE = "operate"  # and changes things
    CLOUD = "cloud"  # the cloud's own API: consoles for users whom it names, and what it knows
    USER = "user"  # a user of the cloud: consoles of his own VMs; the token's name is the user


EVERYBODY = frozenset(Role)
OPERATORS = frozenset({Role.SEE, Role.USE, Role.OPERATE})
LOOKING = OPERATORS | {Role.CLOUD}
OPENING = frozenset({Role.USE, Role.OPERATE, Role.CLOUD, Role.USER})
TELLING = frozenset({Role.OPERATE, Role.CLOUD})
OPERATING = frozenset({Role.OPERATE})


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. For a user, `name` is the user."""

    token: str  # its id
    name: str
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """A token as it is told: never what it is."""

    id: str
    name: str
    role: Role
    created: float
    expires: float | None
    revoked: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A token that has just been made. It is told this once."""

    id: str
    name: str
    role: Role
    expires: float | None
    token: str


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def make(
    connection: Connection, name: str, role: Role, now: float, lifetime: float | None = None
) -> NewToken:
    """A new token of this name; `lifetime` in seconds."""
    token = PREFIX + secrets.token_urlsafe(32)
    made = NewToken(
        id=secrets.token_hex(8),
        name=name,
        role=role,
        expires=None if lifetime is None else now + lifetime,
        token=token,
    )
    connection.execute(
        insert(tokens).values(
            id=made.id,
            sha256=_digest(token),
            name=name,
            role=role.value,
            created=now,
            expires=made.expires,
        )
    )
    return made


def who(connection: Connection, token: str, now: float) -> Caller | None:
    """Whose token this is; None where it is nobody's (any more)."""
    found = connection.execute(
        select(tokens).where(tokens.c.sha256 == _digest(token))
    ).one_or_none()
    if found is None or found.revoked is not None:
        return None
    if found.expires is not None and found.expires <= now:
        return None
    return Caller(found.id, found.name, Role(found.role))


def revoke(connection: Connection, identity: str, now: float) -> bool:
    """Let a token open nothing any more; did it until now?"""
    return bool(
        connection.execute(
            update(tokens)
            .where(tokens.c.id == identity, tokens.c.revoked.is_(None))
            .values(revoked=now)
        ).rowcount
    )


def listed(connection: Connection) -> tuple[TokenRow, ...]:
    """All tokens, the oldest first."""
    columns = (tokens.c[name] for name in TokenRow.__slots__)
    found = connection.execute(select(*columns).order_by(tokens.c.created, tokens.c.id))
    return tuple(TokenRow(**{**row, "role": Role(row["role"])}) for row in found.mappings())
