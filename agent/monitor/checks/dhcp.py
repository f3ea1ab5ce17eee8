"""DHCP: dnsmasq was given every host of the document, offers it its address, and to nobody else.

What it was given are the files of the running revision, read as dnsmasq reads them; that it has
read them is what the witness says, a name of the same reload. A few hosts are asked for, others
each time, as a guest asks that wants an address: an offer spends two lines of the log, no lease.
"""

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Interface

from agent.engine.model import Desired, DnsAnswers, Lease, pointer
from agent.monitor.checks import (
    Check,
    Finding,
    Lent,
    Question,
    Round,
    failed,
    passed,
    skipped,
    warning,
)
from agent.monitor.health import Level
from agent.services import dhcp_dns

HOSTS = f"{dhcp_dns.FOLDER}/hosts"
AT_MOST = 8  # hosts that are asked for in a round
OPTIONS = f"{dhcp_dns.FOLDER}/options"


def missing_lines(wanted: bytes, there: bytes) -> Iterator[str]:
    """Lines of a file that dnsmasq cannot have read."""
    found = set(there.splitlines())
    for line in wanted.splitlines():
        if line not in found and not line.startswith(b"#"):
            yield line.decode(errors="replace")


def host_path(line: str) -> str:
    """Where the document has the host of a line of the hosts' file."""
    return pointer(dhcp_dns.SECTION, "hosts", line.split(",", 1)[0])


def judge_files(wanted: Mapping[str, bytes], there: Mapping[str, bytes]) -> Finding | None:
    """What of the document dnsmasq has not been given, if anything."""
    hosts = list(missing_lines(wanted[HOSTS], there[HOSTS]))
    if hosts:
        named = (f"{host_path(line)} ({' '.join(line.split(',')[:3])})" for line in hosts)
        text = f"dnsmasq has not been given {len(hosts)} of the document's hosts"
        return failed(text, named, host_path(hosts[0]))
    options = list(missing_lines(wanted[OPTIONS], there[OPTIONS]))
    if options:
        path = pointer(dhcp_dns.SECTION, "options")
        text = f"dnsmasq has not been given {len(options)} of the document's options"
        return failed(text, (f"{path} ({line})" for line in options), path)
    extra = [name for name in (HOSTS, OPTIONS) if any(missing_lines(there[name], wanted[name]))]
    if extra:
        return failed(f"somebody has added to {', '.join(extra)}", extra, f"/{dhcp_dns.SECTION}")
    return None


def judge_leases(promised: Iterable[Lease], lent: Iterable[Lent]) -> Finding | None:
    """Has a guest an address that the document promises to another?"""
    owner = {str(lease.address): lease.mac for lease in promised}
    taken = [
        (one, owner[one.address])
        for one in lent
        if owner.get(one.address, one.mac).lower() != one.mac.lower()
    ]
    if not taken:
        return None
    named = [
        f"{pointer(dhcp_dns.SECTION, 'hosts', mac, 'address')} ({one.address} is lent to {one.mac})"
        for one, mac in taken
    ]
    text = "addresses that the document promises are lent to others until their leases end"
    return warning(text, named, pointer(dhcp_dns.SECTION, "hosts", taken[0][1], "address"))


def run(given: Round) -> Finding:
    absent = given.absent(dhcp_dns.UNIT)
    desired = given.desired
    if absent is not None or desired is None:
        return absent or skipped("nothing has been applied yet")
    if not desired.leases:
        return skipped("the document has no host that gets its address by DHCP")
    wanted = {name: desired.files[name].content for name in (HOSTS, OPTIONS)}
    there = {name: given.machine.file(name) for name in wanted}
    found = judge_files(wanted, there)
    if found is None:
        found = witness(given)
    if found is None:
        lent = given.machine.leases()
        found = offers(given, desired, lent) or judge_leases(desired.leases, lent)
    return found or passed(
        f"dnsmasq has been given all {len(desired.leases)} hosts, and has read them"
    )


def sample(leases: Iterable[Lease], turn: int) -> tuple[Lease, ...]:
    """Some of the hosts, others at each turn."""
    every = sorted(leases, key=lambda lease: lease.mac)
    step = -(-len(every) // AT_MOST) or 1
    return tuple(every[turn % step :: step])


def offers(given: Round, desired: Desired, lent: Iterable[Lent]) -> Finding | None:
    """Is each host of a sample offered its own address?"""
    own = [a.interface for a in desired.addresses if isinstance(a.interface, IPv4Interface)]
    holders = {one.address: one.mac.lower() for one in lent}
    for lease in sample(desired.leases, given.turn):
        server = next((i.ip for i in own if lease.address in i.network), None)
        if server is None or holders.get(str(lease.address), lease.mac) != lease.mac:
            continue  # another holds it, which is told as such
        told = given.machine.offered(server, lease.mac)
        if told != str(lease.address):
            path = pointer(dhcp_dns.SECTION, "hosts", lease.mac, "address")
            said = f"is offered {told or 'nothing'}, not {lease.address}"
            return failed(f"{lease.mac} {said}", [f"{path} ({said})"], path)
    return None


def witness(given: Round) -> Finding | None:
    """Does dnsmasq run this revision's files? It says a name that only they have."""
    probes = [
        p for p in (given.desired.probes if given.desired else ()) if isinstance(p, DnsAnswers)
    ]
    for probe in probes[:1]:
        (answer,) = given.machine.resolve([Question(probe.server, probe.name, "A")])
        if answer != frozenset(probe.expect):
            said = answer if isinstance(answer, str) else "other files"
            text = f"dnsmasq has not read the files of this revision: {said}"
            return failed(text, [HOSTS, OPTIONS], f"/{dhcp_dns.SECTION}")
    return None


CHECKS = (Check("dhcp", Level.ADVANCED, run),)
