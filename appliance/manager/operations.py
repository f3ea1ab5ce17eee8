"""What the endpoint does about consoles, proxies and tokens: one method for each route."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from agent.document.console_session import ConsoleSession, lint
from agent.engine.model import Problem
from appliance.manager import access, assign, audit, bodies, problems, proxies, screens, sessions
from appliance.manager.access import Caller, Role
from appliance.manager.call import Call
from appliance.manager.consoles import Asked, Consoles, Ending, Opened
from appliance.manager.database import Database
from appliance.manager.problems import Refusal
from appliance.manager.registry import registration
from appliance.manager.routes import Done
from appliance.manager.seal import Seal
from appliance.manager.sessions import SessionRow

REVOKED = "the VM's screen was forgotten"


class Operations:
    """Answers to calls; raises Refusal, and what `app` turns into one."""

    def __init__(
        self,
        database: Database,
        consoles: Consoles,
        seal: Seal,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._consoles = consoles
        self._seal = seal
        self._now = now

    # -- consoles ------------------------------------------------------------------------------

    def open_console(self, call: Call) -> Opened:
        given, caller = call.body, call.caller
        user = given.user
        if caller.role is Role.CLOUD:
            if user is None:
                raise _invalid(Problem("/user", "is missing", "the cloud names its user"))
        elif user not in {None, caller.name}:
            raise Refusal(problems.FORBIDDEN, f"a token of {caller.name} opens nothing for {user}")
        inline = given.target is not None
        if inline and caller.role not in access.TELLING:
            raise Refusal(problems.FORBIDDEN, "only the cloud says where a screen is")
        screen = self._inline(given) if inline else self._screen(given.vm, caller, user)
        what = dict(screen.what)
        if given.policy is not None and not inline:
            what["policy"] = _stricter(what.get("policy", {}), bodies.plain(given.policy))
        return self._consoles.open(
            Asked(
                vm=given.vm,
                user=user or caller.name,
                title=given.title or screen.title,
                zone=given.zone or screen.zone,
                creator=caller.name,
                what=what,
                valid=given.valid,
            )
        )

    def _inline(self, given: bodies.OpenConsole) -> screens.Screen:
        if given.zone is None:
            raise _invalid(Problem("/zone", "is missing", "a target comes with its zone"))
        what = {
            "target": bodies.plain(given.target),
            "credentials": bodies.plain(given.credentials),
            "policy": {} if given.policy is None else bodies.plain(given.policy),
        }
        _check(given.vm, what)
        return screens.Screen(vm=given.vm, owner="", zone=given.zone, title=given.title, what=what)

    def _screen(self, vm: str, caller: Caller, user: str | None) -> screens.Screen:
        """A screen that is known. A user is not told which VMs others have."""
        with self._database.read() as connection:
            found = screens.get(connection, self._seal, vm)
        wanted = caller.name if caller.role is Role.USER else user
        if caller.role in {Role.USER, Role.CLOUD} and found.owner != wanted:
            raise screens.NoSuchScreen(vm)
        return found

    def get_consoles(self, call: Call) -> tuple[SessionRow, ...]:
        query = dict(call.query)
        if call.caller.role is Role.USER:
            query["user"] = call.caller.name
        with self._database.read() as connection:
            return sessions.listed(connection, **query)

    def get_console(self, call: Call) -> SessionRow:
        with self._database.read() as connection:
            found = sessions.get(connection, call.path["session"])
        if call.caller.role is Role.USER and found.user != call.caller.name:
            raise sessions.NoSuchSession(found.id)
        return found

    def end_console(self, call: Call) -> SessionRow:
        self.get_console(call)
        return self._consoles.disconnect(call.path["session"])

    # -- screens -------------------------------------------------------------------------------

    def get_screens(self, call: Call) -> tuple[screens.ScreenRow, ...]:
        with self._database.read() as connection:
            return screens.listed(connection, call.query["after"], call.query["limit"])

    def put_screen(self, call: Call) -> Done:
        given, vm = call.body, call.path["screen"]
        what = {
            "target": bodies.plain(given.target),
            "credentials": bodies.plain(given.credentials),
            "policy": bodies.plain(given.policy),
        }
        _check(vm, what)
        screen = screens.Screen(
            vm=vm, owner=given.owner, zone=given.zone, title=given.title, what=what
        )
        new = self._database.write(lambda c: screens.put(c, self._seal, screen, self._now()))
        return Done(result="created" if new else "changed")

    def forget_screen(self, call: Call) -> Done:
        vm = call.path["screen"]
        self._database.write(lambda c: screens.forget(c, vm))
        with self._database.read() as connection:
            over = sessions.listed(connection, vm=vm)
        for one in over:
            self._consoles.disconnect(one.id, REVOKED)
        return Done(result="ended")

    # -- proxies -------------------------------------------------------------------------------

    def get_proxies(self, _: Call) -> tuple[proxies.ProxyRow, ...]:
        with self._database.read() as connection:
            return proxies.rows(connection)

    def put_proxy(self, call: Call) -> proxies.ProxyRow:
        name = call.path["proxy"]
        given = registration(name, call.body)
        self._database.write(lambda c: proxies.register(c, given))
        with self._database.read() as connection:
            return proxies.row_of(connection, name)

    def forget_proxy(self, call: Call) -> Done:
        self._database.write(lambda c: proxies.forget(c, call.path["proxy"]))
        return Done(result="ended")

    def drain_proxy(self, call: Call) -> Ending:
        return self._consoles.drain(call.path["proxy"], call.body.within)

    def undrain_proxy(self, call: Call) -> Ending:
        return self._consoles.undrain(call.path["proxy"])

    def restart_proxy(self, call: Call) -> Ending:
        return self._consoles.restart(call.path["proxy"])

    def get_capacity(self, call: Call) -> tuple[assign.Capacity, ...]:
        with self._database.read() as connection:
            found = proxies.all_candidates(connection)
        zones = sorted({proxy.zone for proxy in found})
        return tuple(assign.capacity(found, zone, call.query["standby"]) for zone in zones)

    # -- access --------------------------------------------------------------------------------

    def get_tokens(self, _: Call) -> tuple[access.TokenRow, ...]:
        with self._database.read() as connection:
            return access.listed(connection)

    def make_token(self, call: Call) -> access.NewToken:
        given = call.body
        if call.caller.role is Role.CLOUD and given.role is not Role.USER:
            raise Refusal(problems.FORBIDDEN, "the cloud makes its users' tokens")
        return self._database.write(
            lambda c: access.make(c, given.name, given.role, self._now(), given.lifetime)
        )

    def revoke_token(self, call: Call) -> Done:
        identity = call.path["token"]
        if not self._database.write(lambda c: access.revoke(c, identity, self._now())):
            raise Refusal(problems.NOT_FOUND, f"token {identity} is not there, or revoked already")
        return Done(result="revoked")

    def get_audit(self, call: Call) -> tuple[audit.AuditRow, ...]:
        with self._database.read() as connection:
            return audit.listed(connection, call.query["before"], call.query["limit"])


def _invalid(*found: Problem) -> Refusal:
    return Refusal(problems.INVALID, bodies.count(len(found)), problems=found)


def _check(vm: str, what: Mapping[str, Any]) -> None:
    """See that a proxy would take it. Raises Refusal with every problem."""
    whole = {"secret_sha256": "0" * 64, "vm": vm, "user": "x", **what}
    found = tuple(lint(bodies.adapter(ConsoleSession).validate_python(whole)))
    if found:
        raise _invalid(*found)


def _stricter(base: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """A screen's policy with what somebody asks for: whoever opens may only ask for less."""
    merged = dict(base) | {"view_only": bool(base.get("view_only") or asked.get("view_only"))}
    before, wish = base.get("clipboard", "both"), asked.get("clipboard", "both")
    if before == "both":
        merged["clipboard"] = wish
    elif wish not in {"both", before}:
        merged["clipboard"] = "none"
    if "source" in asked and "source" not in base:
        merged["source"] = asked["source"]
    for name in ("idle", "lifetime"):
        wished, allowed = asked.get(name, 0), base.get(name, 0)
        if wished and (not allowed or wished < allowed):
            merged[name] = wished
    return merged
