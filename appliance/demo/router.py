"""What the demo shows of a router: each trial goes from the cloud to words for what came."""

import contextlib
import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from appliance import blobs
from appliance.demo.telling import Chapter, Cloud, Differs, Trial, example, expect
from appliance.image import base, cache, rootfs
from appliance.lab import Lab, state
from appliance.lab.http import Response, exchange
from appliance.lab.node import Node
from appliance.lab.wait import wait_until

# Addresses of the example, examples/router.json, and of the lab's internet.
ROUTER = "10.1.1.1"
FORWARDED = "203.0.113.10"  # port 8080 leads to vm1; guests go out with it
BALANCED = "203.0.113.11"  # port 80 is spread over vm1 and vm2
STATIC = "203.0.113.12"  # is vm2's own
WEB = "198.51.100.10"
STRANGER = "198.51.100.20"  # an address of the internet's that the example does not let in

PAUSE = 0.01  # seconds between two requests of the traffic that has to go on


# -- the lab and the first push ----------------------------------------------------------------


def _root_file_system(cloud: Cloud) -> str:
    if cache.existing("base", base.key()) is None:
        cloud.console.print("  ...     the first time this takes a minute or two")
    layers = rootfs.layers()
    return f"from {layers.base.parents[1]}"


def _boot(cloud: Cloud) -> str:
    before = ""
    if cloud.name in state.names():
        cloud.lab.down()
        before = "the one that was up is taken down; "
    lab = Lab.up("demo", name=cloud.name)
    for vm in lab.vms.values():
        vm.wait_ready()
    for guest in lab.guests.values():
        guest.serve(80)
    lab.guests["vm2"].serve(22, protocol="tcp")
    lab.internet.serve(25, protocol="tcp")
    return f"{before}lab {lab.name} is up"


def _closed(cloud: Cloud) -> str:
    expect(not cloud.lab.internet.pings(FORWARDED), f"{FORWARDED} answers")
    ports = cloud.lab.vm.run(["ss", "-Hltn"]).text.split("\n")
    heard = [line.split()[3] for line in ports if line]
    address = cloud.lab.manager.vm_address
    foreign = [place for place in heard if not place.startswith((address, "127.", "[::1]"))]
    expect(not foreign, f"it listens on {', '.join(foreign)}")
    return "it answers management alone; nothing else listens"


def _upload(cloud: Cloud) -> str:
    (path,) = blobs.beside(example())
    name = cloud.lab.manager.upload(path.read_bytes())
    return f"{path.name}, {path.stat().st_size} bytes, SHA-256 {name[:12]}..."


def _push(cloud: Cloud) -> str:
    answer = cloud.push({})
    expect(answer.status in {200, 201}, _problem(answer))
    value = answer.json()
    cloud.generation = value["generation"]
    return (
        f"{value['result']} as revision {value['revision']}: {len(value['plan'])} steps in "
        f"{value['duration_ms']} ms, read back and probed"
    )


def _problem(answer: Response) -> str:
    value = answer.json()
    lines = [f"HTTP {answer.status}: {value.get('title', '')}"]
    lines += [f"{p['path'] or '/'}: {p['message']}" for p in value.get("problems", [])]
    return "\n".join(lines if len(lines) > 1 else [*lines, value.get("detail", "")])


# -- guests ------------------------------------------------------------------------------------


def _leases(cloud: Cloud) -> str:
    lines = []
    for guest in cloud.lab.guests.values():
        lease = guest.dhcp()
        name, hours = f"{lease.hostname}.{lease.domain}", lease.seconds // 3600
        lines.append(f"{guest.name} is {lease.address}, named {name}, for {hours} h")
    wanted = ["10.1.1.10", "10.1.1.11"]
    found = [row["address"] for row in cloud.get("/v1/show/dhcp") if row["state"] == "leased"]
    expect(found == wanted, f"leased are {found}")
    return "\n".join(lines)


def _names(cloud: Cloud) -> str:
    wanted = {"vm2": "10.1.1.11", "db": "10.1.1.11", "www.example.test": WEB}
    found = {name: " ".join(cloud.vm1.lookup(name)) for name in wanted}
    expect(found == wanted, f"{found}")
    return ", ".join(f"{name} is {address}" for name, address in found.items())


def _way_out(cloud: Cloud) -> str:
    seen = cloud.vm1.curl("http://www.example.test/").text.strip()
    expect(seen == f"internet sees {FORWARDED}", seen)
    return f'"{seen}"'


def _no_mail(cloud: Cloud) -> str:
    place = "/firewall/egress/rules/no-mail"
    before = cloud.packets(place)
    expect(not cloud.vm1.reaches(WEB, 25), "it is let out")
    expect(cloud.lab.internet.reaches(WEB, 25), "the mail server does not run")
    after = cloud.packets(place)
    expect(after > before, f"the rule {place} counted nothing")
    return f"no answer; rule {place} dropped {after - before}"


# -- what is let in ----------------------------------------------------------------------------


def _fetch(node: Node, address: str, port: int, source: str | None = None) -> Response:
    sock = node.connect(address, port, source=source)
    return exchange(sock, "GET", "/", host=address)


def _forward(cloud: Cloud) -> str:
    place = f"/firewall/ingress/{FORWARDED}/web"
    before = cloud.packets(place)
    seen = _fetch(cloud.lab.internet, FORWARDED, 8080, WEB).text.strip()
    expect(seen == f"vm1 sees {WEB}", seen)
    after = cloud.packets(place)
    expect(after > before, f"the rule {place} counted nothing")
    return f'"{seen}"; rule {place} let in {before} -> {after}'


def _dropped(node: Node, address: str, port: int, source: str | None = None) -> bool:
    try:
        node.connect(address, port, source=source, timeout=1).close()
    except OSError:
        return True
    return False


def _kept_out(cloud: Cloud) -> str:
    place = f"/firewall/ingress/{FORWARDED}"
    before = cloud.packets(place)
    internet = cloud.lab.internet
    expect(_dropped(internet, FORWARDED, 8080, STRANGER), f"{STRANGER} is let in")
    after = cloud.packets(place)
    expect(after > before, f"the rule {place} counted nothing")
    return f"no answer; rule {place} dropped {before} -> {after}"


def _scan(cloud: Cloud) -> str:
    ports = (22, 53, 67, 80, 443, 3922, 8443)
    internet = cloud.lab.internet
    with ThreadPoolExecutor(len(ports)) as pool:
        reached = list(pool.map(lambda port: internet.reaches(FORWARDED, port), ports))
    found = [port for port, answers in zip(ports, reached, strict=True) if answers]
    expect(not found, f"ports {found} answer")
    return f"none of {', '.join(map(str, ports))} answers"


def _static(cloud: Cloud) -> str:
    with cloud.lab.internet.connect(STATIC, 22) as sock:
        inward = sock.recv(100).decode().strip()
    outward = cloud.vm2.curl("http://www.example.test/").text.strip()
    wanted = ("vm2 sees 203.0.113.1", f"internet sees {STATIC}")
    expect((inward, outward) == wanted, f"{inward}; {outward}")
    return f'in: "{inward}"; out: "{outward}"'


def _hairpin(cloud: Cloud) -> str:
    seen = [_fetch(guest, FORWARDED, 8080).text.strip() for guest in (cloud.vm2, cloud.vm1)]
    expect(seen == [f"vm1 sees {ROUTER}"] * 2, f"{seen}")
    return f'from vm2: "{seen[0]}"; from vm1 itself: "{seen[1]}"'


# -- load balancer -----------------------------------------------------------------------------


def _spread(cloud: Cloud, requests: int = 20) -> Counter[str]:
    internet = cloud.lab.internet
    answers = [_fetch(internet, BALANCED, 80) for _ in range(requests)]
    return Counter(answer.headers.get("x-server", f"HTTP {answer.status}") for answer in answers)


def _counted(found: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(found.items()))


def _wait_healthy(cloud: Cloud) -> None:
    """Health checks began before the guests had addresses: wait until both servers are good."""

    def healthy() -> bool:
        rows = cloud.get("/v1/show/load-balancer")
        servers = {row["server"]: row["status"] for row in rows}
        return all(servers.get(name, "").startswith("UP") for name in ("vm1", "vm2"))

    wait_until(healthy, 10, "both servers found healthy by haproxy", every=0.1)


def _balance(cloud: Cloud) -> str:
    _wait_healthy(cloud)
    found = _spread(cloud)
    expect(found == {"vm1": 10, "vm2": 10}, _counted(found))
    return _counted(found)


def _drain(cloud: Cloud) -> str:
    before, pids = cloud.revision(), cloud.pids()
    etag = cloud.lab.manager.request("GET", "/v1/document").headers["etag"]
    headers = {"If-Match": etag, "Content-Type": "application/merge-patch+json"}
    patch = example("patch-drain.json").read_bytes()
    answer = cloud.lab.manager.request("PATCH", "/v1/document", body=patch, headers=headers)
    expect(answer.status == 200, _problem(answer))
    cloud.generation = answer.json()["generation"]
    found = _spread(cloud)
    expect(found == {"vm2": 20}, _counted(found))
    expect(cloud.pids() == pids, "a daemon was restarted")
    cloud.undrained = before
    taken = answer.json()["duration_ms"]
    return (
        f"{cloud.revision()} in {taken} ms, no daemon restarted; vm1 is drained: {_counted(found)}"
    )


def _roll_back(cloud: Cloud) -> str:
    told = cloud.lab.vm.run(["sysvmctl", "rollback"]).text.strip().splitlines()[-1]
    found = _spread(cloud)
    expect(set(found) == {"vm1", "vm2"}, _counted(found))
    return f"{told}\nwhat {cloud.undrained} said runs again: {_counted(found)}"


# -- user data ---------------------------------------------------------------------------------


def _user_data(cloud: Cloud) -> str:
    url = "http://data-server/latest"
    found = cloud.vm1.curl(f"{url}/user-data").stdout
    uploaded = example("user-data.txt").read_bytes()
    expect(found == uploaded, f"it got {len(found)} bytes, not the {len(uploaded)} uploaded ones")
    digest = hashlib.sha256(found).hexdigest()
    keys = cloud.vm1.curl(f"{url}/meta-data/").text.split()
    identity = cloud.vm1.curl(f"{url}/meta-data/instance-id").text
    return f"user data {digest[:12]}..., as uploaded; {len(keys)} keys, instance-id is {identity}"


def _other_user_data(cloud: Cloud) -> str:
    url = f"http://{ROUTER}/latest"
    own = cloud.vm2.get(f"{url}/meta-data/instance-id").text
    expect(own == "i-2-11-vm", f"instance-id is {own}")
    status = cloud.vm2.get(f"{url}/user-data").status
    expect(status == 404, f"HTTP {status}")
    return f"HTTP {status}: it has none; its own instance-id is {own}"


def _stolen_address(cloud: Cloud) -> str:
    place = "/user_data/guests/10.1.1.10"
    thief = cloud.vm2
    before = cloud.packets(place)
    # The VM's address must not be asked for by ARP now: that would spoil its table for vm1.
    expect(thief.pings(ROUTER), f"{ROUTER} does not answer")
    thief.run(["ip", "address", "add", "10.1.1.10/32", "dev", thief.nic.name])
    try:
        expect(_dropped(thief, ROUTER, 80, "10.1.1.10"), "it is let in")
    finally:
        thief.run(["ip", "address", "delete", "10.1.1.10/32", "dev", thief.nic.name])
    expect(cloud.packets(place) == before, f"rule {place} let it in")
    own = cloud.vm1.get(f"http://{ROUTER}/latest/meta-data/instance-id").text
    expect(own == "i-2-10-vm", f"vm1 itself gets {own}")
    return f"no answer: rule {place} wants vm1's MAC address as well"


# -- what must not work ------------------------------------------------------------------------


@dataclass(slots=True)
class Traffic:
    """Requests out and in, one after another: what must go on whatever is pushed."""

    ways: Sequence[tuple[Node, str, int]]
    asked: int = 0
    answered: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __str__(self) -> str:
        return f"{self.answered} of {self.asked} requests meanwhile answered"

    @contextlib.contextmanager
    def flowing(self) -> Iterator["Traffic"]:
        """Keep asking in the background; every request must be answered."""
        thread = threading.Thread(target=self._ask)
        thread.start()
        try:
            wait_until(lambda: self.asked >= 3, 10, "requests under way")
            yield self
        finally:
            self._stop.set()
            thread.join()
        expect(self.answered == self.asked, str(self))

    def _ask(self) -> None:
        while not self._stop.is_set():
            node, address, port = self.ways[self.asked % len(self.ways)]
            self.asked += 1
            with contextlib.suppress(HTTPException, OSError):
                self.answered += _fetch(node, address, port).status == 200
            self._stop.wait(PAUSE)


def _translated(cloud: Cloud) -> tuple[tuple[Node, str, int], ...]:
    """Out by source NAT, in by the port forward."""
    return (cloud.vm1, WEB, 80), (cloud.lab.internet, FORWARDED, 8080)


WRONG: Mapping[str, Any] = {
    "dhcp_dns": {"hosts": {"02:00:0a:01:01:0a": {"address": "10.9.9.9"}}},
    "firewall": {"ingress": {"203.0.113.99": {"ssh": {"protocol": "tcp", "ports": 22}}}},
    "nat": {"forwards": {"web": {"to": "192.0.2.7"}}},
}


def _refused(cloud: Cloud) -> str:
    before, pids = cloud.revision(), cloud.pids()
    balanced = (cloud.lab.internet, BALANCED, 80)
    with Traffic((*_translated(cloud), balanced)).flowing() as traffic:
        answer = cloud.push(WRONG)
    expect(answer.status == 422, _problem(answer))
    expect(len(answer.json()["problems"]) == len(WRONG), _problem(answer))
    expect((cloud.revision(), cloud.pids()) == (before, pids), "something was changed")
    return f"{_problem(answer)}\n{before} runs on, no daemon restarted; {traffic}"


HOLDS = """\
import socket, sys
sock = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
sys.stdin.read()
"""


def _does_not_hold(cloud: Cloud) -> str:
    before = cloud.revision()
    port = 8081
    listener = {"address": BALANCED, "port": port, "servers": {}}
    squatter = cloud.lab.vm.popen(["python3", "-c", HOLDS, BALANCED, str(port)], stdin=True)
    try:
        if squatter.stdout is None or squatter.stdout.readline() != b"ready\n":
            raise Differs(f"nothing holds port {port}")
        # Not through haproxy: while it tries to bind, it does not accept, for two seconds.
        with Traffic(_translated(cloud)).flowing() as traffic:
            answer = cloud.push({"load_balancer": {"listeners": {"more": listener}}})
    finally:
        squatter.communicate()  # it ends with its input
    expect(answer.status >= 400, "it was committed")
    expect(cloud.revision() == before, f"{cloud.revision()} runs, not {before}")
    _wait_healthy(cloud)
    return f"{_problem(answer)}\n{before} runs again; {traffic}"


# -- reboot ------------------------------------------------------------------------------------


def _reboot(cloud: Cloud) -> str:
    place = f"/firewall/ingress/{FORWARDED}/web"
    counted, before = cloud.packets(place), cloud.revision()
    internet, vm = cloud.lab.internet, cloud.lab.vm
    began = time.monotonic()
    vm.reboot(wait=False)
    wait_until(lambda: internet.reaches(FORWARDED, 8080, timeout=0.2), 30, "traffic after boot")
    back = time.monotonic() - began
    vm.wait_running()
    vm.wait_ready()
    expect(cloud.revision() == before, f"{cloud.revision()} runs, not {before}")
    after = cloud.packets(place)
    expect(after > counted, f"the counters began anew: {counted} -> {after}")
    return (
        f"{before} again; traffic flows {back:.1f} s after the order to reboot; counters go on: "
        f"{counted} -> {after}"
    )


def _still_leased(cloud: Cloud) -> str:
    rows = cloud.get("/v1/show/dhcp")
    found = [f"{row['name']} {row['address']}" for row in rows if row["state"] == "leased"]
    expect(found == ["vm1 10.1.1.10", "vm2 10.1.1.11"], f"leased are {found}")
    return f"{', '.join(found)}; neither guest asked again"


def _still_strict(cloud: Cloud) -> str:
    seen = _fetch(cloud.lab.internet, FORWARDED, 8080, WEB).text.strip()
    expect(seen == f"vm1 sees {WEB}", seen)
    expect(_dropped(cloud.lab.internet, FORWARDED, 8080, STRANGER), f"{STRANGER} is let in")
    drift = cloud.get("/v1/drift")
    expect(not drift["drift"], "\n".join(drift["plan"]))
    return f'{WEB}: "{seen}"; {STRANGER}: no answer; drift: none'


SERVES: tuple[Chapter, ...] = (
    Chapter(
        "A cloud on this machine",
        (
            Trial("the template's root file system (built if the cache has none)",
                  _root_file_system),
            Trial("two VMs, two guests, the internet and management are booted", _boot),
            Trial("the router knows nothing yet: it is closed", _closed),
        ),
    ),
    Chapter(
        "Management pushes one document",
        (
            Trial("the guests' user data is uploaded, once", _upload),
            Trial("examples/router.json is pushed, over mutual TLS", _push),
        ),
    ),
    Chapter(
        "Guests get what they need",
        (
            Trial("vm1 and vm2 ask for an address (DHCP)", _leases),
            Trial("vm1 looks up names (DNS)", _names),
            Trial("vm1 fetches http://www.example.test/ (source NAT)", _way_out),
            Trial("vm1 sends mail, which the document forbids (egress)", _no_mail),
        ),
    ),
    Chapter(
        "What is let in, and what is not",
        (
            Trial(f"{WEB} asks {FORWARDED} port 8080, which leads to vm1", _forward),
            Trial(f"{STRANGER} asks the same, but is not in the rule's list", _kept_out),
            Trial(f"the internet tries other ports of {FORWARDED}", _scan),
            Trial(f"{STATIC} is vm2, both ways (static NAT)", _static),
            Trial(f"guests ask {FORWARDED} port 8080 from inside (hairpin)", _hairpin),
        ),
    ),
    Chapter(
        "The load balancer",
        (
            Trial(f"20 requests to {BALANCED}", _balance),
            Trial("PATCH by examples/patch-drain.json, 20 requests", _drain),
            Trial("sysvmctl rollback, 20 requests", _roll_back),
        ),
    ),
    Chapter(
        "User data",
        (
            Trial("vm1 fetches its own from http://data-server/latest/", _user_data),
            Trial("vm2 asks for the same", _other_user_data),
            Trial("vm2 takes vm1's address and asks again", _stolen_address),
        ),
    ),
    Chapter(
        "A document that must not run",
        (
            Trial("one with three mistakes is pushed", _refused),
            Trial("one with a listener on a port that some process holds",
                  _does_not_hold),
        ),
    ),
)  # fmt: skip

COMES_BACK: tuple[Chapter, ...] = (
    Chapter(
        "A reboot",
        (
            Trial("the VM is rebooted", _reboot),
            Trial("leases are as they were", _still_leased),
            Trial("rules are as they were", _still_strict),
        ),
    ),
)  # fmt: skip
