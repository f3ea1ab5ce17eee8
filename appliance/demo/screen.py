"""What the demo shows of a console proxy: a guest's screen opened, read and typed into."""

import socket
import time

from appliance.demo.telling import Chapter, Cloud, Trial, expect
from appliance.errors import ApplianceError
from appliance.lab import consoles
from appliance.lab.hypervisor import Screen
from appliance.lab.viewer import Frame, Viewer, viewing
from appliance.lab.wait import wait_until

GUEST = "vm1"
TYPED = "ip -4 -br address show eth0"


def _proxy(cloud: Cloud) -> str:
    """Make the other VM a console proxy."""
    port = consoles.reachable(cloud.lab)
    address = consoles.public_address(cloud.lab)
    reached = cloud.lab.internet.reaches(address, 443)
    expect(reached, f"{address} port 443 does not answer")
    vm = consoles.proxy_of(cloud.lab)
    expect(not cloud.lab.internet.reaches(address, vm.spec.control_port), "the agent answers")
    return (
        f"{vm.spec.hostname} serves consoles at {address} port 443, with a certificate of the "
        f"lab's own; port {port} of this machine leads there"
    )


def _screen(cloud: Cloud) -> Screen:
    return consoles.screen_of(cloud.lab, GUEST)


def _opened(cloud: Cloud) -> str:
    """Open a link, read the screen, and see that the link opens nothing any more."""
    lab, screen = cloud.lab, _screen(cloud)
    port = consoles.reachable(lab)
    link = consoles.offer(lab, f"{consoles.NAME}:{port}", screen, GUEST)
    authority = lab.keys.authority.identity.certificate
    began = time.monotonic()
    with viewing(socket.create_connection(("127.0.0.1", port)), authority, link.url) as console:
        frame = console.frame()
        seconds = time.monotonic() - began
        # What the terminal has not drawn yet comes with the next one.
        frame = wait_until(lambda: _drawn(console), 10, f"a picture of {GUEST}'s") or frame
        came = f'"{console.title}", {frame.width} by {frame.height}, {frame.colours} colours'
        expect(console.title == GUEST and frame.colours > 1, came)
        note = screen.folder / "typed"
        note.unlink(missing_ok=True)
        console.type(f"{TYPED} | tee typed\n")
        wait_until(lambda: note.exists() and note.read_text(), 20, f"what {GUEST} says")
        words = note.read_text().split()
    expect("10.1.1.10/24" in words, " ".join(words))
    try:
        with viewing(socket.create_connection(("127.0.0.1", port)), authority, link.url):
            again = "it opens again"
    except ApplianceError as error:
        again = error.what
    expect("not valid" in again, again)
    return (
        f"{came}: the first whole frame after {seconds:.2f} s\n"
        f"{TYPED}: {' '.join(words)}\n"
        f'the same link once more: "{again}"'
    )


def _drawn(console: Viewer) -> Frame | None:
    """The screen, once there is more on it than one colour."""
    frame = console.frame()
    return frame if frame.colours > 1 else None


def _link(cloud: Cloud) -> str:
    cloud.link = consoles.show(cloud.lab, GUEST).url
    return "it stands below: it opens once, within ten minutes"


SHOWS: tuple[Chapter, ...] = (
    Chapter(
        "A guest's screen in a browser",
        (
            Trial("examples/console-proxy.json is pushed to the other VM", _proxy),
            Trial(f"{GUEST}'s screen is opened through it, and typed into (TLS, WebSocket, VNC)",
                  _opened),
            Trial("a link for you", _link),
        ),
    ),
)  # fmt: skip
