"""What guests wait for, kept as text, which a boot has before anything of ours can start.

Links, addresses and routes are a few lines that the kernel takes in a tenth of a second; to come to
them by way of the document takes many times as long. So they are kept beside the firewall's text,
and share/firewall puts them in once that stands. So are the files of the daemon that tells names
and gives leases, which starts then. The restore finds all of it as it is to be, or makes it so:
what is here decides nothing for good.
"""

from collections.abc import Iterator, Mapping

from agent.engine.model import Address, Desired, Route

_FIRST = "net.ipv4.ip_forward"  # the kernel sets others when it changes
_NOT_HERE = frozenset({"kernel.hostname"})  # no packet waits for it
_OURS = 77  # the routes' protocol, as in system/netlink.py
_MAIN = 254


def network(desired: Desired) -> str:
    """What share/firewall reads, by its lines' first words; nothing where there is more to it.

    nic NAME MAC     is to be there, under that name
    set PATH VALUE   a kernel setting
    ip WORDS         a line of `ip -batch`
    file PATH        one of `files`
    """
    if desired.policy_rules:
        return ""
    lines = [*_lines(desired), *(f"file {path}" for path in sorted(files(desired)))]
    return "".join(f"{line}\n" for line in lines)


def files(desired: Desired) -> Mapping[str, bytes]:
    """The files of daemons that start ahead of the restore, by their path in a revision."""
    ahead = {unit.name for unit in desired.units.values() if unit.ahead}
    return {path: file.content for path, file in desired.files.items() if file.unit in ahead}


def _lines(desired: Desired) -> Iterator[str]:
    links = sorted(link for link in desired.links.values() if link.up)
    yield from (f"nic {link.name} {link.mac}" for link in links)
    keys = sorted(desired.sysctls.keys() - _NOT_HERE, key=lambda key: (key != _FIRST, key))
    for key in keys:
        # A '/' in a key is a dot of a NIC's name (sysctl(8)).
        path = key.translate(str.maketrans("./", "/."))
        yield f"set /proc/sys/{path} {desired.sysctls[key].value}"
    yield from (f"ip link set dev {link.name} mtu {link.mtu} up" for link in links)
    addresses = sorted(
        desired.addresses, key=lambda a: (a.nic, a.interface.version, a.interface.ip)
    )
    yield from map(_address, addresses)
    yield from (_route(route) for route in sorted(desired.routes, key=str))


def _address(address: Address) -> str:
    interface = address.interface
    line = f"ip address add {interface} dev {address.nic}"
    if interface.version == 6:
        return f"{line} nodad"
    if interface.network.prefixlen >= 31:
        return line
    return f"{line} broadcast {interface.network.broadcast_address}"


def _route(route: Route) -> str:
    via = "" if route.via is None else f" via {route.via}"
    table = "" if route.table == _MAIN else f" table {route.table}"
    return f"ip route add {route.destination}{via} dev {route.nic} protocol {_OURS}{table}"
