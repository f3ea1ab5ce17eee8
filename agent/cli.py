"""sysvmctl: ask and change this system VM, through the agent's Unix socket.

It is one file on the standard library alone, and imports nothing of the agent, so that it starts
in tens of milliseconds and still says something useful when the agent is broken. Exit codes: 0
well, 1 the VM said no, 2 wrong usage or the agent cannot be reached.
"""

import argparse
import contextlib
import http.client
import itertools
import json
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

SOCKET = "/run/sysvm/control.sock"
CHANGE_TIMEOUT = 300.0  # seconds; a change waits for daemons, and for the one before it
WIDTH = 80  # columns, where the terminal does not say that it has more

OK, SAID_NO, UNUSABLE = 0, 1, 2


class Unusable(Exception):
    """What was asked cannot be sent: what, where, and what to do next."""

    def __init__(self, what: str, where: str, hint: str) -> None:
        super().__init__(f"{where}: {what}")
        self.hint = hint


class SaidNo(Exception):
    """The VM answered with a problem (RFC 9457)."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(problem.get("title", "the VM said no"))
        self.problem = problem

    @property
    def name(self) -> str:
        return str(self.problem.get("type", "")).rpartition("/")[2] or "problem"


# -- the wire ----------------------------------------------------------------------------------


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("sysvm", timeout=CHANGE_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """The agent behind its socket."""

    def __init__(self, path: str) -> None:
        self._path = path

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[bytes, http.client.HTTPMessage]:
        """The answer's content and header. Raises SaidNo, Unusable."""
        connection = _UnixConnection(self._path)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                # Broken off: it has answered before it has read everything, which is too large.
                connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()
        if response.status >= 400:
            raise SaidNo(_problem(response.status, content))
        return content, response.headers

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        return json.loads(self.send("GET", path)[0])

    def _unreachable(self, error: Exception) -> Unusable:
        where = self._path
        match error:
            case FileNotFoundError():
                return Unusable(
                    "there is no such socket",
                    where,
                    "is the agent up? systemctl status sysvm-agent",
                )
            case PermissionError():
                return Unusable(
                    "permission denied", where, "be root, or a member of the group sysvm"
                )
            case ConnectionRefusedError():
                return Unusable("nobody answers", where, "systemctl restart sysvm-agent")
            case TimeoutError():
                return Unusable(
                    "no answer in time", where, "journalctl -u sysvm-agent has what it does"
                )
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Unusable(f"the connection broke: {reason}", where, "journalctl -u sysvm-agent")


def _problem(status: int, content: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    if isinstance(value, dict):
        return value
    return {"type": "", "title": f"HTTP status {status}", "status": status, "detail": ""}


# -- text --------------------------------------------------------------------------------------


def plain(text: object) -> str:
    """Text that is safe on a terminal: guests choose their names, daemons what they log."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def duration(seconds: float | None) -> str:
    """A length of time in its two greatest units."""
    if seconds is None:
        return "-"
    left = int(seconds)
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (unit, size), (lesser, part) in itertools.pairwise(units):
        if left >= size:
            rest = left % size // part
            return f"{left // size} {unit}" + (f" {rest} {lesser}" if rest else "")
    return f"{left} s"


def amount(number: int | None) -> str:
    """A number to three digits and a decimal prefix; exact ones are in --json."""
    if number is None:
        return "-"
    value = float(number)
    for prefix in ("", "k", "M", "G", "T"):
        if value < 999.5 or prefix == "T":
            break
        value /= 1000
    return f"{value:.1f}{prefix}" if prefix and value < 9.95 else f"{value:.0f}{prefix}"


def memory(number: int | None) -> str:
    return "-" if number is None else f"{number / 2**20:.0f} MiB"


def width() -> int:
    """Columns to print in: never fewer than a serial console has."""
    try:
        return max(WIDTH, os.get_terminal_size(sys.stdout.fileno()).columns)
    except (OSError, ValueError):
        return WIDTH


def table(titles: Sequence[str], rows: Iterable[Sequence[object]], indent: str = "") -> list[str]:
    """Lines of a table that fits the screen: the widest columns are wrapped as far as needed.

    A title that begins with '>' names a column of numbers, which stand to the right.
    """
    right = [title.startswith(">") for title in titles]
    cells = [[title.lstrip(">") for title in titles]]
    cells += [[plain(cell) for cell in row] for row in rows]
    if len(cells) == 1:
        return [f"{indent}nothing"]
    room = width() - len(indent) - 2 * (len(titles) - 1)
    widths = _fit([max(len(row[i]) for row in cells) for i in range(len(titles))], room)
    return [line for row in cells for line in _row(row, widths, right, indent)]


def _fit(widths: list[int], room: int) -> list[int]:
    """Take from the widest columns until they fit."""
    while sum(widths) > room and max(widths) > 8:
        widest = widths.index(max(widths))
        others = [size for i, size in enumerate(widths) if i != widest]
        second = max([*others, 8])
        excess = sum(widths) - room
        widths[widest] -= max(1, min(excess, widths[widest] - second))
    return widths


def _row(
    row: Sequence[str], widths: Sequence[int], right: Sequence[bool], indent: str
) -> Iterator[str]:
    columns = [_wrap(cell, size) for cell, size in zip(row, widths, strict=True)]
    for height in range(max(map(len, columns))):
        parts = [
            f"{(c[height] if height < len(c) else ''):{'>' if to_right else '<'}{size}}"
            for c, size, to_right in zip(columns, widths, right, strict=True)
        ]
        yield f"{indent}{'  '.join(parts)}".rstrip()


def _wrap(text: str, size: int) -> list[str]:
    """Lines of at most `size` characters, broken at blanks, and JSON pointers at slashes."""
    lines = []
    blank = "/" if text.startswith("/") else " "
    while len(text) > size:
        cut = text.rfind(blank, 1, size + 1)
        cut = cut if cut > 0 else size
        lines.append(text[:cut].rstrip())
        text = text[cut:].lstrip()
    return [*lines, text]


def say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


# -- changes -----------------------------------------------------------------------------------


def read(name: str) -> bytes:
    """A file's content, or standard input's for `-`."""
    try:
        if name == "-":
            return sys.stdin.buffer.read()
        with open(name, "rb") as file:  # noqa: PTH123 - pathlib would double the time to start
            return file.read()
    except OSError as error:
        reason = error.strerror or str(error)
        raise Unusable(reason, name, "name a file that can be read, or - for input") from error


def print_plan(answer: Mapping[str, Any], none: str) -> None:
    say(plain(line) for line in answer["plan"])
    if not answer["plan"]:
        print(none)


def print_changed(answer: Mapping[str, Any]) -> None:
    """What a change did, and what is still to be done for it."""
    say(plain(line) for line in answer["plan"])
    say(f"warning: {plain(line)}" for line in answer["warnings"])
    print(
        "{result}: revision {revision}, generation {generation}, digest {digest:.12}, "
        "{duration_ms} ms".format(**answer)
    )
    if answer["confirm"]:
        print(
            f"it is undone in {duration(answer['seconds_left'])}, unless you confirm it:\n"
            f"  sysvmctl confirm {answer['revision']}"
        )


def plan(client: Client, options: argparse.Namespace) -> Any:
    answer = client.send("PUT", "/v1/document?dry_run=1", read(options.file))[0]
    return json.loads(answer), lambda a: print_plan(a, "nothing to do")


def apply(client: Client, options: argparse.Namespace) -> Any:
    path = "/v1/document" + (f"?confirm_within={options.confirm:g}" if options.confirm else "")
    return json.loads(client.send("PUT", path, read(options.file))[0]), print_changed


def patch(client: Client, options: argparse.Namespace) -> Any:
    data = read(options.file)
    etag = options.if_match or client.send("HEAD", "/v1/document")[1].get("ETag", "")
    headers = {"If-Match": etag, "Content-Type": "application/merge-patch+json"}
    path = "/v1/document" + (f"?confirm_within={options.confirm:g}" if options.confirm else "")
    return json.loads(client.send("PATCH", path, data, headers)[0]), print_changed


def confirm(client: Client, options: argparse.Namespace) -> Any:
    revision = options.revision
    if revision is None:
        revision = client.get("/v1/revisions")["current"] or 0
    answer = client.send("POST", f"/v1/revisions/{revision}/confirm", b"")[0]
    return json.loads(answer), print_changed


def rollback(client: Client, options: argparse.Namespace) -> Any:
    body = {} if options.revision is None else {"revision": options.revision}
    answer = client.send("POST", "/v1/rollback", json.dumps(body).encode())[0]
    return json.loads(answer), print_changed


def blob_put(client: Client, options: argparse.Namespace) -> Any:
    import hashlib

    data = read(options.file)
    name = hashlib.sha256(data).hexdigest()
    answer = client.send("PUT", f"/v1/blobs/{name}", data)[0]
    return json.loads(answer), lambda a: print(a["sha256"])


# -- revisions ---------------------------------------------------------------------------------


def history(client: Client, _: argparse.Namespace) -> Any:
    return client.get("/v1/revisions"), print_history


def print_history(answer: Mapping[str, Any]) -> None:
    rows = [
        (
            row["revision"],
            row["state"],
            row["generation"],
            row["digest"][:12],
            f"{duration(row['age'])} ago",
            row["cause"] + (f" to {row['origin']}" if row["origin"] is not None else ""),
        )
        for row in answer["revisions"]
    ]
    say(table((">REVISION", "STATE", ">GENERATION", "DIGEST", "WHEN", "CAUSE"), rows))


def diff(client: Client, options: argparse.Namespace) -> Any:
    import difflib

    old, new = _two_revisions(client, options.a, options.b)
    texts = [
        json.dumps(client.get(f"/v1/revisions/{n}")["document"], indent=2, sort_keys=True)
        for n in (old, new)
    ]
    lines = list(
        difflib.unified_diff(
            texts[0].splitlines(),
            texts[1].splitlines(),
            f"revision {old}",
            f"revision {new}",
            lineterm="",
        )
    )
    answer = {"from": old, "to": new, "diff": lines}
    return answer, lambda a: say(map(plain, a["diff"] or ["the documents are the same"]))


def _two_revisions(client: Client, old: int | None, new: int | None) -> tuple[int, int]:
    """The revisions to compare: the one before and the one that runs, where none are named."""
    if old is not None and new is not None:
        return old, new
    answer = client.get("/v1/revisions")
    current = answer["current"]
    if current is None:
        raise Unusable("no document has been applied yet", "diff", "sysvmctl apply FILE")
    if old is not None:
        return old, current
    earlier = [r["revision"] for r in answer["revisions"] if r["revision"] < current]
    if not earlier:
        raise Unusable("there is no earlier revision", "diff", "sysvmctl history lists them")
    return max(earlier), current


def drift(client: Client, _: argparse.Namespace) -> Any:
    return client.get("/v1/drift"), lambda a: print_plan(a, "none: the VM is what was asked for")


def schema(client: Client, _: argparse.Namespace) -> Any:
    return client.get("/v1/schema"), lambda a: print(json.dumps(a, indent=2))


# -- the summary -------------------------------------------------------------------------------


def status(client: Client, _: argparse.Namespace) -> Any:
    return client.get("/v1/status"), print_status


def print_status(answer: Mapping[str, Any]) -> None:
    agent = answer["agent"]
    print(f"{plain(answer['hostname'])}  {answer['role'] or 'no role yet'}")
    say(_pair("Up", f"{duration(answer['uptime'])}"))
    text = f"{agent['version']}, {memory(agent['memory'])}, up {duration(agent['uptime'])}"
    say(_pair("Agent", text))
    say(_running(answer))
    if answer["degraded"]:
        say(_pair("DEGRADED", answer["degraded"]))
    if answer["state_problem"]:
        say(_pair("STATE", answer["state_problem"]))
    drifted = {True: "YES: sysvmctl drift says how", False: "none", None: "not known"}
    say(_pair("Drift", drifted[answer["drift"]]))
    say(_last(answer["last"]))
    print("Services")
    say(table(_SERVICE_TITLES, _services(answer["services"]), "  "))
    print("Interfaces")
    say(table(_INTERFACE_TITLES, _interfaces(answer["interfaces"]), "  "))


def _pair(name: str, text: str) -> list[str]:
    return _hang(f"{name:<10}", text)


def _running(answer: Mapping[str, Any]) -> Iterator[str]:
    running = answer["running"]
    if running is None:
        yield from _pair("Revision", "none: nothing has been applied yet; sysvmctl apply FILE")
        return
    text = "{revision}, generation {generation}, digest {digest:.12}, ".format(**running)
    yield from _pair("Revision", f"{text}{duration(running['age'])} ago ({running['cause']})")
    if answer["provisional"]:
        left = duration(answer["seconds_left"])
        text = f"PROVISIONAL, undone in {left}: sysvmctl confirm {running['revision']}"
        yield from _pair("", text)


def _last(last: Mapping[str, Any] | None) -> Iterator[str]:
    if last is None:
        return
    text = f"{last['request']}: {last['result']}"
    detail = f", {last['detail']}" if last["detail"] else ""
    yield from _pair("Last", f"{text}{detail} ({last['at']} by {last['client']})")


# -- services ----------------------------------------------------------------------------------

_SERVICE_TITLES = ("UNIT", "STATE", "UP", ">MEMORY", "NOTE")

_SERVICE_NOTES = {
    (True, True): "",
    (True, False): "WANTED, BUT DOWN",
    (False, True): "RUNS, BUT NOT WANTED",
    (False, False): "not wanted",
}


def _services(rows: Iterable[Mapping[str, Any]]) -> Iterator[Sequence[object]]:
    for row in rows:
        running = row["active"] in {"active", "reloading", "activating"}
        note = _SERVICE_NOTES[row["wanted"], running]
        uptime = duration(row["uptime"]) if running else "-"
        yield row["unit"], row["active"], uptime, memory(row["memory"]), note


def service_list(client: Client, _: argparse.Namespace) -> Any:
    return client.get("/v1/services"), lambda a: say(table(_SERVICE_TITLES, _services(a)))


def service_restart(client: Client, options: argparse.Namespace) -> Any:
    answer = client.send("POST", f"/v1/services/{_quoted(options.unit)}/restart", b"")[0]
    return json.loads(answer), lambda a: say(table(_SERVICE_TITLES, _services([a])))


def logs(client: Client, options: argparse.Namespace) -> Any:
    path = f"/v1/services/{_quoted(options.unit)}/logs?lines={options.lines}"
    return client.get(path), lambda a: say(map(plain, a["lines"]))


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")


def legacy_rules(client: Client, options: argparse.Namespace) -> Any:
    method = "DELETE" if options.remove else "GET"
    answer = json.loads(client.send(method, "/v1/legacy-rules")[0])
    return answer, lambda a: print_legacy(a, removed=options.remove)


def print_legacy(answer: Mapping[str, Any], *, removed: bool) -> None:
    rules = answer["rules"]
    if not rules:
        print("none")
        return
    rows = [(f"ipv{rule['family']}", rule["table"], rule["rule"]) for rule in rules]
    say(table(("FAMILY", "TABLE", "RULE"), rows))
    print("removed" if removed else "sysvmctl legacy-rules --remove removes them")


# -- show --------------------------------------------------------------------------------------

_INTERFACE_TITLES = ("NAME", "ROLE", "LINK", ">MTU", "MAC", "ADDRESSES")


def _interfaces(rows: Iterable[Mapping[str, Any]]) -> Iterator[Sequence[object]]:
    for row in rows:
        addresses = [*row["addresses"], *(f"MISSING {address}" for address in row["missing"])]
        link = "up" if row["up"] else "DOWN"
        yield row["name"], row["role"] or "-", link, row["mtu"], row["mac"], " ".join(addresses)


def print_interfaces(rows: Sequence[Mapping[str, Any]]) -> None:
    say(table(_INTERFACE_TITLES, _interfaces(rows)))


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
        say(_hang("  subnets   ", f"{', '.join(row['local'])} <-> {', '.join(row['remote'])}"))
        say(_hang("  identity  ", f"{row['local_identity']} <-> {row['remote_identity']}"))
        if row["ike"]:
            rekeyed = f", keys renewed {row['rekeyed']}" if row["rekeyed"] else ""
            say(_hang("  with      ", f"{row['ike']}; {row['esp'] or 'no tunnel yet'}{rekeyed}"))
        if row["certificate_expires"]:
            say(_hang("  expires   ", f"{row['certificate_expires']} (the VM's certificate)"))
        if row["reason"]:
            say(_hang("  failed    ", f"{row['failed']}: {row['reason']}"))
    for row in rows:
        if not row["connection"]:
            say(_hang("refused     ", f"{row['failed']}: {row['reason']}"))


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


# -- the command line --------------------------------------------------------------------------

EXAMPLES = """\
first look:
  sysvmctl status                who this VM is, what runs, is it as asked
  sysvmctl show rules            the firewall with its counters
  sysvmctl logs dnsmasq          the last lines of a service's journal

change something:
  sysvmctl plan vm.json          what would be done; nothing is
  sysvmctl apply vm.json         become what it says, or stay what it was
  sysvmctl apply vm.json --confirm 120
                                 go back after 120 s, unless
  sysvmctl confirm               says that all is well
  sysvmctl rollback              back to the document before this one
  echo '{"generation": 8, "site": {"domain": "net1.example"}}' |
    sysvmctl patch -             change one thing

what has been:
  sysvmctl history               revisions, newest first
  sysvmctl diff                  what the last change changed

exit codes: 0 well; 1 the VM said no; 2 wrong usage, or no agent
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        answer, printer = options.run(Client(options.socket), options)
        if options.json:
            print(json.dumps(answer, indent=2))
        else:
            printer(answer)
        sys.stdout.flush()
    except SaidNo as error:
        if options.json:
            print(json.dumps(error.problem, indent=2))
        _complain(error)
        return SAID_NO
    except Unusable as error:
        print(
            *_hang("sysvmctl: ", error), *_hang("  next: ", error.hint), sep="\n", file=sys.stderr
        )
        return UNUSABLE
    except BrokenPipeError:  # `sysvmctl ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("sysvmctl: interrupted; what was begun goes on: sysvmctl status", file=sys.stderr)
        return UNUSABLE
    return OK


# What to do next, where that is another command than the endpoint's own hint would have it.
_NEXT: Mapping[str, str] = {
    "nothing-applied": "sysvmctl apply FILE",
    "no-such-revision": "sysvmctl history lists those that are kept",
    "no-such-unit": "sysvmctl service list has those that are",
    "stale-generation": "apply the newest document, or go back on purpose: sysvmctl rollback",
    "generation-conflict": "compare with what runs (sysvmctl history, diff), then apply it with a "
    "greater generation",
    "not-provisional": "sysvmctl history shows what became of it",
    "awaiting-confirm": "sysvmctl confirm, or sysvmctl rollback, then try again",
    "precondition-failed": "somebody was faster: look at sysvmctl diff, then try again",
    "refused": "correct that in the document, then apply it again",
    "rolled-back": "sysvmctl status and sysvmctl logs UNIT have more; then try again",
    "did-not-hold": "correct that in the document, then apply it again",
    "degraded": "sysvmctl status; then apply a document that works",
    "busy": "try again in a moment",
}


def _complain(error: SaidNo) -> None:
    """What, where, next: on standard error."""
    problem = error.problem
    lines = _hang("sysvmctl: ", f"{error.name}: {error}")
    found = problem.get("problems", [])
    if problem.get("detail") and (not found or error.name == "did-not-hold"):
        lines += _hang("  ", problem["detail"])
    for part in found:
        lines += _hang("  ", f"{part['path'] or '/'}: {part['message']}")
        if part.get("hint"):
            lines += _hang("      ", part["hint"])
    hint = _NEXT.get(error.name) or problem.get("hint")
    if hint:
        lines += _hang("  next: ", hint)
    print("\n".join(lines), file=sys.stderr)


def _hang(label: str, text: object) -> list[str]:
    """A label and its text, wrapped beside it; words stay whole, to be copied from the screen."""
    lines: list[str] = []
    for word in plain(text).split():
        if lines and len(label) + len(lines[-1]) + 1 + len(word) <= width():
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [f"{' ' * len(label) if i else label}{line}" for i, line in enumerate(lines or [""])]


def _seconds(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 3600:
        raise argparse.ArgumentTypeError("from 1 to 3600 seconds")
    return value


def _number(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("a revision's number, as sysvmctl history has it")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sysvmctl",
        description="Ask and change this system VM.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    everywhere = argparse.ArgumentParser(add_help=False)
    _add_everywhere(parser, SOCKET, default_json=False)
    _add_everywhere(everywhere, argparse.SUPPRESS, default_json=argparse.SUPPRESS)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add = _adder(commands, everywhere)
    _add_questions(add)
    _add_changes(add)
    _add_services(add, commands, everywhere)
    return parser


def _add_everywhere(parser: argparse.ArgumentParser, path: str, *, default_json: Any) -> None:
    parser.add_argument(
        "--socket", default=path, metavar="PATH", help=f"the agent's socket, by default {SOCKET}"
    )
    parser.add_argument(
        "--json", action="store_true", default=default_json, help="print JSON, for programs"
    )


Add = Callable[..., argparse.ArgumentParser]


def _adder(commands: Any, everywhere: argparse.ArgumentParser) -> Add:
    def add(name: str, run: Callable[..., Any], text: str, example: str) -> Any:
        parser = commands.add_parser(
            name,
            parents=[everywhere],
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example:\n  sysvmctl {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(run=run)
        return parser

    return add


def _add_questions(add: Add) -> None:
    add("status", status, "the VM on one screen", "status")
    parser = add("show", show, "what it has and does, as a table", "show nat")
    parser.add_argument("what", choices=tuple(SHOWN))
    add("history", history, "the revisions that are kept", "history")
    parser = add("diff", diff, "how the documents of two revisions differ", "diff 4 7")
    parser.add_argument("a", nargs="?", type=_number, help="default: the one before")
    parser.add_argument("b", nargs="?", type=_number, help="default: the one that runs")
    add("drift", drift, "how the VM differs from what was asked for", "drift")
    parser = add(
        "legacy-rules",
        legacy_rules,
        "firewall rules that somebody made beside ours, in the legacy tables",
        "legacy-rules --remove",
    )
    parser.add_argument("--remove", action="store_true", help="remove them")
    parser = add("logs", logs, "the last lines of a unit's journal", "logs haproxy --lines 20")
    parser.add_argument("unit")
    parser.add_argument("-n", "--lines", type=int, default=100, help="how many; default 100")
    add("schema", schema, "the JSON Schema of a document", "schema > document.schema.json")


def _add_changes(add: Add) -> None:
    def file(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", help="- for standard input")

    def wait(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--confirm",
            type=_seconds,
            metavar="S",
            help="undo it after S seconds (1 to 3600), unless sysvmctl confirm comes first",
        )

    file(add("plan", plan, "what applying a document would do; nothing is done", "plan vm.json"))
    parser = add(
        "apply", apply, "become what a document says, or stay what it was", "apply vm.json"
    )
    file(parser)
    wait(parser)
    parser = add(
        "patch", patch, "change some of the document: a merge patch (RFC 7396)", "patch change.json"
    )
    file(parser)
    wait(parser)
    parser.add_argument("--if-match", metavar="ETAG", help="default: the document that runs now")
    parser = add("confirm", confirm, "keep a provisional revision", "confirm")
    parser.add_argument("revision", nargs="?", type=_number, help="default: the one that runs")
    parser = add("rollback", rollback, "go back to an earlier revision", "rollback 4")
    parser.add_argument("revision", nargs="?", type=_number, help="default: the one before")


def _add_services(add: Add, commands: Any, everywhere: argparse.ArgumentParser) -> None:
    service = commands.add_parser("service", help="list or restart the VM's services")
    inner = _adder(
        service.add_subparsers(title="commands", metavar="COMMAND", required=True), everywhere
    )
    inner("list", service_list, "units and how they are", "service list")
    parser = inner("restart", service_restart, "restart a unit", "service restart dnsmasq")
    parser.add_argument("unit")
    blob = commands.add_parser("blob", help="upload what documents name by SHA-256")
    inner = _adder(
        blob.add_subparsers(title="commands", metavar="COMMAND", required=True), everywhere
    )
    parser = inner("put", blob_put, "upload a file and print its SHA-256", "blob put user-data")
    parser.add_argument("file", metavar="FILE", help="- for standard input")


if __name__ == "__main__":
    sys.exit(main())
