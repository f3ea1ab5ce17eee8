"""A tenant's virtual machine that says itself whether it is served.

It is the image's kernel with an initramfs, and boots in a few seconds. Round after round it prints
a verdict on its console: what DHCP gave it, what a name resolved to, whom the internet saw.
Its web server says who asks; its second serial port has a shell.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.lab.wait import wait_until
from appliance.qemu import shell
from appliance.qemu.image import Contents
from appliance.qemu.initramfs import initramfs
from appliance.qemu.machine import Direct, Machine, Port, Spec

MODULES = ("virtio_net",)
_APPEND = "console=ttyS0 quiet panic=-1"
_LINE = re.compile(r"^verdict (?P<round>\d+) (?P<told>.*)$", re.MULTILINE)

_HOOK = """\
#!/bin/sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip address flush dev eth0
ip address add $ip/$mask dev eth0
ip route replace default via $router
: >/etc/resolv.conf
for server in $dns; do echo "nameserver $server" >>/etc/resolv.conf; done
echo "$ip" >/run/lease
"""

# A verdict needs no clock of the host's: rounds are counted, and a round's failures are quick.
_INIT = f"""\
mkdir -p /etc/udhcpc
cat >/etc/udhcpc/hook <<'END'
{_HOOK}END
chmod 755 /etc/udhcpc/hook
echo NAME >/www/index.html
ip link set lo up
ip link set eth0 up
httpd -p 80 -h /www
stty -F {shell.PORT} raw -echo
(while true; do sh <{shell.PORT} >{shell.PORT} 2>&1; sleep 1; done) &
round=0
while true; do
    round=$((round + 1))
    [ -s /run/lease ] || udhcpc -i eth0 -s /etc/udhcpc/hook -n -q -t 4 -T 1 >/dev/null 2>&1
    name=$(nslookup WEB 2>/dev/null | sed -n '/^Name/,$s/^Address[^:]*: *//p' | head -n 1)
    seen=$(timeout 5 wget -q -O - http://WEB/ 2>/dev/null | sed -n 's/.* sees //p')
    echo "verdict $round dhcp=$(cat /run/lease 2>/dev/null) dns=$name nat=$seen"
    sleep 1
done
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One round: the lease's address, the name's, and the one that the internet saw; or ""."""

    round: int
    lease: str
    name: str
    seen: str

    @property
    def served(self) -> bool:
        """Whether DHCP, DNS and address translation all worked."""
        return bool(self.lease and self.name and self.seen)


def initrd(contents: Contents, name: str, web: str) -> bytes:
    """The guest's root: `name` is what its web server answers, `web` the name it looks for."""
    script = _INIT.replace("NAME", name).replace("WEB", web)
    return initramfs(script, contents.modules(*MODULES))


def spec(name: str, port: Port, kernel: Path, root: Path) -> Spec:
    """Such a guest's machine."""
    return Spec(
        name=name,
        ports=(port,),
        memory=192,
        processors=1,
        direct=Direct(kernel, root, _APPEND),
    )


def verdicts(machine: Machine) -> tuple[Verdict, ...]:
    """All that it has said since it was switched on."""
    return tuple(_verdict(found) for found in _LINE.finditer(machine.console.replace("\r", "")))


def last(machine: Machine) -> Verdict:
    """What it said last; a round 0 before it has said anything."""
    said = verdicts(machine)
    return said[-1] if said else Verdict(0, "", "", "")


def wait_served(machine: Machine, timeout: float = 120, *, after: int = 0) -> Verdict:
    """Wait until it says that it is served, in a round that began after round `after` ended."""

    def served() -> Verdict | None:
        verdict = last(machine)
        return verdict if verdict.served and verdict.round > after + 1 else None

    verdict = wait_until(served, timeout, f"{machine.spec.name} being served", every=0.1)
    if verdict is None:
        raise AssertionError("wait_until returns what is true")
    return verdict


def _verdict(found: re.Match[str]) -> Verdict:
    told: Mapping[str, str] = dict(word.partition("=")[::2] for word in found["told"].split())
    return Verdict(
        int(found["round"]), told.get("dhcp", ""), told.get("dns", ""), told.get("nat", "")
    )
