"""Two sites with a tunnel between them, in the lab, whose kernel has no ESP.

charon does ESP in user space there (strongSwan's kernel-libipsec, over a TUN device), which needs
two things that the product does not have: the plug-in in charon's list, and rules that take
`ipsec0` for what `-m policy` finds in the kernel's own ESP. Everything else, the chains behind
those rules included, is the product's. Kernel ESP, traps and `-m policy` itself are tested in the
image, under QEMU.
"""

import copy
import itertools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from agent.document.document import merge
from appliance.lab.vm import SystemVM
from appliance.lab.wait import wait_until
from tests.lab.helpers import Document

A, B = "203.0.113.10", "203.0.113.20"
GUEST_A, GUEST_B = "10.1.1.10", "10.2.1.10"
NET_A, NET_B = "10.1.1.0/24", "10.2.1.0/24"
FAR_A, FAR_B = "10.1.50.0/24", "10.2.50.0/24"  # routed by way of a guest
SECRET, OTHER_SECRET = "correct-horse-battery-staple", "another-horse-entirely"

USER_SPACE = """
cat > /etc/strongswan-lab.conf <<'END'
include /usr/lib/sysvm/strongswan.conf
charon-systemd {
	load = random nonce openssl pem pkcs1 pkcs8 x509 pubkey constraints revocation drbg \
kernel-libipsec kernel-netlink socket-default vici
}
END
mkdir -p /etc/systemd/system/strongswan.service.d
printf '[Service]\\nEnvironment=STRONGSWAN_CONF=/etc/strongswan-lab.conf\\n' \
> /etc/systemd/system/strongswan.service.d/zz-lab.conf
systemctl daemon-reload
"""
# Where -m policy would send what the kernel's ESP had in hand.
RULES = """
for way in 'i in' 'o out'; do set -- $way
iptables -C FORWARD -$1 ipsec0 -j tunnels-$2 2>/dev/null ||
iptables -I FORWARD 3 -$1 ipsec0 -j tunnels-$2; done
"""


class Site:
    """One of the two system VMs, with its document."""

    def __init__(self, vm: SystemVM, document: Document) -> None:
        self.vm = vm
        self.document = document
        self._generations = itertools.count(1)

    def push(self, change: Mapping[str, Any] | None = None) -> list[str]:
        """Push the document as this merge patch makes it; the plan that was done."""
        wanted = merge(self.document, change or {})
        assert isinstance(wanted, dict)
        wanted["generation"] = next(self._generations)
        answer = self.vm.request("PUT", "/v1/document", json=wanted)
        assert answer.status in {200, 201}, answer.text
        self.document = wanted
        if wanted.get("ipsec"):
            self.vm.run(["sh", "-c", RULES])
        plan: list[str] = answer.json()["plan"]
        return plan

    def connection(self, name: str, change: Mapping[str, Any] | None) -> list[str]:
        """Push a changed connection."""
        return self.push({"ipsec": {"connections": {name: change}}})

    def tunnels(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.vm.request("GET", "/v1/vpn").json()
        return rows

    def tunnel(self, child: str) -> dict[str, Any]:
        return next(row for row in self.tunnels() if row["child"] == child)

    def wait(self, child: str, state: str = "installed") -> dict[str, Any]:
        """Wait until a tunnel is in this state."""

        def there() -> dict[str, Any]:
            row = self.tunnel(child)
            return row if row["state"] == state else {}

        return wait_until(there, 20, f"{child} of {self.vm.name} being {state}")

    def drift(self) -> list[str]:
        """Drift, less the lab's own rules."""
        plan: list[str] = self.vm.request("GET", "/v1/drift").json()["plan"]
        return [line for line in plan if "ipsec0" not in line]

    def spis(self) -> dict[str, set[str]]:
        """The numbers (SPI) of each tunnel's security associations."""
        text = self.vm.run(["swanctl", "--list-sas"], check=False).text
        found: dict[str, set[str]] = {}
        name = ""
        for line in text.splitlines():
            if tunnel := re.match(r"  (\S+): #", line):
                name = tunnel[1]
            elif number := re.match(r"    (?:in|out) +([0-9a-f]{8})\b", line):
                found.setdefault(name, set()).add(number[1])
        return found

    def charon(self) -> int:
        argv = ["systemctl", "show", "-P", "MainPID", "strongswan.service"]
        return int(self.vm.run(argv).text)


def document(
    vm: SystemVM, net: str, own: str, gateway: str = "203.0.113.1", length: int = 24
) -> Document:
    """A router of the guests' network NET.1.0/24, with one public address."""
    guest, control, public = (nic.mac for nic in vm.spec.nics)
    return {
        "schema": 1,
        "role": "router",
        "site": {
            "hostname": vm.spec.hostname,
            "nics": {
                guest: {"role": "guest", "addresses": {f"{net}.1.1/24": {}}},
                control: {"role": "control", "addresses": {vm.spec.control_address: {}}},
                public: {
                    "role": "public",
                    "addresses": {f"{own}/{length}": {}},
                    "gateway": gateway,
                },
            },
            "routes": {f"{net}.50.0/24": {"via": f"{net}.1.10"}},
        },
        "nat": {"source_address": own},
    }


def connection(own: str, peer: str, here: str, there: str, **more: object) -> Document:
    return {
        "local_address": own,
        "peer_address": peer,
        "psk": SECRET,
        "local_subnets": [here],
        "remote_subnets": [there],
        **more,
    }


def prepared(vm: SystemVM) -> SystemVM:
    """A system VM that answers, with ESP in user space."""
    vm.wait_ready()
    vm.run(["sh", "-c", USER_SPACE])
    return vm


@contextmanager
def restored(*several: Site) -> Iterator[None]:
    """Both documents again as they were."""
    before = [copy.deepcopy(one.document) for one in several]
    try:
        yield
    finally:
        for one, wanted in zip(several, before, strict=True):
            one.document = wanted
            one.push()


def begin(site: Site, child: str) -> None:
    """Begin a tunnel: user-space ESP does not know the trap that the next packet would spring."""
    argv = ["swanctl", "--initiate", "--child", child, "--timeout", "5"]
    site.vm.run(argv, check=False)
