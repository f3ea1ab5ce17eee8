"""Default gateways and next hops: each answers, by ping or, where it is IPv4, at least by ARP."""

from collections.abc import Iterator, Mapping

from agent.document.document import Document
from agent.engine.model import Desired, IPAddress, pointer
from agent.monitor.checks import Check, Finding, Round, failed, passed, skipped
from agent.monitor.health import Level

AT_MOST = 32  # of those that the document names; each that is silent takes a second or two


def wanted(document: Document, desired: Desired) -> Mapping[IPAddress, tuple[str, str]]:
    """NIC and place in the document of each neighbour that routes go by."""
    return dict(_wanted(document, desired))


def _wanted(document: Document, desired: Desired) -> Iterator[tuple[IPAddress, tuple[str, str]]]:
    paths = {
        gateway: pointer("site", "nics", mac, field)
        for mac, nic in document.site.nics.items()
        for field, gateway in (("gateway", nic.gateway), ("gateway_ipv6", nic.gateway_ipv6))
        if gateway is not None
    }
    for destination, static in document.site.routes.items():
        paths.setdefault(static.via, pointer("site", "routes", destination, "via"))
    for route in sorted(desired.routes, key=lambda r: (r.destination.version, str(r.destination))):
        link = desired.links.get(route.nic)
        if route.via in paths and link is not None and link.up:
            yield route.via, (route.nic, paths[route.via])


def judge(
    answers: Mapping[IPAddress, str], wanted: Mapping[IPAddress, tuple[str, str]], left: int
) -> Finding:
    """`answers` says how each answered, or nothing; `left` were not asked."""
    silent = {
        f"{address} on {wanted[address][0]} ({wanted[address][1]})": wanted[address][1]
        for address, how in answers.items()
        if not how
    }
    more = f"; {left} more were not asked" if left else ""
    if silent:
        path = next(iter(silent.values()))
        return failed(f"{len(silent)} of {len(answers)} do not answer{more}", silent, path)
    told = ", ".join(f"{address} answers {how}" for address, how in list(answers.items())[:4])
    return passed(f"{told}{' …' if len(answers) > 4 else ''}{more}")


def run(given: Round) -> Finding:
    if given.standby:
        return skipped("another VM of the pair serves")
    if given.document is None or given.desired is None:
        return skipped("nothing has been applied yet")
    named = wanted(given.document, given.desired)
    if not named:
        return skipped("the document names no gateway on a NIC that is up")
    asked = dict(list(named.items())[:AT_MOST])
    answers = given.machine.answers({address: nic for address, (nic, _) in asked.items()})
    return judge(answers, asked, len(named) - len(asked))


CHECKS = (Check("gateways", Level.BASIC, run),)
