"""Wires it all: the only module that knows every part.

python -m agent.main serve       the agent: recover, then answer on the control socket
python -m agent.main restore     at boot, before the network: the last confirmed revision
python -m agent.main boot        a boot configuration may have come since: go by it
python -m agent.main expire N    by the confirm timer: roll revision N back if it still waits
"""

import argparse
import contextlib
import functools
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if __name__ == "__main__":
    gc.disable()  # nothing of what is imported is garbage; to look for it takes a tenth of the time

from agent import banner
from agent.document.boot_source import Source
from agent.document.document import InvalidDocument
from agent.engine.errors import EngineError, NothingApplied
from agent.engine.host import CheckFailed, HostFull, StepFailed
from agent.engine.model import Degraded
from agent.engine.plan import describe
from agent.engine.store import Store
from agent.engine.transaction import Engine
from agent.monitor import lookout
from agent.monitor.events import Recorder
from agent.monitor.spool import Spool
from agent.system import boot, legacy, lock, memory, nics
from agent.system.boot_channels import Places
from agent.system.clock import SystemClock, boot_id
from agent.system.files import Disk
from agent.system.host import LinuxHost
from agent.system.paths import Paths
from agent.system.run import CommandFailed

if TYPE_CHECKING:
    from flask import Response

    from agent.monitor.outbox import Outbox

log = logging.getLogger("sysvm")

LOCK_WAIT = 5.0  # seconds that a change waits for the one before it
RESTORE_WAIT = 60.0  # seconds; at boot nobody else is about to finish sooner
WATCH_INTERVAL = 45.0  # seconds between two looks for drift
SECOND_LOOK = 2.0  # seconds, after which drift is still there or was none
SAVE_EVERY = 7  # looks; as often are counters saved, which a power cut would take back


def main() -> int:
    parser = argparse.ArgumentParser(prog="sysvm-agent", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve")
    commands.add_parser("restore")
    commands.add_parser("boot")
    expire = commands.add_parser("expire")
    expire.add_argument("revision", type=int)
    arguments = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    log.setLevel(logging.INFO)
    logging.getLogger("agent").setLevel(logging.INFO)
    match arguments.command:
        case "restore":
            return _restore()
        case "boot":
            try:
                return _boot()
            finally:
                banner.write(Paths(), _store(Paths()))
        case "expire":
            return _expire(arguments.revision)
        case _:
            return _serve()


def _engine(host: LinuxHost, store: Store, wait: float, events: Recorder | None = None) -> Engine:
    """The engine; what happens in it is left to the agent, unless this is the agent."""
    paths = host.paths

    @contextlib.contextmanager
    def held() -> Iterator[None]:
        with lock.held(paths.lock, wait):
            yield

    clock = SystemClock()
    events = events or Spool(paths.spools, boot=boot_id(), clock=clock)
    return Engine(host, store, clock, held, boot.load(paths), events)


def _store(paths: Paths, woken: Sequence[Callable[[], None]] = ()) -> Store:
    """The store, of which the console's banner tells; `woken` are called when a change is over."""

    def settled(store: Store) -> None:
        banner.write(paths, store)
        for wake in woken:
            wake()

    return Store(paths.state, Disk(), settled, paths.state_note)


def _restore() -> int:
    paths = Paths()
    trouble, again = _bring_up(paths)
    if trouble:
        log.critical("the VM stays closed: %s", trouble)
    banner.write(paths, _store(paths), trouble)
    return 1 if again else 0


def _bring_up(paths: Paths) -> tuple[str, bool]:
    """What keeps the VM closed, if anything does, and whether trying again may help."""
    store = _store(paths)
    with LinuxHost(paths, wait_for_units=False) as host:
        settled = boot.settle(paths, Places(), host.links)
        boot.record(paths, settled)
        if settled.broken:
            _take_down(host)
            return "its boot configuration cannot be used", False
        late = nics.wait(host.links, _wanted_nics(store), boot.NIC_WAIT)
        if late:
            log.error("NICs of the confirmed revision that are not there: %s", ", ".join(late))
        try:
            outcome = _engine(host, store, RESTORE_WAIT).restore()
        except InvalidDocument as error:
            boot.tell(paths, replace(settled, config=None, problems=error.problems))
            return str(error), False
        except (EngineError, HostFull, StepFailed, CheckFailed) as error:
            return str(error), True
    return (outcome.cause, False) if isinstance(outcome, Degraded) else ("", False)


def _take_down(host: LinuxHost) -> None:
    """Take down what came up ahead of this (share/firewall): the VM is to stay closed."""
    for link in host.links():
        if link.up:
            host.netlink.set_link(replace(link, up=False))


def _wanted_nics(store: Store) -> Collection[str]:
    """The MAC addresses of the NICs that the confirmed revision is about."""
    try:
        confirmed = store.recover().confirmed
        return () if confirmed is None else store.revision(confirmed).document.site.nics
    except EngineError:
        return ()  # the restore finds out, and says it


def _boot() -> int:
    """Go by what a channel has had since the last look."""
    paths = Paths()
    with LinuxHost(paths) as host:
        running, settled = boot.load(paths), boot.settle(paths, Places(), host.links)
        if settled.source in {Source.NONE, Source.KEPT}:
            return 0
        if settled.config is None:
            boot.record(paths, settled, running)
            return 0
        if settled.config == running:
            boot.tell(paths, settled)
            return 0
        boot.record(paths, settled)
        try:
            outcome = _engine(host, _store(paths), RESTORE_WAIT).adopt()
        except (EngineError, HostFull, StepFailed, InvalidDocument, CheckFailed) as error:
            log.critical("the boot configuration from %s: %s", settled.source, error)
            return 1
        log.info("boot configuration from %s: %s", settled.source, type(outcome).__name__)
        host.units.restart("sysvm-agent.service")  # it knows the one before
    return 0


def _expire(revision: int) -> int:
    paths = Paths()
    with LinuxHost(paths) as host:
        engine = _engine(host, _store(paths), RESTORE_WAIT)
        outcome = engine.roll_back(revision, if_unconfirmed=True)
    log.info("expire %d: %s", revision, type(outcome).__name__)
    return 1 if isinstance(outcome, Degraded) else 0


def _serve() -> int:
    from agent.api.app import create_app
    from agent.api.server import serve
    from agent.api.streams import Streams
    from agent.document.heartbeat import Health as Heard
    from agent.monitor.holds import Holds
    from agent.monitor.log import ServiceLog
    from agent.monitor.monitor import Monitor
    from agent.monitor.outbox import Outbox
    from agent.monitor.runner import Health
    from agent.system.figures import LinuxFigures
    from agent.system.machine import LinuxMachine

    paths = Paths()
    woken: list[Callable[[], None]] = []  # who wants to know that the state is another
    mark = paths.run / "events-stream"
    outbox = Outbox(paths.events, paths.spools, boot=boot_id(), clock=SystemClock(), mark=mark)
    outbox.start()
    with LinuxHost(paths) as host:
        engine = _engine(host, _store(paths, woken), LOCK_WAIT, outbox)
        try:
            outcome = None if boot.is_closed(paths) else engine.recover()
            if outcome is not None:
                log.warning("recovered: %s", type(outcome).__name__)
            engine.tidy()
        except (EngineError, HostFull, StepFailed) as error:
            # Whoever asks is told; an agent that ends would be started again for nothing.
            log.critical("cannot recover: %s", error)
        if not banner.place(paths).exists():
            banner.write(paths, _store(paths))
        memory.settle()
        memory.give_back()
        stop = threading.Event()
        watcher = threading.Thread(
            target=_watch, args=(engine, paths, outbox, stop), name="watch", daemon=True
        )
        watcher.start()
        host.listener.tell(outbox)
        hearer = threading.Thread(target=host.listener.run, args=(stop,), name="vpn", daemon=True)
        hearer.start()
        places = Places()
        if places.port.exists():
            listen = (places, host.links, stop)
            threading.Thread(target=boot.listen, args=listen, name="listen", daemon=True).start()
        lines = ServiceLog()
        means = lookout.MeansWatch(outbox)
        monitor = Monitor(
            engine,
            host.prober,
            outbox,
            lines,
            Holds(paths.state / "holds.json"),
            paths,
            alive=lambda: None if means.lost else _notify("WATCHDOG=1"),
            changed=lambda: banner.write(paths, _store(paths)),
        )
        for name, work in (("monitor", monitor.watch), ("ask", monitor.ask)):
            threading.Thread(target=work, args=(stop,), name=name, daemon=True).start()
        woken.append(monitor.wake)
        _listen(paths, outbox, means, stop)
        figures = LinuxFigures(paths, host.units, services=monitor.states)
        health = Health(
            engine,
            figures,
            outbox,
            folder=paths.run / "health",
            lines=lines,
            relax=memory.trim,
            changed=lambda: banner.write(paths, _store(paths)),
        )
        threading.Thread(target=health.serve, args=(stop,), name="health", daemon=True).start()
        woken.append(health.wake)
        conditions = lookout.Conditions(
            engine,
            lambda: lookout.found(health.worst()),
            lambda: Heard.FAILED if monitor.ill else Heard.OK,
        )
        _tell(paths, outbox, conditions, stop)
        signal.signal(signal.SIGTERM, _terminate)
        try:
            streams = Streams()
            machine = LinuxMachine(paths, listener=host.listener)
            app = create_app(engine, machine, outbox, streams=streams, health=health, watch=monitor)
            app.after_request(_trim_when_sent)
            control = paths.run / "control.sock"
            serve(app, control, streams=streams, ready=lambda: _notify("READY=1"))
        finally:
            stop.set()
            with contextlib.suppress(EngineError, HostFull, StepFailed):
                engine.save_counters()
            outbox.close()
    return 0


def _tell(
    paths: Paths, outbox: "Outbox", conditions: lookout.Conditions, stop: threading.Event
) -> None:
    """Send events, and the heartbeat, to whom the running document names."""
    from agent.monitor.beats import Beats
    from agent.monitor.push import Push, Settings
    from agent.monitor.registration import Registration

    sender = Push(outbox, Settings(paths.current), boot_id())
    beats = Beats(Settings(paths.current), boot_id(), conditions.now)
    registration = Registration(Settings(paths.current))
    works = (
        ("push", sender.run),
        ("heartbeat", beats.run),
        ("registration", registration.run),
    )
    for name, run in works:
        threading.Thread(target=run, args=(stop,), name=name, daemon=True).start()


def _listen(
    paths: Paths, events: Recorder, means: lookout.MeansWatch, stop: threading.Event
) -> None:
    """Hear from both haproxies: of servers, and of who is refused. And watch the disk."""
    from agent.monitor import balancer, consoles, refusals
    from agent.services import control, load_balancer
    from agent.system import haproxy

    servers = balancer.Servers(load_balancer.STATS_SOCKET, paths.run / "servers-down.json", events)
    refused = refusals.Refusals(events)
    rings = (
        ("servers", load_balancer.STATS_SOCKET, balancer.RING, servers),
        ("refusals", control.STATS_SOCKET, refusals.RING, refused),
    )
    for name, *arguments in rings:
        threading.Thread(
            target=haproxy.follow, args=(*arguments, stop), name=name, daemon=True
        ).start()
    seen = consoles.Consoles(events, paths.run / "console-records.json")
    threading.Thread(target=seen.run, args=(stop,), name="consoles", daemon=True).start()
    threading.Thread(
        target=lookout.watch, args=(paths.state, events, means, stop), name="state", daemon=True
    ).start()


def _trim_when_sent(response: "Response") -> "Response":
    """What a push needed for a moment goes back to the system once it is answered."""
    response.call_on_close(memory.trim)
    return response


def _terminate(_signal: int, _frame: object) -> None:
    raise SystemExit(0)


def _watch(engine: Engine, paths: Paths, events: Recorder, stop: threading.Event) -> None:
    """Look for drift, and now and then keep the counters and tidy up."""
    lookout.started(paths, events)
    drift = lookout.DriftWatch(events)
    seen: int | None = None
    rounds = 0
    while not stop.wait(WATCH_INTERVAL):
        rounds += 1
        try:
            if (found := _drift(engine, stop)) is not None:
                drift.found(found, _legacy())
            if (current := engine.state().current) != seen:
                seen = current
                memory.give_back()
            if rounds % SAVE_EVERY == 0:
                engine.save_counters()
                engine.tidy()
        except NothingApplied:
            continue
        except (EngineError, HostFull, StepFailed, CommandFailed) as error:
            log.warning("cannot look for drift: %s", error)
            continue


def _drift(engine: Engine, stop: threading.Event) -> tuple[str, ...] | None:
    """What has drifted, and is so at a second look; None where a change is under way."""
    before = engine.state()
    found = describe(engine.drift())
    if found and not stop.wait(SECOND_LOOK):
        found = tuple(line for line in describe(engine.drift()) if line in found)
    after = engine.state()
    return found if before.making is None and after == before else None


def _legacy() -> tuple[str, ...]:
    return tuple(f"ipv{int(rule.family)} {rule.table}: {rule.text}" for rule in legacy.observe())


def _notify(state: str) -> None:
    """Tell systemd (sd_notify(3)), by a socket that is there also where none can be opened."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    _channel().sendto(state.encode(), address)


@functools.cache
def _channel() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)


if __name__ == "__main__":
    sys.exit(main())
