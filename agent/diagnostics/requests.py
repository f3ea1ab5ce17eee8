"""What may be tried from this VM, and the command line that it becomes: ping, traceroute, arping.

A request names a tool, a target, which IP version, and extra arguments. Everything is decided here,
from the request and the NICs that the VM has; nothing is run. Options that flood, write or load
files, steer packets past the VM's routes, pretend to be others or run for ever are refused by name;
the rest is bounded. Versions: iputils 20240905, traceroute 2.1.6, ndisc6 1.0.5 (Debian 13).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, IPv6Interface, ip_address

from agent.diagnostics.refusal import DiagnosticRefused
from agent.diagnostics.words import (
    ARGUMENTS,
    Given,
    Option,
    Table,
    nic,
    nic_or_own_address,
    number,
    one_of,
    options,
    own_address,
    pattern,
    seconds,
)
from agent.document.types import LABEL
from agent.engine.model import IPAddress, IPInterface

TARGET = "/target"
DEFAULT_SECONDS = 60
LONGEST_SECONDS = 240  # the front waits for five minutes
LONGEST_OUTPUT = 256 * 1024  # bytes, of both streams

# A name's last part is not a number: 10.1.1.300 is a mistake, and some resolvers take 127.1 for
# an address.
_NAME = re.compile(rf"{LABEL}(?:\.{LABEL})*")
_NUMBER = re.compile(r"(?:[0-9]+|0[xX][0-9A-Fa-f]*)")

Nics = Mapping[str, tuple[IPInterface, ...]]
"""The VM's NICs by name, with their addresses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What somebody wants to be tried."""

    tool: str
    target: str
    family: int | None = None  # 4 or 6; by default, what the target is
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class _Vm:
    """What the tables need to know of the VM."""

    nics: frozenset[str]
    own: frozenset[IPv4Address]


_FLAG = Option()

_OTHER_PATH = "it sends packets past the VM's own routes and rules"
_FLOOD = "it floods the network"


def _ping(vm: _Vm) -> Table:
    taken = {
        "-4": _FLAG,
        "-6": _FLAG,
        "-c": number(1, 1000),
        "-i": seconds(0.2, 60),
        "-I": nic_or_own_address(vm.nics, vm.own),
        "-M": one_of("do", "dont", "want", "probe"),
        "-p": pattern(),
        "-Q": number(0, 255),
        "-s": number(0, 65507),
        "-t": number(1, 255),
        "-w": number(1, LONGEST_SECONDS),
        "-W": seconds(0.1, 60),
        **dict.fromkeys(("-3", "-B", "-D", "-H", "-L", "-n", "-O", "-q", "-U", "-v"), _FLAG),
    }
    refused = {
        "-A": _FLOOD,
        "-b": "it has every host of a network answer at once",
        "-f": _FLOOD,
        "-l": _FLOOD,
        "-m": _OTHER_PATH,
        "-N": "it is not a ping",
        "-R": "routers drop such packets; traceroute shows the way",
        "-T": "routers drop such packets",
    }
    return Table(taken, refused)


def _traceroute(vm: _Vm) -> Table:
    taken = {
        "-4": _FLAG,
        "-6": _FLAG,
        "-f": number(1, 64),
        "-i": nic(vm.nics),
        "-m": number(1, 64),
        "-N": number(1, 16),
        "-p": number(1, 65535),
        "-q": number(1, 10),
        "-s": own_address(vm.own),
        "-t": number(0, 255),
        "-w": seconds(0.1, 30),
        "-z": seconds(0, 10),
        **dict.fromkeys(("-e", "-F", "-I", "-n", "-T", "-U"), _FLAG),
    }
    refused = {
        "-A": "it asks servers on the internet for each address",
        "-d": "it is for who debugs the kernel",
        "-g": _OTHER_PATH,
        "-M": "it can load a file as a module",
        "-O": "it is for modules",
        "-P": "it sends packets of any protocol",
        "-r": _OTHER_PATH,
    }
    return Table(taken, refused)


def _arping(vm: _Vm) -> Table:
    taken = {
        "-b": _FLAG,
        "-c": number(1, 1000),
        "-D": _FLAG,
        "-f": _FLAG,
        "-I": nic(vm.nics),
        "-i": number(1, 60),
        "-q": _FLAG,
        "-s": own_address(vm.own),
        "-w": number(1, LONGEST_SECONDS),
    }
    takes_over = "it tells the neighbours to send an address's packets here"
    return Table(taken, {"-A": takes_over, "-U": takes_over})


def _ndisc6(vm: _Vm) -> Table:
    """arping's counterpart for IPv6; -I and -c are arping's words for what it has too."""
    taken = {
        "-1": _FLAG,
        "-c": number(1, 100),
        "-I": nic(vm.nics),
        "-m": _FLAG,
        "-n": _FLAG,
        "-q": _FLAG,
        "-r": number(1, 100),
        "-v": _FLAG,
        "-w": number(1, 10000),  # milliseconds
    }
    return Table(taken, {"-d": "it asks nobody, and so waits for nothing"})


def _family(request: Request, found: tuple[Given, ...]) -> int | None:
    """The IP version that is asked for, if one is."""
    asked = {int(given.flag[1]) for given in found if given.flag in {"-4", "-6"}}
    asked |= {request.family} if request.family else set()
    if len(asked) > 1:
        raise DiagnosticRefused(ARGUMENTS, "both IPv4 and IPv6 are asked for")
    return next(iter(asked), None)


def _without(found: Iterable[Given], *flags: str) -> tuple[Given, ...]:
    return tuple(given for given in found if given.flag not in flags)


def _words(found: Iterable[Given]) -> tuple[str, ...]:
    return tuple(word for given in found for word in given.words)


def _has(found: Iterable[Given], flag: str) -> bool:
    return any(given.flag == flag for given in found)


def _across(tool: str, default: Given) -> Callable[[Request, tuple[Given, ...], Nics], list[str]]:
    """The command line of a tool that reaches beyond the next router."""

    def argv(request: Request, found: tuple[Given, ...], nics: Nics) -> list[str]:
        family = _family(request, found)
        target, version = _target(request.target, nics)
        if version is not None and family not in {None, version}:
            raise DiagnosticRefused(TARGET, f"is an IPv{version} address")
        family = family or version
        chosen = [Given(f"-{family}")] if family else []
        rest = _without(found, "-4", "-6")
        if not _has(rest, default.flag):
            chosen.append(default)
        return [tool, *_words(chosen), *_words(rest), "--", target]

    return argv


def _neighbour(request: Request, found: tuple[Given, ...], nics: Nics) -> list[str]:
    """arping, or ndisc6: both ask for an address, on one NIC."""
    target = _neighbour_address(request)
    zone = getattr(target, "scope_id", None)
    named = [given.value for given in found if given.flag == "-I"] or ([zone] if zone else [])
    through = named[0] if named else nic_of(target, nics)
    if through not in nics:
        raise DiagnosticRefused(TARGET, "names a NIC that this VM does not have")
    rest = _without(found, "-I")
    if target.version == 4:
        if not _has(rest, "-c"):
            rest = (Given("-c", "4"), *rest)
        return ["arping", "-I", through, *_words(rest), "--", str(target)]
    if _has(rest, "-c") and _has(rest, "-r"):
        raise DiagnosticRefused(ARGUMENTS, "-c and -r are the same here")
    rest = tuple(Given("-r", given.value) if given.flag == "-c" else given for given in rest)
    if not _has(rest, "-r"):
        rest = (Given("-r", "4"), *rest)
    return ["ndisc6", *_words(rest), "--", str(target).partition("%")[0], through]


def _neighbour_address(request: Request) -> IPAddress:
    try:
        target = ip_address(request.target)
    except ValueError:
        hint = "a neighbour is asked for by its address"
        raise DiagnosticRefused(TARGET, "is not an IP address", hint) from None
    if request.family not in {None, target.version}:
        raise DiagnosticRefused(TARGET, f"is an IPv{target.version} address")
    return target


def nic_of(target: IPAddress, nics: Nics) -> str:
    """The NIC in whose network an address is. Raises DiagnosticRefused where that is not clear."""
    found = {
        (address.network.prefixlen, name)
        for name, addresses in nics.items()
        for address in addresses
        if target in address.network and not address.is_loopback
    }
    closest = [name for length, name in found if length == max(found)[0]]
    if len(closest) != 1:
        which = "more than one network" if closest else "no network"
        hint = f"name the NIC by -I: {', '.join(sorted(nics))}"
        raise DiagnosticRefused(TARGET, f"is in {which} of this VM", hint)
    return closest[0]


def _target(text: str, nics: Nics) -> tuple[str, int | None]:
    """A target as the tool gets it, and its IP version where it is an address."""
    try:
        address = ip_address(text)
    except ValueError:
        last = text.rpartition(".")[2]
        if len(text) <= 253 and _NAME.fullmatch(text) and not _NUMBER.fullmatch(last):
            return text, None
        hint = "an IPv4 or IPv6 address, or a name such as vm1.example"
        raise DiagnosticRefused(TARGET, "is neither an address nor a name", hint) from None
    zone = address.scope_id if isinstance(address, IPv6Address) else None
    if zone is not None and zone not in nics:
        raise DiagnosticRefused(TARGET, "names a NIC that this VM does not have")
    return str(address), address.version


@dataclass(frozen=True, slots=True)
class _Tool:
    table: Callable[[_Vm], Table]
    argv: Callable[[Request, tuple[Given, ...], Nics], list[str]]
    family: int | None = None  # that its name says


_PING = _across("ping", Given("-c", "4"))
_TRACEROUTE = _across("traceroute", Given("-m", "20"))

_TOOLS: Mapping[str, _Tool] = {
    "ping": _Tool(_ping, _PING),
    "ping6": _Tool(_ping, _PING, 6),
    "traceroute": _Tool(_traceroute, _TRACEROUTE),
    "traceroute6": _Tool(_traceroute, _TRACEROUTE, 6),
    "arping": _Tool(_arping, _neighbour),
}
TOOLS = tuple(_TOOLS)


def command(request: Request, nics: Nics) -> tuple[str, ...]:
    """The command line that a request becomes. Raises DiagnosticRefused."""
    tool = _TOOLS.get(request.tool)
    if tool is None:
        raise DiagnosticRefused("/tool", f"is not one of {', '.join(TOOLS)}")
    if request.family not in {None, 4, 6}:
        raise DiagnosticRefused("/family", "is 4 or 6")
    if tool.family is not None:
        if request.family not in {None, tool.family}:
            raise DiagnosticRefused("/family", f"{request.tool} is for IPv{tool.family}")
        request = replace(request, family=tool.family)
    table = tool.table
    if request.tool == "arping" and ":" in request.target:
        table = _ndisc6
    own = {a.ip for of in nics.values() for a in of if not isinstance(a, IPv6Interface)}
    found = options(request.arguments, table(_Vm(frozenset(nics), frozenset(own))))
    return tuple(tool.argv(request, found, nics))
