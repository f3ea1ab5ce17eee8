"""What the proxy goes by: files that the document's `console` section is rendered to.

All of it is read again while sessions go on.
"""

import enum
import ipaddress
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agent.console.limits import Rate
from agent.console.targets import Network, PortSpan, TargetRules

FOLDER = Path("/run/sysvm/current/console")
LISTEN, CONSOLE, CHAIN, KEY = "listen.json", "console.json", "chain.pem", "key.pem"


class Service(enum.StrEnum):
    """What there is at a port."""

    TLS = "tls"  # consoles
    PLAIN = "plain"  # consoles, where a load balancer does TLS or nobody does
    REDIRECT = "redirect"  # the way to where TLS is
    STATUS = "status"  # what the agent's probe asks, on loopback


@dataclass(frozen=True, slots=True)
class Listener:
    """An address and port, and what is there."""

    address: str
    port: int
    service: Service
    to: str = ""  # the origin that a REDIRECT leads to


@dataclass(frozen=True, slots=True)
class Plugin:
    """One of websockify's plug-ins: where its class is, and what it is made with."""

    path: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """All but where to listen. Seconds, bytes, counts."""

    hosts: frozenset[str]  # what browsers may call the proxy, with the port where it is not usual
    origins: frozenset[str]  # pages that may open a console
    native: bool  # clients that are no browser, and so have no page
    framed_by: tuple[str, ...]  # origins of pages that may show the console in a frame
    rules: TargetRules
    cap: int
    half_open: int
    half_open_each: int
    handshakes: Rate  # of one source
    balancers: tuple[Network, ...]  # who speaks the PROXY protocol
    report_every: float
    novnc: str  # the folder of noVNC
    token_plugin: Plugin | None
    auth_plugin: Plugin | None
    witness: str


def read(folder: Path) -> Configuration:
    """The configuration that is there. Raises OSError, ValueError, KeyError, TypeError."""
    return parse(json.loads((folder / CONSOLE).read_bytes()))


def parse(value: Mapping[str, Any]) -> Configuration:
    """The configuration of this JSON value, which our own template made."""

    def plugin(name: str) -> Plugin | None:
        given = value.get(name)
        return None if given is None else Plugin(given["class"], given["source"])

    def networks(name: str) -> tuple[Network, ...]:
        return tuple(map(ipaddress.ip_network, value[name]))

    return Configuration(
        hosts=frozenset(map(str.lower, value["hosts"])),
        origins=frozenset(map(str.lower, value["origins"])),
        native=value["native"],
        framed_by=tuple(value["framed_by"]),
        rules=TargetRules(
            networks=networks("networks"),
            ports=tuple(PortSpan(first, last) for first, last in value["ports"]),
            forbidden=networks("forbidden"),
        ),
        cap=value["cap"],
        half_open=value["half_open"],
        half_open_each=value["half_open_each"],
        handshakes=Rate(value["handshakes_per_second"], value["handshakes_burst"]),
        balancers=networks("balancers"),
        report_every=value["report_every"],
        novnc=value["novnc"],
        token_plugin=plugin("token_plugin"),
        auth_plugin=plugin("auth_plugin"),
        witness=value["witness"],
    )


def listeners(folder: Path) -> tuple[Listener, ...]:
    """Where to listen. Raises OSError, ValueError, KeyError, TypeError."""
    value = json.loads((folder / LISTEN).read_bytes())
    return tuple(map(_listener, value["listen"]))


def _listener(value: Mapping[str, Any]) -> Listener:
    service = Service(value["service"])
    return Listener(value["address"], value["port"], service, value.get("to", ""))


def inherited(places: Iterable[tuple[Listener, int]]) -> str:
    """What a worker is told of the sockets that it gets: each with its handle."""
    return json.dumps([asdict(one) | {"handle": handle} for one, handle in places])


def take_over(text: str) -> tuple[tuple[Listener, int], ...]:
    """What `inherited` said."""
    return tuple((_listener(value), value["handle"]) for value in json.loads(text))
