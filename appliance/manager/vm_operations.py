"""What the endpoint does about VMs: one method for each route."""

import threading
import time
from collections.abc import Callable

from appliance.manager import bodies, fleet, happenings, problems
from appliance.manager.call import Call
from appliance.manager.database import Database
from appliance.manager.documents import Documents, Pushed
from appliance.manager.fleet import Registered, VmRow
from appliance.manager.happenings import EventRow
from appliance.manager.problems import Refusal
from appliance.manager.routes import Done

WAITING = 12  # requests that wait for events at once: the others' threads are never theirs
_LOOK = 0.5  # seconds between two looks


class VmOperations:
    """Answers to calls; raises Refusal, and what `app` turns into one."""

    def __init__(
        self, database: Database, documents: Documents, now: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._documents = documents
        self._now = now
        self._waiting = threading.BoundedSemaphore(WAITING)

    def get_vms(self, call: Call) -> tuple[VmRow, ...]:
        with self._database.read() as connection:
            return fleet.listed(connection, self._documents.least, **call.query)

    def get_vm(self, call: Call) -> VmRow:
        with self._database.read() as connection:
            return fleet.get(connection, call.path["vm"], self._documents.least)

    def put_vm(self, call: Call) -> VmRow:
        given, name = call.body, call.path["vm"]
        registered = Registered(
            name=name,
            role=given.role.value,
            zone=given.zone,
            pod=given.pod,
            cluster=given.cluster,
            account=given.account,
            domain=given.domain,
            agent=given.agent,
            server_name=given.server_name or "",
            template=given.template,
        )
        self._database.write(lambda c: fleet.register(c, registered))
        return self.get_vm(call)

    def forget_vm(self, call: Call) -> Done:
        self._database.write(lambda c: fleet.forget(c, call.path["vm"]))
        return Done(result="ended")

    def look_at_vm(self, call: Call) -> VmRow:
        self._documents.look(call.path["vm"])
        return self.get_vm(call)

    def push_document(self, call: Call) -> Pushed:
        name, query = call.path["vm"], call.query
        return self._documents.put(name, call.data, force=query["force"], dry_run=query["dry_run"])

    def put_blob(self, call: Call) -> Done:
        new = self._documents.keep_blob(call.path["blob"], call.data)
        return Done(result="created" if new else "unchanged")

    def recreate_vm(self, call: Call) -> Pushed:
        return self._documents.again(call.path["vm"], call.query["within"])

    def put_certificates(self, call: Call) -> tuple[Pushed, ...]:
        return self._documents.certificates(bodies.plain(call.body))

    def get_events(self, call: Call) -> tuple[EventRow, ...]:
        query = dict(call.query)
        deadline = time.monotonic() + query.pop("wait")
        found = self._events(query)
        if found or time.monotonic() >= deadline or query["after"] is None:
            return found
        if not self._waiting.acquire(blocking=False):
            raise Refusal(problems.BUSY, f"{WAITING} requests wait already", retry_after=5)
        try:
            while not found and time.monotonic() < deadline:
                time.sleep(_LOOK)
                found = self._events(query)
        finally:
            self._waiting.release()
        return found

    def _events(self, query: dict[str, object]) -> tuple[EventRow, ...]:
        with self._database.read() as connection:
            return happenings.listed(connection, **query)  # type: ignore[arg-type]  # as the route has them
