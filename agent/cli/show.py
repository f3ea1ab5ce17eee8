"""What the VM has and does, as tables."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from agent.cli.commands import Commands
from agent.cli.text import amount, hang, plain, say, table
from agent.cli.wire import Client

INTERFACE_TITLES = ("NAME", "ROLE", "LINK", ">MTU", "MAC", "ADDRESSES")


def interface_cells(rows: Iterable[Mapping[str, Any]]) -> Iterator[Sequence[object]]:
    for row in rows:
        addresses = [*row["addresses"], *(f"MISSING {address}" for address in row["missing"])]
        link = "up" if row["up"] else "DOWN"
        yield row["name"], row["role"] or "-", link, row["mtu"], row["mac"], " ".join(addresses)


def print_interfaces(rows: Sequence[Mapping[str, Any]]) -> None:
    say(table(INTERFACE_TITLES, interface_cells(rows)))


def print_routes(rows: Sequence[Mapping[str, Any]]) -> None:
    notes = {(True, True): "", (True, False): "MISSING", (False, True): "NOT WANTED"}
    cells = [
        (
            row["destination"],
            row["via"] or "-",
            row["nic"],
            "main" if row["table"] == 254 else row["table"],
            notes[row["wanted"], row["present"]],
        )
        for row in rows
    ]
    say(table(("DESTINATION", "VIA", "NIC", "TABLE", "NOTE"), cells))


def print_rules(rows: Sequence[Mapping[str, Any]]) -> None:
    """Rules chain by chain, in the order in which packets meet them."""
    chains: dict[tuple[int, str, str], list[Sequence[object]]] = {}
    for row in rows:
        cells = (
            row["number"],
            amount(row["packets"]),
            amount(row["bytes"]),
            row["rule"],
            row["comment"],
        )
        chains.setdefault((row["family"], row["table"], row["chain"]), []).append(cells)
    for (family, name, chain), cells_of in chains.items():
        print(f"ipv{family} {name} {plain(chain)}")
        say(table((">NO", ">PACKETS", ">BYTES", "RULE", "FROM"), cells_of, "  "))
    if not chains:
        print("nothing")


def print_nat(rows: Sequence[Mapping[str, Any]]) -> None:
    cells = [
        (
            row["kind"],
            row["protocol"] or "any",
            row["original"],
            row["translated"],
            amount(row["packets"]),
            row["comment"],
        )
        for row in rows
    ]
    say(table(("KIND", "PROTO", "ORIGINAL", "TRANSLATED", ">PACKETS", "FROM"), cells))


def print_balancer(rows: Sequence[Mapping[str, Any]]) -> None:
    cells = [
        (
            row["listener"],
            row["server"],
            row["status"],
            "-" if row["weight"] is None else row["weight"],
            amount(row["sessions"]),
            amount(row["total_sessions"]),
            amount(row["bytes_in"]),
            amount(row["bytes_out"]),
            row["check"],
        )
        for row in rows
    ]
    titles = ("LISTENER", "SERVER", "STATUS", ">WEIGHT", ">NOW", ">TOTAL", ">IN", ">OUT", "CHECK")
    say(table(titles, cells))


def print_dhcp(rows: Sequence[Mapping[str, Any]]) -> None:
    cells = [
        (row["address"], row["mac"], row["state"], row["expires"] or "-", row["name"])
        for row in rows
    ]
    say(table(("ADDRESS", "MAC", "STATE", "EXPIRES", "NAME"), cells))


def print_dns(rows: Sequence[Mapping[str, Any]]) -> None:
    cells = [(row["kind"], row["name"], row["value"], row["source"]) for row in rows]
    say(table(("KIND", "NAME", "VALUE", "FROM"), cells))


def print_vpn(rows: Sequence[Mapping[str, Any]]) -> None:
    """A tunnel's state and traffic in a line; below, what there is to say of each."""
    tunnels = [row for row in rows if row["connection"]]
    cells = [
        (
            row["child"],
            row["state"].upper() if row["state"] in {"down", "not loaded"} else row["state"],
            row["since"] or "-",
            row["peer"],
            amount(row["packets_in"]),
            amount(row["bytes_in"]),
            amount(row["packets_out"]),
            amount(row["bytes_out"]),
        )
        for row in tunnels
    ]
    titles = ("TUNNEL", "STATE", "SINCE", "PEER", ">IN", ">BYTES", ">OUT", ">BYTES")
    say(table(titles, cells))
    for row in tunnels:
        print(f"{plain(row['child'])}")
        say(hang("  subnets   ", f"{', '.join(row['local'])} <-> {', '.join(row['remote'])}"))
        say(hang("  identity  ", f"{row['local_identity']} <-> {row['remote_identity']}"))
        if row["ike"]:
            rekeyed = f", keys renewed {row['rekeyed']}" if row["rekeyed"] else ""
            say(hang("  with      ", f"{row['ike']}; {row['esp'] or 'no tunnel yet'}{rekeyed}"))
        if row["certificate_expires"]:
            say(hang("  expires   ", f"{row['certificate_expires']} (the VM's certificate)"))
        if row["reason"]:
            say(hang("  failed    ", f"{row['failed']}: {row['reason']}"))
    for row in rows:
        if not row["connection"]:
            say(hang("refused     ", f"{row['failed']}: {row['reason']}"))


SHOWN: Mapping[str, tuple[str, Callable[[Sequence[Mapping[str, Any]]], None]]] = {
    "interfaces": ("/v1/show/interfaces", print_interfaces),
    "routes": ("/v1/show/routes", print_routes),
    "rules": ("/v1/show/rules", print_rules),
    "nat": ("/v1/show/nat", print_nat),
    "lb": ("/v1/show/load-balancer", print_balancer),
    "dhcp": ("/v1/show/dhcp", print_dhcp),
    "dns": ("/v1/show/dns", print_dns),
    "vpn": ("/v1/vpn", print_vpn),
}


def show(client: Client, options: argparse.Namespace) -> Any:
    path, printer = SHOWN[options.what]
    return client.get(path), printer


def add_to(commands: Commands) -> None:
    parser = commands.add("show", show, "what it has and does, as a table", "show nat")
    parser.add_argument("what", choices=tuple(SHOWN))
