"""dnsmasq, while it runs: its leases, and forgetting one (its DBus-interface document)."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from agent.engine.host import StepFailed
from agent.engine.model import IPAddress, Lease
from agent.system.bus import BusError, DBusAddress, connect

_DNSMASQ = DBusAddress(
    "/uk/org/thekelleys/dnsmasq",
    bus_name="uk.org.thekelleys.dnsmasq",
    interface="uk.org.thekelleys.dnsmasq",
)
# It does not run, or runs without D-Bus: then it holds no lease in memory either.
_ABSENT = frozenset(
    {
        "org.freedesktop.DBus.Error.ServiceUnknown",
        "org.freedesktop.DBus.Error.NameHasNoOwner",
    }
)


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """A line of dnsmasq's leases file; `expires` in seconds since the epoch, 0 for never."""

    expires: int
    mac: str
    address: IPAddress
    name: str
    client: str


def forget(leases: Iterable[Lease], bus: str = "SYSTEM") -> None:
    """Delete leases of a dnsmasq that runs. Raises StepFailed."""
    for lease in leases:
        try:
            with connect(bus) as opened:
                opened.call(_DNSMASQ, "DeleteDhcpLease", "s", (str(lease.address),))
        except BusError as error:
            if error.name in _ABSENT:
                return
            raise StepFailed(f"forget the lease of {lease.address}", str(error)) from error


def leases(path: Path) -> tuple[LeaseRow, ...]:
    """The leases in a file; none where it is not. The line with the server's DUID is left out."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return ()
    return tuple(_row(line.split()) for line in lines if len(line.split()) == 5)


def _row(words: list[str]) -> LeaseRow:
    expires, mac, address, name, client = words
    return LeaseRow(int(expires), mac, ip_address(address), name.strip("*"), client.strip("*"))
