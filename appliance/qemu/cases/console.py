"""The image as a console proxy: a guest's screen through it, and what it cannot reach."""

import json
import secrets
from typing import Any

from agent.services.console import UNIT, USER
from appliance.lab.consoles import session
from appliance.lab.faults import example
from appliance.lab.hypervisor import Hypervisor, Screen
from appliance.lab.topologies import Kvm
from appliance.lab.viewer import viewing
from appliance.lab.wait import wait_until
from appliance.qemu.bench import Bench
from appliance.qemu.cases.check import Checks, check, no_failed_units, unit_property
from appliance.qemu.machine import Machine

ADDRESS = "203.0.113.10"
NAME = "203-0-113-10.console.example.test"


def console(bench: Bench) -> Checks:
    """noVNC, websockify and the loop are in the image; the kernel has what the wall needs."""
    bench.discard()
    vm = bench.started()
    answer = bench.cloud.push(document(bench))
    said = answer.text[:1000]
    yield check("a document makes it a console proxy", answer.status in {200, 201}, said)
    yield check("its unit runs", unit_property(vm, UNIT, "ActiveState") == "active")
    page = bench.cloud.internet.curl(
        f"https://{NAME}/novnc/core/rfb.js",
        *("--insecure", "--resolve", f"{NAME}:443:{ADDRESS}"),
        timeout=30,
        check=False,
    )
    yield check(
        "it serves noVNC over TLS", "export default class RFB" in page.text, page.text[:200]
    )
    hypervisor = Hypervisor(
        bench.cloud.name,
        bench.cloud.internet.name,
        bench.cloud.internet.folder,
        Kvm(bench.cloud.internet.spec.nics),
        bench.cloud.folder / "keys",
    )
    screen = hypervisor.desktop(bench.cloud.internet)
    try:
        yield from _seen(bench, screen)
        yield from _walled(vm, screen)
    finally:
        screen.close()
        hypervisor.tidy()
    yield from no_failed_units("as a console proxy", vm)
    bench.discard()


def document(bench: Bench) -> dict[str, Any]:
    """A document for a proxy with a certificate of the lab's CA."""
    authority = bench.cloud.keys.authority
    identity = authority.issue(f"*.{NAME.partition('.')[2]}")
    given = example(0)
    kept = {name: given[name] for name in ("schema", "generation", "site")}
    section = {
        "networks": ["203.0.113.1/32"],
        "domain": f"*.{NAME.partition('.')[2]}",
        "certificates": {
            "server": identity.certificate,
            "root": authority.identity.certificate,
        },
        "key": identity.key,
    }
    return {**kept, "role": "console-proxy", "console": section}


def _seen(bench: Bench, screen: Screen) -> Checks:
    secret = secrets.token_urlsafe(32)
    body = json.dumps(session(secret, screen, "vm1")).encode()
    headers = {"Content-Type": "application/json"}
    path = "/v1/console/sessions/proof"
    answer = bench.cloud.manager.request("PUT", path, body=body, headers=headers)
    yield check("a session is taken in", answer.status == 201, answer.text[:500])
    sock = bench.cloud.internet.connect(ADDRESS, 443, timeout=30)
    authority = bench.cloud.keys.authority.identity.certificate
    with viewing(sock, authority, f"https://{NAME}/#s={secret}") as viewer:
        frame = viewer.frame()
        size = (frame.width, frame.height)
        yield check("a screen is seen", size == (640, 400) and frame.colours > 1, f"{size}")
        viewer.type("echo seen > typed\n")
        typed = screen.folder / "typed"
        wait_until(typed.exists, 30, "what was typed")
        yield check("what is typed arrives", typed.exists())


def _walled(vm: Machine, screen: Screen) -> Checks:
    """Its user reaches the screen and nothing else; root reaches what it did."""

    def opens(user: str, port: int) -> bool:
        code = f"import socket; socket.create_connection(('{screen.address}', {port}), 3)"
        argv = ["setpriv", f"--reuid={user}", "--clear-groups", "/usr/bin/python3", "-c", code]
        return vm.run(argv, check=False).returncode == 0

    yield check("its user reaches the screen", opens(USER, screen.port))
    yield check("and nothing else there", not opens(USER, 80))
    yield check("which root does", opens("root", 80))
