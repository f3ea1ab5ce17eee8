"""A peer that is not ours: libreswan from Debian, on a kernel of its own.

libreswan does ESP in the kernel alone, and its daemon ends at once where the kernel has none. So it
runs in User-Mode Linux, which is a program: Debian's kernel with ESP, as slow as any other process
and no slower, plugged into a network of the lab. Its root is Debian's packages, from the cache,
read-only. What is behind the peer is an address of its own.

Commands go by files in a folder that the host and that kernel share.
"""

import itertools
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from appliance import tools
from appliance.errors import ApplianceError
from appliance.image import archive, base, cache
from appliance.lab import network
from appliance.lab.process import spawn
from appliance.lab.topologies import Nic
from appliance.lab.wait import wait_until

PACKAGES = ("libreswan", "iproute2", "iputils-ping", "kmod", "mount", "user-mode-linux")
CONNECTION = "site"

_TIMEOUT = 30.0
_MEMORY = "256M"

# PID 1. Commands are numbered; what has a code has ended.
_INIT = """\
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs none /run
mount -t tmpfs none /tmp
mkdir -p /run/host /run/nss /run/pluto
mount -t hostfs -o hostfs=/mnt none /run/host
modprobe -a xfrm_user esp4
ip link set lo up
ip address add @own@/24 dev vec0
ip link set vec0 up
ip address add @behind@/32 dev lo
ip route add default via @gateway@
number=1
while true; do
    if [ -e /run/host/$number.sh ]; then
        sh /run/host/$number.sh >/run/host/$number.out 2>&1
        echo $? >/run/host/$number.part
        mv /run/host/$number.part /run/host/$number.code
        number=$((number + 1))
    else
        sleep 0.05
    fi
done
"""

# Everything else is as libreswan has it by itself: its proposals, its lifetimes.
_CONFIGURATION = f"""\
config setup
    nssdir=/run/nss
    secretsfile=/run/ipsec.secrets
    logfile=/run/pluto.log

conn {CONNECTION}
    keyexchange=ikev2
    authby=secret
    left=@own@
    leftsubnet=@here@
    right=@peer@
    rightsubnet=@there@
    auto=add
"""


@dataclass(frozen=True, slots=True)
class Ends:
    """Addresses of the peer's and of ours, and the subnets behind them."""

    own: str
    peer: str
    here: str
    there: str
    behind: str  # the peer's address in `here`
    gateway: str

    def fill(self, text: str) -> str:
        """`text` with these in the place of their names between two @."""
        for name in self.__slots__:
            text = text.replace(f"@{name}@", getattr(self, name))
        return text


@dataclass(frozen=True, slots=True)
class Libreswan:
    """The peer as it runs."""

    folder: Path
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a program in it, to its end; what it prints. Raises ApplianceError."""
        number = next(self._numbers)
        script = self.folder / f"{number}.part"
        script.write_text(shlex.join(argv) + "\n")
        script.rename(self.folder / f"{number}.sh")
        code = self.folder / f"{number}.code"
        wait_until(code.exists, _TIMEOUT, f"{shlex.join(argv)} in the peer")
        said = (self.folder / f"{number}.out").read_text(errors="replace")
        if check and code.read_text().strip() != "0":
            raise ApplianceError(f"{shlex.join(argv)} in the peer: {said.strip()}")
        return said

    def put(self, path: str, text: str) -> None:
        """Write a file in it."""
        self.run("sh", "-c", f"printf %s {shlex.quote(text)} >{path}")

    def begin(self, ends: Ends, secret: str) -> None:
        """Have libreswan run, with one connection, for which it waits."""
        self.put("/run/ipsec.conf", ends.fill(_CONFIGURATION))
        self.secret(ends, secret)
        self.run("ipsec", "initnss", "--nssdir", "/run/nss")
        self.run("/usr/libexec/ipsec/pluto", "--config", "/run/ipsec.conf")
        # A process that it starts loads the connection, and has it listen.
        wait_until(
            lambda: (
                f'"{CONNECTION}"' in self.run("ipsec", "connectionstatus", check=False)
                and "listening for IKE" in self.log()
            ),
            _TIMEOUT,
            "libreswan having its connection",
        )

    def secret(self, ends: Ends, secret: str) -> None:
        """Have this pre-shared key from the next reading on."""
        self.put("/run/ipsec.secrets", f'{ends.own} {ends.peer} : PSK "{secret}"\n')

    def log(self) -> str:
        """What libreswan has logged."""
        return self.run("cat", "/run/pluto.log", check=False)


@contextmanager
def libreswan(lab: str, nic: Nic, ends: Ends, folder: Path) -> Iterator[Libreswan]:
    """Such a peer with a NIC in a network of the lab, switched on; `folder` is its own."""
    tools.need("setpriv", "unshare", "nsenter")
    root = _root()
    shared = folder / "shared"
    shared.mkdir(parents=True)
    init = shared / "init"
    init.write_text(ends.fill(_INIT))
    init.chmod(0o755)
    port = "peer-eth0"
    network.tap(lab, port, nic.network)
    mounts = (
        f"mount --bind /dev {root}/dev",
        f"mount -t proc proc {root}/proc",
        f"mount -t tmpfs none {root / 'tmp'}",
        f"mount --bind {shared} {root}/mnt",
    )
    kernel = (
        *("chroot", str(root), "/usr/bin/linux.uml", f"mem={_MEMORY}", "quiet", "panic=1"),
        *("rootfstype=hostfs", "rootflags=/", "ro", "init=/mnt/init", "con=null", "con0=null,fd:1"),
        "uml_dir=/tmp/",
        f"vec0:transport=tap,ifname={port},depth=128,mac={nic.mac}",
    )
    script = "set -e\n" + "\n".join(mounts) + f"\nexec {shlex.join(kernel)}\n"
    inside = f"--net={network.NETNS / network.namespace(lab, network.SWITCH)}"
    own = ("--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc")
    argv = ["setpriv", "--pdeathsig=KILL", "unshare", *own, "nsenter", inside, "sh", "-c", script]
    process = spawn(argv, output=folder / "console.log")
    peer = Libreswan(shared)
    try:
        yield peer
    finally:
        process.kill()
        process.wait()
        network.unplug_tap(lab, port)


def _root() -> Path:
    """Its root file system, from the cache. Raises ApplianceError."""
    return cache.make("libreswan", cache.digest(archive.SUITE, *PACKAGES), _build) / "root"


def _build(folder: Path) -> None:
    lists, root = folder / "lists", folder / "root"
    debs = archive.Lists(lists).resolve(PACKAGES)
    root.mkdir()
    base.bootstrap(root, PACKAGES, debs, int(time.time()))
    # Where that kernel's modprobe looks.
    (root / "usr/lib/modules").symlink_to("uml/modules")
    shutil.rmtree(lists)
