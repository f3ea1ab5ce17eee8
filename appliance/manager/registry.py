"""Console proxies that register themselves, by the certificate that they show.

One that is known by its name (the cloud registered it, or the VM, or it was here before) may say
where it is now; others are accepted where the manager's operator has said so for their zone. A
certificate speaks for its own name alone, whatever is accepted.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from agent.engine.model import Problem
from agent.roles import Role
from appliance.manager import bodies, happenings, problems, proxies
from appliance.manager.audit import Audit, Entry
from appliance.manager.database import Database
from appliance.manager.happenings import Names
from appliance.manager.notices import Notice, note, note_sometimes
from appliance.manager.problems import Refusal
from appliance.manager.proxies import Registration
from appliance.manager.tables import proxies as known_proxies
from appliance.manager.tables import vms

ANY = "*"  # every zone
REQUEST = "PUT /v1/proxies/{proxy}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a name: its zones and its role, and who else is where it says that it is."""

    zones: frozenset[str]  # that it is registered in, as a proxy and as a VM
    role: str  # of the VM of that name; empty where there is none
    others: frozenset[str]  # of its agent's address


def judge(
    given: Registration, *, speaks: bool | None, known: Known, accepted: Collection[str]
) -> str:
    """Why a proxy may not register so; empty where it may.

    `speaks` is whether its certificate does for that name, None where nobody is known by it and
    the certificate is for that name.
    """
    if speaks is False:
        return f"this certificate does not speak for {given.name}"
    if known.role not in {"", Role.CONSOLE_PROXY}:
        return f"{given.name} is a VM of the role {known.role}"
    if given.zone not in known.zones and not {given.zone, ANY} & set(accepted):
        return (
            f"{given.name} is not known in {given.zone}: --accept-proxies {given.zone} lets it in"
        )
    if known.others:
        return f"{given.agent} is the agent of {', '.join(sorted(known.others))}"
    return ""


class Registry:
    """Takes proxies in."""

    def __init__(
        self,
        database: Database,
        audit: Audit,
        accepted: Collection[str] = (),
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._audit = audit
        self.accepted = frozenset(accepted)
        self._now = now

    def take(self, names: Names, name: str, data: bytes, source: str) -> dict[str, Any]:
        """The answer to a proxy that says where it is. Raises Refusal."""
        result, status = "", 500
        try:
            given = registration(name, bodies.read(bodies.PutProxy, data))
            reason, result = self._database.write(lambda c: self._register(c, names, given))
            if reason:
                raise Refusal(problems.FORBIDDEN, reason)
            status = 200
        except Refusal as error:
            status = error.answer.kind.status
            raise
        finally:
            # What is said again and again is no news, and who is refused is nobody.
            if result != "unchanged":
                who = "" if status != 200 else f"proxy:{name}"
                entry = Entry(
                    at=self._now(), who=who, source=source, request=REQUEST, status=status,
                    subject=name,
                )  # fmt: skip
                self._audit.note(entry, now=True)
        return {"result": result}

    def _register(
        self, connection: Connection, names: Names, given: Registration
    ) -> tuple[str, str]:
        """Why not, and what was done."""
        now = self._now()
        speaks = happenings.speaks_for(connection, names, given.name)
        if speaks is None and given.name not in names.names:
            speaks = False
        known = _known(connection, given)
        reason = judge(given, speaks=speaks, known=known, accepted=self.accepted)
        if reason:
            shown = ", ".join(sorted(names.names | names.addresses))[:200]
            note_sometimes(
                connection, Notice.PROXY_REFUSED, given.name, reason, {"certificate": shown}, now
            )
            return reason, ""
        if proxies.registered(connection, given.name) == given:
            return "", "unchanged"
        new = proxies.register(connection, given)
        what = "has registered itself" if new else "has registered itself anew"
        message = f"{given.name} {what} in {given.zone}, at {given.agent}"
        note(connection, Notice.PROXY_REGISTERED, given.name, message, {"zone": given.zone}, now)
        return "", "created" if new else "changed"


def registration(name: str, given: bodies.PutProxy) -> Registration:
    """A proxy as somebody wants it registered. Raises Refusal."""
    if given.soft > given.hard:
        problem = Problem("/soft", f"is above hard, {given.hard}")
        raise Refusal(problems.INVALID, bodies.count(1), problems=(problem,))
    return Registration(
        name=name,
        zone=given.zone,
        agent=given.agent,
        server_name=given.server_name or "",
        link=given.link,
        soft=given.soft,
        hard=given.hard,
        position=given.position,
    )


def _known(connection: Connection, given: Registration) -> Known:
    proxy = proxies.registered(connection, given.name)
    vm = connection.execute(select(vms.c.role, vms.c.zone).where(vms.c.name == given.name)).first()
    others: set[str] = set()
    for table in (known_proxies, vms):
        query = select(table.c.name)
        query = query.where(table.c.agent == given.agent, table.c.name != given.name)
        others |= set(connection.execute(query).scalars())
    zones = {one.zone for one in (proxy, vm) if one is not None}
    return Known(
        zones=frozenset(zones), role="" if vm is None else vm.role, others=frozenset(others)
    )
