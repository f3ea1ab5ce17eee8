"""The load balancer: haproxy has every listener and server of the document, and listens.

Whether the servers behind are alive is not this VM's health: it is told, and has its own events.
"""

from collections.abc import Iterator, Sequence

from agent.engine.model import HaproxyRuns, Unit, pointer
from agent.monitor.checks import Balanced, Check, Finding, Round, failed, passed, skipped
from agent.monitor.health import Level
from agent.services import load_balancer

FRONTEND = "FRONTEND"


def wanted(unit: Unit) -> frozenset[tuple[str, str, str]]:
    """Listener, server and its address with port, as haproxy's state file names them."""
    rows = {row for keep in unit.keeps for row in keep.rows}
    return frozenset((row[0], row[1], f"{row[2]}:{row[3]}") for row in rows)


def judge(unit: Unit, rows: Sequence[Balanced]) -> Finding:
    wrong = [*_listeners(unit, rows), *_servers(unit, rows)]
    if wrong:
        text = f"haproxy lacks {len(wrong)} of the document's listeners and servers"
        return failed(text, (f"{path} ({said})" for path, said in wrong), wrong[0][0])
    listeners = len(unit.binds)
    servers = [row for row in rows if row.server != FRONTEND]
    alive = {row.listener for row in servers if row.status == "UP"}
    down = sorted({row.listener for row in servers} - alive)
    ill = f"; no server is up for {', '.join(down[:5])}" if down else ""
    return passed(f"as asked: listeners {listeners}, servers {len(servers)}{ill}")


def _listeners(unit: Unit, rows: Sequence[Balanced]) -> Iterator[tuple[str, str]]:
    there = {row.listener: row.status for row in rows if row.server == FRONTEND}
    for bind in unit.binds:
        status = there.get(bind.path.rpartition("/")[2])
        if status != "OPEN":
            where = f"{bind.address} port {bind.port}"
            yield bind.path, f"{where} is {status}" if status else f"{where} is not there"


def _servers(unit: Unit, rows: Sequence[Balanced]) -> Iterator[tuple[str, str]]:
    there = {(row.listener, row.server): row.address for row in rows}
    for listener, server, address in sorted(wanted(unit)):
        path = pointer(load_balancer.SECTION, "listeners", listener, "servers", server)
        at = there.get((listener, server))
        if at is None:
            yield path, f"{address} is not there"
        elif at and at != address:
            yield path, f"is {at}, not {address}"


def run(given: Round) -> Finding:
    absent = given.absent(load_balancer.UNIT)
    desired = given.desired
    if absent is not None or desired is None:
        return absent or skipped("nothing has been applied yet")
    socket = next(
        (
            p.socket
            for p in desired.probes
            if isinstance(p, HaproxyRuns) and p.unit == load_balancer.UNIT
        ),
        load_balancer.STATS_SOCKET,
    )
    return judge(desired.units[load_balancer.UNIT], given.machine.balanced(socket))


CHECKS = (Check("load-balancer", Level.ADVANCED, run),)
