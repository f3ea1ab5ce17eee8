"""DHCP options in dnsmasq's words."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

from agent.services.dhcp_dns.networks import Served
from agent.services.dhcp_dns.section import DhcpOptions, Section


def host_tag(mac: str) -> str:
    return f"host-{mac.replace(':', '')}"


def option_lines(section: Section, leasable: tuple[Served, ...]) -> Iterator[str]:
    """Lines of the options' file.

    A guest's own options go by a tag of its host, the others by the tag of its network: dnsmasq
    prefers the former (rfc2131.c, option_filter: tags of the range count last).
    """
    for network in leasable:
        here = network.own.ip
        options = section.options
        defaults = {
            "routers": (here,) if options.routers is None else options.routers,
            "dns_servers": options.dns_servers,
        }
        if options.dns_servers is None:
            defaults["dns_servers"] = (here,) if section.dns.enabled else ()
        for line in _lines(options.model_copy(update=defaults), here):
            yield f"tag:{network.tag},{line}"
        yield f"tag:{network.tag},option:mtu,{network.nic.mtu}"
    for mac, host in sorted(section.hosts.items()):
        if host.options == NO_OPTIONS:
            continue
        home = next((s for s in leasable if host.address in s.network), None)
        if home is None:
            continue
        options = host.options
        routers = _first(options.routers, section.options.routers, (home.own.ip,))
        if options.routers is not None and options.classless_routes is None:
            # The network's routes name the network's gateway, which this guest does not take.
            routes = {"classless_routes": section.options.classless_routes}
            options = options.model_copy(update=routes)
        for line in _lines(options, routers[0] if routers else None):
            yield f"tag:{host_tag(mac)},{line}"


def _first(*given: tuple[IPv4Address, ...] | None) -> tuple[IPv4Address, ...]:
    return next(addresses for addresses in given if addresses is not None)


NO_OPTIONS = DhcpOptions()
# dnsmasq's words for options (dnsmasq --help dhcp; it has no name for option 4). Options 3 and 6
# are sent by default, and an empty one keeps dnsmasq from that (dnsmasq.conf.example).
_ADDRESS_LISTS = {
    "routers": "option:router",
    "dns_servers": "option:dns-server",
    "ntp_servers": "option:ntp-server",
    "time_servers": "4",
    "log_servers": "option:log-server",
    "netbios_servers": "option:netbios-ns",
}
_SINGLE_VALUES = {
    "tftp_server": "option:tftp-server",
    "bootfile_name": "option:bootfile-name",
    "timezone": "option:tzdb-timezone",
}


def _lines(options: DhcpOptions, router: IPv4Address | None) -> Iterator[str]:
    for field, name in _ADDRESS_LISTS.items():
        addresses = getattr(options, field)
        if addresses:
            yield f"{name},{','.join(map(str, addresses))}"
        elif addresses is not None and field in {"routers", "dns_servers"}:
            yield name
    if options.domain_search:
        yield f"option:domain-search,{','.join(options.domain_search)}"
    if options.classless_routes:
        routes = dict(options.classless_routes)
        if router is not None:
            routes.setdefault(IPv4Network("0.0.0.0/0"), router)
        pairs = ",".join(f"{network},{via}" for network, via in sorted(routes.items()))
        yield f"option:classless-static-route,{pairs}"
    for field, name in _SINGLE_VALUES.items():
        value = getattr(options, field)
        if value is not None:
            yield f"{name},{value}"
