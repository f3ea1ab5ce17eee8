"""The boot configuration of this machine: found, settled on, kept, and told to whoever asks.

    /run/sysvm/boot.json         what this boot goes by; the agent reads nothing else
    /run/sysvm/boot-status.json  where it came from and what is wrong, for everybody to read
    /var/lib/sysvm/boot.json     the last good one, for a reboot in which no channel has any
    /var/lib/sysvm/firewall/told a digest of the credential that this boot goes by
    /run/sysvm/resolv.conf       whom the VM asks for names
    /run/sysvm/time/ntp.sources  whom it asks for the time, in a sourcedir of chrony.conf(5)

What is handed in and broken is not made up for by what was kept: the VM stays closed, and says
why. Where nobody hands in anything (a reset at a hypervisor's console), what was kept is used.
"""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.document import boot, cloudstack_boot
from agent.document.boot import BootConfig, InvalidBootConfig, NoSuchNic
from agent.document.boot_source import NOTHING, Form, Found, Settled, Source, understand
from agent.engine.host import HostFull, StepFailed
from agent.engine.model import Link, Problem
from agent.system import boot_channels, credentials, files
from agent.system.boot_channels import Places
from agent.system.credentials import Credential
from agent.system.files import Disk
from agent.system.paths import Paths

log = logging.getLogger(__name__)

NIC_WAIT = 20.0  # seconds for which NICs may be late: the restore begins before udev is through
PORT_WAIT = 5.0  # seconds for which the host may be late at the virtio-serial port
_NIC_PAUSE = 0.2  # seconds
_LISTEN_PAUSE = 1.0  # seconds

Links = Callable[[], Sequence[Link]]


def _running(paths: Paths) -> Path:
    return paths.run / "boot.json"


def _status(paths: Paths) -> Path:
    return paths.run / "boot-status.json"


def _kept(paths: Paths) -> Path:
    return paths.state / "boot.json"


# -- what this boot goes by ----------------------------------------------------------------------


def load(paths: Paths) -> BootConfig | None:
    """What this boot goes by; None where there is nothing, and the VM is closed."""
    try:
        return boot.parse(_running(paths).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, InvalidBootConfig) as error:
        log.error("%s cannot be used: %s", _running(paths), error)
        return None


def settle(paths: Paths, places: Places, links: Links) -> Settled:
    """Look at every channel that this hypervisor has, once, and decide what to go by."""
    (paths.run / "boot-late").unlink(missing_ok=True)  # what comes from here on is news
    found = boot_channels.look(places)
    if found is None and boot_channels.wait_for_devices(places):
        # With something to fall back on, the host is not waited for: what comes later is taken.
        wait = 0.0 if _kept(paths).exists() else PORT_WAIT
        found = boot_channels.look(places, port_wait=wait)
    if found is None:
        return _fall_back(paths)
    settled = _understood(found, links, NIC_WAIT)
    if found.source is Source.VIRTIO_SERIAL and not places.from_port.exists():
        boot_channels.answer(places.port, settled.problems)
        if settled.config is not None:
            _hand_on(places, found.data)
    return settled


def _understood(found: Found, links: Links, wait: float) -> Settled:
    """What was found, once the NICs that it speaks of are there or do not come."""
    deadline = time.monotonic() + wait
    while True:
        try:
            config = understand(found, links())
        except NoSuchNic as error:
            if time.monotonic() < deadline:
                time.sleep(_NIC_PAUSE)
                continue
            return Settled(found.source, problems=error.problems)
        except InvalidBootConfig as error:
            return Settled(found.source, problems=error.problems)
        _say_what_is_ignored(found)
        return Settled(found.source, config)


def _say_what_is_ignored(found: Found) -> None:
    if found.form is Form.CLOUDSTACK:
        keys = cloudstack_boot.ignored(found.data.decode("ascii"))
        log.info("boot configuration: keys that are left alone: %s", ", ".join(keys) or "none")


def _fall_back(paths: Paths) -> Settled:
    try:
        config = boot.parse(_kept(paths).read_bytes())
    except FileNotFoundError:
        return NOTHING
    except OSError as error:
        problem = Problem("", f"what an earlier boot kept cannot be read: {error.strerror}")
        return Settled(Source.KEPT, problems=(problem,))
    except InvalidBootConfig as error:
        said = tuple(replace(p, message=f"kept by an earlier boot: {p.message}")
                     for p in error.problems)  # fmt: skip
        return Settled(Source.KEPT, problems=said)
    log.warning("no channel has a boot configuration: going by what an earlier boot kept")
    return Settled(Source.KEPT, config)


def record(paths: Paths, settled: Settled, running: BootConfig | None = None) -> None:
    """Go by this from now on: written down for the agent, for people, and for the next boot.

    What cannot be used closes no VM that is `running` by something else; it is told, though.
    """
    for problem in settled.problems:
        log.error("boot configuration (%s): %s", settled.source, problem)
    config = settled.config
    if config is None and running is not None:
        settled = replace(settled, config=running)
    elif config is None:
        _running(paths).unlink(missing_ok=True)
    else:
        files.write(_running(paths), boot.serialize(config), mode=0o600, durable=False)
        _apply(paths, config)
        if settled.source is not Source.KEPT:
            _keep(paths, config)
    _vouch(paths, settled)
    tell(paths, settled)


def tell(paths: Paths, settled: Settled) -> None:
    """Let the console's banner, and everybody on the VM, know."""
    text = json.dumps(settled.status()).encode() + b"\n"
    files.write(_status(paths), text, mode=0o644, durable=False)


def is_closed(paths: Paths) -> bool:
    """Was something handed in that cannot be used, so that nothing may be brought up?"""
    try:
        told: dict[str, Any] = json.loads(_status(paths).read_bytes())
    except (OSError, ValueError):
        return False
    return not told["ok"] and told["source"] not in {Source.NONE, Source.KEPT}


def _keep(paths: Paths, config: BootConfig) -> None:
    text = boot.serialize(config)
    path = _kept(paths)
    try:
        if not path.exists() or path.read_bytes() != text:
            Disk().write(path, text, 0o600)
    except (HostFull, StepFailed, OSError) as error:
        log.warning("the boot configuration cannot be kept for the next boot: %s", error)


def _vouch(paths: Paths, settled: Settled) -> None:
    """For share/firewall, by sha256sum: the next boot that is told the very same goes by it, too.

    Another channel than the first would have to be looked for, and takes its time anyhow.
    """
    path = paths.state / "firewall/told"
    data = credentials.read(Credential.BOOT) if settled.source is Source.CREDENTIAL else None
    try:
        if data is None or settled.problems:
            Disk().remove(path)
            return
        digest = hashlib.sha256(data).hexdigest()
        text = f"{digest}  {credentials.FOLDER / Credential.BOOT}\n".encode()
        if not path.exists() or path.read_bytes() != text:
            Disk().write(path, text, durable=False)
    except (HostFull, StepFailed, OSError) as error:
        log.warning("the next boot will have to wait for its network: %s", error)


def _apply(paths: Paths, config: BootConfig) -> None:
    """What the VM's own libraries and chrony read; an absent setting leaves an empty file."""
    servers = config.resolver.servers if config.resolver else ()
    names = "".join(f"nameserver {address}\n" for address in servers)
    domain = f"search {config.domain}\n" if config.domain else ""
    sources = config.time.ntp_servers if config.time else ()
    times = "".join(f"server {name} iburst\n" for name in sources)
    files.make_folder(paths.run / "time")
    for name, text in (("resolv.conf", domain + names), ("time/ntp.sources", times)):
        files.write(paths.run / name, text.encode(), durable=False)


# -- what comes later ----------------------------------------------------------------------------


def listen(places: Places, links: Links, stop: threading.Event) -> None:
    """Take what the host sends by the virtio-serial port, answer, and hand it on.

    `sysvm-boot-late.path` sees the file, and has the VM go by it.
    """
    while not stop.wait(_LISTEN_PAUSE):
        data = boot_channels.receive(places.port, 0.0)
        if data is None:
            continue
        found = Found(Source.VIRTIO_SERIAL, Form.JSON, data)
        settled = _understood(found, links, 0.0)
        for problem in settled.problems:
            log.error("boot configuration (%s): %s", settled.source, problem)
        if settled.config is not None:
            _hand_on(places, data)
        boot_channels.answer(places.port, settled.problems)


def _hand_on(places: Places, data: bytes) -> None:
    """Keep what came by the port where every look of this boot finds it."""
    files.make_folder(places.from_port.parent, 0o700)
    files.write(places.from_port, data, mode=0o600, durable=False)
