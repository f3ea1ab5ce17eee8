"""Diagnostics: try something from this VM, and watch what comes of it."""

import argparse
import http.client
import json
import os
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO, TextIO

from agent.cli.commands import Commands, number
from agent.cli.text import plain
from agent.cli.wire import Client, Unusable

LONGEST = 240  # seconds


def attempt(client: Client, options: argparse.Namespace) -> Any:
    """Run a tool in the VM; what it says is printed as it says it."""
    request = {"target": options.target, "arguments": " ".join(options.arguments)}
    if options.family:
        request["family"] = options.family
    if options.seconds:
        request["seconds"] = options.seconds
    path, body = f"/v1/diagnostics/{options.tool}", json.dumps(request).encode()
    if options.json:
        return json.loads(client.send("POST", path, body)[0]), print
    with client.stream("POST", f"{path}?live=1", body) as response:
        try:
            for line in response:
                value = json.loads(line)
                if "reason" in value:
                    return value, print_end
                if "text" in value:
                    _echo(value["text"], sys.stderr if value["stream"] == "stderr" else sys.stdout)
        except KeyboardInterrupt:
            end = {"exit": None, "reason": "interrupted, and ended there as well"}
            return end, print_end
    raise Unusable("it broke off", path, "sysvmctl logs sysvm-agent has why")


def _echo(text: str, stream: TextIO) -> None:
    """What a tool says, line by line: names in it may be anybody's."""
    stream.write("\n".join(map(plain, text.split("\n"))))
    stream.flush()


def print_end(end: Mapping[str, Any]) -> None:
    """How it ended, where that is not seen."""
    if end["reason"] != "exited":
        print(f"sysvmctl: ended: {end['reason']}", file=sys.stderr)


def capture(client: Client, options: argparse.Namespace) -> Any:
    """Packets on a NIC, in a file for tcpdump -r or Wireshark."""
    names = ("nic", "network", "protocol", "direction", "snaplen", "packets", "seconds", "bytes")
    wanted = {name: getattr(options, name) for name in names}
    wanted |= {"hosts": options.host, "ports": options.port}
    body = json.dumps({name: part for name, part in wanted.items() if part is not None}).encode()
    with client.stream("POST", "/v1/diagnostics/capture", body) as response:
        answer = {"file": options.output, "bytes": _save(response, options.output)}
    return answer, print_saved


def fetch_bundle(client: Client, options: argparse.Namespace) -> Any:
    """Everything there is to say of this VM, in a file that only its owner can read."""
    with client.stream("GET", "/v1/diagnostics/bundle") as response:
        name = options.output or _file_name(response.headers.get("Content-Disposition", ""))
        answer = {"file": name, "bytes": _save(response, name)}
    return answer, print_saved


def _file_name(disposition: str) -> str:
    """The name that the VM gives it, below the folder where we are."""
    name = disposition.rpartition("filename=")[2].strip('"').rpartition("/")[2]
    return name or "sysvm-bundle.tar.gz"


def _save(response: http.client.HTTPResponse, name: str) -> int:
    """Write an answer to a file, `-` for standard output; how many bytes it had."""
    if name == "-":
        return _copy(response, sys.stdout.buffer)
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        hint = "name a file that can be written by -o, or - for output"
        raise Unusable(error.strerror or str(error), name, hint) from error
    with os.fdopen(descriptor, "wb") as file:
        return _copy(response, file)


def _copy(response: http.client.HTTPResponse, file: BinaryIO) -> int:
    size = 0
    while part := response.read1(65536):
        file.write(part)
        file.flush()
        size += len(part)
    return size


def print_saved(answer: Mapping[str, Any]) -> None:
    if answer["file"] != "-":
        print(f"{plain(answer['file'])}: {answer['bytes']} bytes")


def add_to(commands: Commands) -> None:
    diag = commands.group("diag", "try something from this VM")
    for name, tool, text, examples in (
        (
            "ping",
            "ping",
            "does an address or a name answer",
            ("diag ping 10.1.1.10", "diag ping 10.1.1.10 -- -c 3 -s 1472 -M do"),
        ),
        (
            "trace",
            "traceroute",
            "which routers are on the way",
            ("diag trace 8.8.8.8", "diag trace vm1.example -- -n -T -p 443"),
        ),
        (
            "arping",
            "arping",
            "does a neighbour answer, below IP",
            ("diag arping 10.1.1.10", "diag arping 192.0.2.1 -- -I eth1 -c 2"),
        ),
    ):
        parser = diag.add(name, attempt, text, *examples)
        parser.set_defaults(tool=tool)
        parser.add_argument("target", metavar="TARGET", help="an IP address, or a name")
        parser.add_argument("arguments", nargs="*", metavar="OPTION", help=f"{tool}'s, after --")
        version = parser.add_mutually_exclusive_group()
        for family in (4, 6):
            version.add_argument(
                f"-{family}",
                dest="family",
                action="store_const",
                const=family,
                help=f"by IPv{family}",
            )
        parser.add_argument(
            "--seconds",
            type=number(1, LONGEST),
            metavar="S",
            help="end it after so long; default 60",
        )
    parser = diag.add(
        "bundle",
        fetch_bundle,
        "all that there is to say of this VM, without secrets, as a tar.gz",
        "diag bundle",
        "diag bundle -o /tmp/ticket-4711.tar.gz",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="- for standard output")
    parser = diag.add(
        "capture",
        capture,
        "packets on a NIC, as a file for tcpdump -r or Wireshark",
        "diag capture --nic eth2 --seconds 10 -w eth2.pcap",
        "diag capture --nic eth0 --host 10.1.1.10 --protocol udp --port 53 -w - | tcpdump -nr -",
    )
    parser.add_argument("--nic", required=True, metavar="NIC", help="any for all of them")
    parser.add_argument(
        "-w", "--output", required=True, metavar="FILE", help="- for standard output"
    )
    parser.add_argument("--host", action="append", metavar="IP", help="of two, between them")
    parser.add_argument("--network", metavar="NET", help="such as 10.1.1.0/24")
    parser.add_argument("--protocol", metavar="P", help="tcp, udp, icmp, arp, esp, ip6 ...")
    parser.add_argument("--port", action="append", type=number(1, 65_535), metavar="N", help="any")
    parser.add_argument("--direction", choices=("in", "out"), help="default: both")
    for name, most, text in (
        ("snaplen", 65_535, "bytes of each packet; default 256"),
        ("packets", 100_000, "how many; default 10000"),
        ("seconds", LONGEST, "how long; default 30"),
        ("bytes", 64 * 1024 * 1024, "how much in all; default 8 MiB"),
    ):
        parser.add_argument(f"--{name}", type=number(1, most), metavar="N", help=text)
