"""What each path of the endpoint does: one method for each operation of the table of routes.

Values in, values out: Flask is not known here, and neither is a socket.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping

from agent import __version__
from agent.api import (
    answers,
    consoles,
    events,
    metrics,
    openapi,
    problems,
    routes,
    show,
    status,
)
from agent.api import health as health_of
from agent.api.answers import Blob, Changed, Drift, LegacyRules, Log, Planned, timestamp
from agent.api.calls import (
    Call,
    Response,
    blob_name,
    check_query,
    confirm_within,
    no_such_session,
    no_such_unit,
    number,
    owned_unit,
    owned_units,
    rollback_target,
    unit_of,
)
from agent.api.diagnostics import Diagnostics
from agent.api.ports import Engine, Health, Machine, Watch
from agent.api.problems import Refusal
from agent.api.services import Services
from agent.api.show import ServiceRow
from agent.api.streams import Streams
from agent.document.document import schema
from agent.document.secrets import canonical_redacted, redacted
from agent.document.site import NicRole
from agent.engine.errors import NothingApplied
from agent.engine.model import Outcome
from agent.engine.plan import describe
from agent.engine.store import Revision
from agent.monitor.events import Kept
from agent.services import control

ETAG = re.compile(r'\s*((?:W/)?)"([^"]*)"\s*(?:,|$)')
SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# Units of the agent itself: their logs can be read, but nobody restarts them from here.
OWN_UNIT = re.compile(r"sysvm-[a-z]+\.(?:service|timer)")
# Whose journal is in a bundle, besides the services'.
OWN_UNITS = ("sysvm-restore", "sysvm-firewall", "sysvm-agent", "sysvm-boot", "dbus", "chrony")
WORST_LOG = 10_000  # lines


class Operations:
    """The endpoint on one engine and one machine; `now` is seconds since the epoch."""

    def __init__(
        self,
        engine: Engine,
        machine: Machine,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        streams: Streams,
        kept: Kept,
        health: Health,
        watch: Watch,
    ) -> None:
        self._engine = engine
        self._machine = machine
        self._now = now
        self._monotonic = monotonic
        self._streams = streams
        self._kept = kept
        self._diagnostics = Diagnostics(machine, streams)
        self._health = health
        self._watched = Services(machine, watch, now)
        self._changes = metrics.Changes()
        self._last: status.LastChange | None = None

    def answer(self, call: Call) -> Response:
        """Do what the route's operation says. Raises Refusal and the errors that it foresees."""
        check_query(call)
        operation: Callable[[Call], Response] = getattr(self, call.route.operation)
        return operation(call)

    def note(self, call: Call, path: str, result: str, detail: str) -> None:
        """Remember how a change ended, for the status."""
        self._last = status.LastChange(
            at=timestamp(self._now()) or "",
            request=f"{call.route.method} {path}",
            client=call.client,
            result=result,
            detail=detail,
        )

    # -- the document -----------------------------------------------------------------------

    def get_document(self, call: Call) -> Response:
        current = self._engine.current()
        etag = f'"{current.info.digest}"'
        wanted = call.headers.get("If-None-Match", "")
        if wanted.strip() == "*" or current.info.digest in (d for _, d in ETAG.findall(wanted)):
            return Response(b"", 304, {"ETag": etag})
        headers = {"ETag": etag, "Content-Type": "application/json"}
        return Response(canonical_redacted(current.document), headers=headers)

    def put_document(self, call: Call) -> Response:
        if_match, wait = self._if_match(call), confirm_within(call)
        if call.dry_run:
            return self._planned(call, if_match, patch=False)
        return self._change(
            lambda: self._engine.push(call.body, if_match=if_match, confirm_within=wait)
        )

    def patch_document(self, call: Call) -> Response:
        kind = call.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind == "application/json-patch+json":
            raise Refusal(problems.UNSUPPORTED_MEDIA, "a JSON Patch (RFC 6902) is not known here")
        if_match, wait = self._if_match(call), confirm_within(call)
        if if_match is None:
            raise Refusal(problems.PRECONDITION_REQUIRED, "the patch has no If-Match")
        if call.dry_run:
            return self._planned(call, if_match, patch=True)
        return self._change(
            lambda: self._engine.patch(call.body, if_match=if_match, confirm_within=wait)
        )

    def _planned(self, call: Call, if_match: str | None, *, patch: bool) -> Response:
        plan = self._engine.plan(call.body, patch=patch, if_match=if_match)
        return Response(Planned(describe(plan)))

    def _change(self, act: Callable[[], Outcome]) -> Response:
        current = self._current()
        first = current is None or current.info.cause == "boot"
        began = time.monotonic()
        kind = "refused"
        try:
            outcome = act()
            kind = type(outcome).__name__.lower()
        finally:
            duration = time.monotonic() - began
            self._changes.add(kind, duration)
        answer = answers.changed(
            outcome,
            self._engine,
            duration=duration,
            now=self._now(),
            monotonic=self._monotonic(),
        )
        headers = {
            "ETag": f'"{answer.digest}"',
            "Content-Location": f"/v1/revisions/{answer.revision}",
        }
        return Response(answer, _status(answer, first=first), headers)

    def _if_match(self, call: Call) -> str | None:
        """The digest that has to run: of several, the one that does, if any."""
        header = call.headers.get("If-Match")
        if header is None:
            return None
        if header.strip() == "*":
            return "*"
        tags = [f"{weak}{digest}" for weak, digest in ETAG.findall(header)]
        if not tags or ETAG.sub("", header).strip():
            raise Refusal(problems.BAD_REQUEST, "If-Match is not an ETag: a digest in quotes")
        current = self._current()
        running = current.info.digest if current else ""
        return running if running in tags else tags[0]

    def _current(self) -> Revision | None:
        try:
            return self._engine.current()
        except NothingApplied:
            return None

    # -- blobs ------------------------------------------------------------------------------

    def put_blob(self, call: Call) -> Response:
        name = blob_name(call)
        digest = hashlib.sha256(call.body).hexdigest()
        if digest != name:
            raise Refusal(problems.DIGEST_MISMATCH, f"the SHA-256 of the body is {digest}")
        new = self._machine.put_blob(name, call.body)
        return Response(Blob(name, len(call.body)), 201 if new else 200)

    def get_blob(self, call: Call) -> Response:
        content = self._machine.blob(blob_name(call))
        if content is None:
            raise Refusal(problems.NO_SUCH_BLOB, f"no blob {call.path['sha256']}")
        headers = {"Content-Type": "application/octet-stream", "X-Content-Type-Options": "nosniff"}
        return Response(content, headers=headers)

    # -- consoles ---------------------------------------------------------------------------

    def get_consoles(self, _: Call) -> Response:
        return Response(consoles.state(self._machine.console({"op": "state"})))

    def get_console_reports(self, _: Call) -> Response:
        return Response(consoles.reports(self._machine, self._streams))

    def get_console(self, call: Call) -> Response:
        answer = self._machine.console({"op": "get", "id": call.path["session"]})
        if "error" in answer:
            raise no_such_session(call)
        return Response(consoles.row(answer["session"]))

    def put_console(self, call: Call) -> Response:
        name = call.path["session"]
        if not SESSION.fullmatch(name):
            raise Refusal(problems.BAD_REQUEST, "a session's name is 63 of A-Z a-z 0-9 . _ -")
        from agent.api import console_push  # with types that other roles never need

        pushed = console_push.session(name, call.body)
        answer = self._machine.console({"op": "put", "session": pushed})
        if "error" in answer:
            raise Refusal(problems.SESSION_REFUSED, answer["detail"])
        result = answer["result"]
        return Response(consoles.Accepted(name, result), 201 if result == "created" else 200)

    def delete_console(self, call: Call) -> Response:
        answer = self._machine.console({"op": "delete", "id": call.path["session"]})
        if "error" in answer:
            raise no_such_session(call)
        return Response(consoles.Accepted(call.path["session"], answer["result"]))

    def drain_consoles(self, call: Call) -> Response:
        within = consoles.drain_time(call.body)
        return Response(consoles.state(self._machine.console({"op": "drain", "within": within})))

    def undrain_consoles(self, _: Call) -> Response:
        return Response(consoles.state(self._machine.console({"op": "undrain"})))

    # -- revisions --------------------------------------------------------------------------

    def get_revisions(self, _: Call) -> Response:
        state, now = self._engine.state(), self._now()
        rows = tuple(answers.revision_row(i, state, now) for i in self._engine.revisions())
        left = answers.seconds_left(state, self._monotonic())
        return Response(
            answers.Revisions(
                current=state.current,
                confirmed=state.confirmed,
                deadline=answers.deadline(left, now),
                seconds_left=left,
                revisions=rows,
            )
        )

    def get_revision(self, call: Call) -> Response:
        revision = self._engine.revision(number(call))
        row = answers.revision_row(revision.info, self._engine.state(), self._now())
        return Response(answers.RevisionWithDocument(row, redacted(revision.document.value)))

    def confirm(self, call: Call) -> Response:
        return self._change(lambda: self._engine.confirm(number(call)))

    def roll_back(self, call: Call) -> Response:
        revision = rollback_target(call.body)
        return self._change(lambda: self._engine.roll_back(revision))

    # -- the machine ------------------------------------------------------------------------

    def get_status(self, _: Call) -> Response:
        current, state = self._current(), self._engine.state()
        return Response(
            status.status(
                facts=self._machine.facts(),
                state=state,
                left=answers.seconds_left(state, self._monotonic()),
                current=current,
                drift=status.has_drifted(self._engine) if current else None,
                services=self._services(),
                interfaces=self._interfaces(current),
                health=self._health.report(),
                last=self._last,
                now=self._now(),
            )
        )

    def get_health(self, _: Call) -> Response:
        return Response(self._health.report())

    def run_health(self, call: Call) -> Response:
        level = health_of.level_of(call.query.get("level"))
        return Response(self._health.run(level, call.query.get("name")))

    def get_metrics(self, _: Call) -> Response:
        known = metrics.Known(
            version=__version__,
            facts=self._machine.facts(),
            state=self._engine.state(),
            current=self._current(),
            report=self._health.report(),
            services=self._services(),
            balancer=self._machine.balancer(),
            gauges=self._health.gauges(),
            changes=self._changes,
        )
        return Response(metrics.text(known), headers={"Content-Type": metrics.MEDIA_TYPE})

    def get_drift(self, _: Call) -> Response:
        plan = describe(self._engine.drift())
        legacy = tuple(
            f"- legacy ipv{rule.family} {rule.table}: {rule.rule}"
            for rule in self._machine.legacy_rules()
        )
        return Response(Drift(bool(plan or legacy), plan + legacy))

    def get_legacy_rules(self, _: Call) -> Response:
        return Response(LegacyRules(self._machine.legacy_rules()))

    def delete_legacy_rules(self, _: Call) -> Response:
        return Response(LegacyRules(self._machine.remove_legacy_rules()))

    # -- events -----------------------------------------------------------------------------

    def get_events(self, call: Call) -> Response:
        return Response(events.page(self._kept, self._streams, call.query))

    def get_event_stream(self, call: Call) -> Response:
        last = call.headers.get("Last-Event-ID")
        return Response(events.stream(self._kept, self._streams, call.query, last))

    def acknowledge_events(self, call: Call) -> Response:
        return Response(events.acknowledge(self._kept, call.body))

    # -- services ---------------------------------------------------------------------------

    def get_services(self, _: Call) -> Response:
        return Response(self._services())

    def restart_service(self, call: Call) -> Response:
        return Response(self._watched.restart(self._wanted_unit(call)))

    def hold_service(self, call: Call) -> Response:
        return Response(self._watched.hold(self._wanted_unit(call), call.body, call.client))

    def release_service(self, call: Call) -> Response:
        return Response(self._watched.release(owned_unit(call), call.body, call.client))

    def _wanted_unit(self, call: Call) -> str:
        unit = owned_unit(call)
        if unit not in self._wanted_units():
            raise Refusal(problems.NOT_WANTED, f"{unit} is not wanted")
        return unit

    def get_log(self, call: Call) -> Response:
        unit = unit_of(call)
        if unit not in owned_units() and not OWN_UNIT.fullmatch(unit):
            raise no_such_unit(unit)
        lines = call.query.get("lines", "100")
        if not re.fullmatch("[0-9]{1,5}", lines) or not 1 <= int(lines) <= WORST_LOG:
            raise Refusal(problems.BAD_REQUEST, f"lines is a number from 1 to {WORST_LOG}")
        return Response(Log(unit, self._machine.log(unit, int(lines))))

    def _services(self) -> tuple[ServiceRow, ...]:
        return self._watched.rows(self._wanted_units(), owned_units())

    def _wanted_units(self) -> frozenset[str]:
        try:
            return frozenset(self._engine.desired().units)
        except NothingApplied:
            return frozenset()

    # -- show -------------------------------------------------------------------------------

    def show_interfaces(self, _: Call) -> Response:
        return Response(self._interfaces(self._current()))

    def _interfaces(self, current: Revision | None) -> tuple[show.InterfaceRow, ...]:
        if current is None:
            return ()
        return show.interfaces(
            current.document.site, self._engine.desired(), self._engine.observed()
        )

    def show_routes(self, _: Call) -> Response:
        return Response(show.routes(self._engine.desired(), self._engine.observed()))

    def show_rules(self, _: Call) -> Response:
        return Response(show.rules(self._engine.desired(), self._engine.counters()))

    def show_nat(self, _: Call) -> Response:
        return Response(show.nat(self._engine.desired(), self._engine.counters()))

    def show_load_balancer(self, _: Call) -> Response:
        return Response(show.load_balancer(self._machine.balancer()))

    def show_dhcp(self, _: Call) -> Response:
        promised = self._engine.desired().leases
        document = self._engine.current().document
        return Response(show.dhcp(promised, self._machine.leases(), document))

    def show_dns(self, _: Call) -> Response:
        return Response(show.dns(self._engine.current().document))

    def get_vpn(self, _: Call) -> Response:
        return Response(show.vpn(self._engine.current().document, self._machine.vpn()))

    # -- diagnostics ------------------------------------------------------------------------

    def run_diagnostic(self, call: Call) -> Response:
        live = call.query.get("live", "0") in {"1", "true"}
        tool = call.path["tool"]
        return Response(self._diagnostics.run(tool, call.body, call.client, live=live))

    def capture(self, call: Call) -> Response:
        return Response(self._diagnostics.capture(call.body, call.client, self._control()))

    def _control(self) -> Mapping[str, int]:
        """The control NICs, with the endpoint's port; any NIC may be one before there is a site."""
        current = self._current()
        if current is None:
            return dict.fromkeys(self._machine.nics(), control.PORT)
        section = current.document.sections.get(control.SECTION)
        port = section.port if isinstance(section, control.Section) and section.port else None
        rows = self._interfaces(current)
        return {row.name: port or control.PORT for row in rows if row.role == NicRole.CONTROL}

    def get_bundle(self, call: Call) -> Response:
        from agent.api import bundle  # not every day, and not small

        made = bundle.Bundle(
            self._engine,
            self._machine,
            self._ask,
            paths=routes.IN_BUNDLE,
            units=(*owned_units(), *OWN_UNITS),
            now=self._now(),
        )
        stream = bundle.stream(made, self._streams, call.client)
        disposition = f'attachment; filename="{made.name}.tar.gz"'
        return Response(stream, headers={"Content-Disposition": disposition})

    def _ask(self, path: str) -> tuple[int, object]:
        """What this endpoint itself answers at a path that has no parameters."""
        route = next(r for r in routes.ROUTES if r.method == "GET" and r.path == path)
        call = Call(route=route, path={}, query={}, headers={}, body=b"")
        try:
            response = self.answer(call)
        except Exception as error:
            answer = problems.answer_to(error)
            if answer is None:
                raise
            return answer.kind.status, problems.body(answer)
        return response.status, response.content

    # -- descriptions -----------------------------------------------------------------------

    def get_schema(self, _: Call) -> Response:
        return Response(schema())

    def get_openapi(self, _: Call) -> Response:
        return Response(openapi.description())

    def get_problems(self, _: Call) -> Response:
        return Response(tuple(problems.KINDS.values()))

    def get_problem(self, call: Call) -> Response:
        kind = problems.KINDS.get(call.path["name"])
        if kind is None:
            raise Refusal(problems.UNKNOWN_PATH, "no problem has this name")
        return Response(kind)


def _status(answer: Changed, *, first: bool) -> int:
    if answer.confirm is not None:
        return 202
    return 201 if first and answer.result == "committed" else 200
