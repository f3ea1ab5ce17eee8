"""The manager's database and its heartbeats, with 10,000 VMs and 100 proxies.

An assignment here is what the manager does for one at its database: count the user's sessions and
reserve a place in one transaction, note in another that the proxy has taken it. HTTP, the token,
the audit's row and the call to the proxy in between are not in it.
"""

import contextlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sqlalchemy import insert

from agent.document.heartbeat import Beat, Health, encode
from appliance.lab.wait import wait_until
from appliance.manager import fleet, happenings, proxies, sessions
from appliance.manager.assign import Reason
from appliance.manager.beats import Beats
from appliance.manager.consoles import EACH
from appliance.manager.database import Database
from appliance.manager.fleet import Registered
from appliance.manager.happenings import Batch, PushedEvent
from appliance.manager.reports import Report, take_report
from appliance.manager.seal import Seal
from appliance.manager.tables import vms
from tests.bench.router import Json
from tests.unit.manager import postgres

VMS, PROXIES = 10_000, 100
INTERVAL = 5  # seconds between two heartbeats of a VM
LIVE = 3_000  # sessions that are there while others come and go
KEY = bytes(32)
SEAL = Seal(b"k" * 32)


@contextlib.contextmanager
def databases() -> Iterator[dict[str, Database]]:
    """One of each kind, durable as a manager has them."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sysvm-bench-"))
        found = {"SQLite": Database(f"sqlite:///{folder}/manager.db")}
        if postgres.programs() is not None:
            server = stack.enter_context(postgres.server(durable=True))
            found["PostgreSQL"] = Database(server.create())
        for one in found.values():
            one.migrate()
            stack.callback(one.close)
            _fill(one)
        yield found


def _fill(database: Database) -> None:
    registered = Registered(
        name="", role="router", zone="z1", pod="", cluster="", account="", domain="",
        agent="https://169.254.0.1:8443", server_name="", template="",
    )  # fmt: skip
    plain = {name: getattr(registered, name) for name in Registered.__slots__}
    empty = dict.fromkeys(("agent_version", "document", "digest", "result", "health"), "")
    rows = [
        plain | empty | {"name": name, "boots": "{}"}
        | {"heartbeat_key": SEAL.close(KEY.hex(), f"heartbeat {name}")}
        for name in map("r-{}-vm".format, range(VMS))
    ]  # fmt: skip
    database.write(lambda c: c.execute(insert(vms), rows))
    report = Report(draining=False, cap=50, sessions=(), ended={})
    for number in range(PROXIES):
        name = f"v-{number}-vm"
        given = proxies.Registration(
            name=name, zone="z1", agent="https://169.254.0.2:8443", server_name="",
            link=f"https://{name}.example/", soft=45, hard=50, position=number,
        )  # fmt: skip
        database.write(lambda c, given=given: proxies.register(c, given))  # type: ignore[misc]  # the default binds
        database.returning(
            lambda c, name=name: take_report(c, name, report, time.time(), alone=True)  # type: ignore[misc]  # as above
        )


# -- assignments -------------------------------------------------------------------------------


def _assign(database: Database, identity: str, vm: str) -> bool:
    wanted = sessions.Wanted(
        id=identity, vm=vm, user=f"of {vm}", title="", zone="z1", creator="bench",
        secret_sha256="0" * 64, sealed="x" * 400,
    )  # fmt: skip
    place = database.placing(
        vm,
        lambda c: sessions.reserve(c, wanted, time.time(), each=EACH),
        user=wanted.user,
    )
    if isinstance(place, Reason):
        return False
    return database.write(lambda c: sessions.offered(c, identity), durable=False)


def assignments(database: Database, count: int, threads: int) -> list[float]:
    """Seconds that each took, while so many threads assign."""
    took: list[float] = []

    def work(share: int) -> None:
        for number in range(share, count, threads):
            identity = f"{threads}-{number}"
            begun = time.perf_counter()
            assert _assign(database, identity, f"i-{number * 7 % VMS}-VM")
            took.append(time.perf_counter() - begun)
            database.write(lambda c, one=identity: proxies.end(c, one, "over", time.time()))  # type: ignore[misc]  # the default binds

    _together(work, threads)
    return took


def _together(work: Callable[[int], None], threads: int) -> None:
    running = [threading.Thread(target=work, args=(share,)) for share in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


# -- heartbeats --------------------------------------------------------------------------------


def send(port: int, seconds: int) -> None:
    """Be all VMs, for so many seconds (a process of its own)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        rounds = [
            [
                encode(
                    Beat(
                        vm=f"r-{number}-vm", boot="b", seq=turn, role="router", generation=3,
                        revision=4, health=Health.OK, monotonic=1.0,
                    ),
                    KEY,
                )
                for number in range(VMS)
            ]
            for turn in range(1, seconds // INTERVAL + 1)
        ]  # fmt: skip
        begun = time.monotonic()
        for turn, datagrams in enumerate(rounds):
            for number, datagram in enumerate(datagrams):
                due = begun + INTERVAL * (turn + number / VMS)
                if (early := due - time.monotonic()) > 0.002:
                    time.sleep(early)
                sock.send(datagram)


def heartbeats(database: Database, seconds: int) -> Json:
    """A manager that begins, and hears all VMs for so long."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    stop = threading.Event()
    argv = ("-c", "import sys; from tests.bench.manager import send; send(*map(int, sys.argv[1:]))")
    sender = subprocess.Popen(
        [sys.executable, *argv, str(sock.getsockname()[1]), str(seconds)],
        cwd=Path(__file__).parents[2],
    )
    begun, cpu = time.monotonic(), time.process_time()
    beats = Beats(database, SEAL)
    beats.look()
    looked = time.monotonic() - begun
    threads = [
        threading.Thread(target=beats.hear, args=(sock, stop)),
        threading.Thread(target=beats.run, args=(stop,)),
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: beats.taken > 0, 60, "the first heartbeat")
    first = time.monotonic()
    wait_until(lambda: beats.taken >= VMS, 60, "every VM is heard", every=0.1)
    converged = time.monotonic() - first + looked
    sender.wait(seconds + 60)
    # What is in the socket still is read within half a second.
    sent = VMS * (seconds // INTERVAL)
    with contextlib.suppress(AssertionError):
        wait_until(lambda: beats.taken >= sent, 3, "all have arrived", every=0.1)
    cpu, span = time.process_time() - cpu, time.monotonic() - begun
    stop.set()
    for thread in threads:
        thread.join()
    sock.close()
    return {
        "sent": sent, "taken": beats.taken, "refused": beats.refused, "cpu": cpu / span,
        "converged": converged,
    }  # fmt: skip


def events(database: Database, batches: int) -> float:
    """Events a second, in batches of a hundred."""
    begun = time.perf_counter()
    for number in range(batches):
        kept = tuple(
            PushedEvent(
                seq=number * 100 + seq, boot="b", time="2026-11-26T19:19:39.301Z", monotonic=1.0,
                kind="service.died", severity="warning", subject="dnsmasq", message="it ended",
            )
            for seq in range(100)
        )  # fmt: skip
        batch = Batch(vm="r-1-vm", boot="b", stream="s", events=kept)
        database.write(lambda c, batch=batch: happenings.take(c, batch, time.time()))  # type: ignore[misc]  # the default binds
    return batches * 100 / (time.perf_counter() - begun)


def measure(*, count: int, seconds: int, say: Callable[[str], None]) -> Json:
    """Everything, on each database."""
    found: Json = {}
    with databases() as opened:
        for name, database in opened.items():
            say(f"the manager on {name}: {LIVE} sessions")
            for number in range(LIVE):
                assert _assign(database, f"live-{number}", f"i-{number}-VM")
            say(f"the manager on {name}: assignments")
            alone = assignments(database, count, 1)
            begun = time.perf_counter()
            four = assignments(database, count, 4)
            rate = count / (time.perf_counter() - begun)
            say(f"the manager on {name}: heartbeats of {VMS} VMs, events")
            found[name] = {
                "alone": alone,
                "four": four,
                "rate": rate,
                "heartbeats": heartbeats(database, seconds),
                "events": events(database, max(20, count // 20)),
            }
            with database.read() as connection:
                assert len(fleet.listed(connection, "0", limit=VMS)) == VMS
    return found
