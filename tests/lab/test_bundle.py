"""The diagnostics bundle in the VM: whole, bounded, and free of every secret that was planted."""

import base64
import io
import json
import re
import secrets
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from agent.diagnostics.scrub import secrets_of
from appliance.lab import Lab
from appliance.lab.pki import Identity
from appliance.lab.wait import wait_until
from tests.lab.helpers import VM1, VM1_MAC, VM2, Router, example
from tests.lab.sites import prepared
from tests.unit.document.test_secrets import MARKED

# No router has them; tests/unit/diagnostics/test_scrub.py has.
OF_OTHER_ROLES = {"Console.key", "Console.passphrase", "ConsolePlugin.source"}


@dataclass(frozen=True, slots=True)
class Canaries:
    """What is secret, by the field that has it, and a document that has all of it."""

    planted: Mapping[str, str]
    user_data: str
    document: Mapping[str, Any]

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.planted.values(), self.user_data)


def plant(lab: Lab) -> Canaries:
    authority = lab.manager.keys.authority
    addresses = (lab.manager.vm_address, "127.0.0.1", "::1")
    server = authority.issue("sysvm", addresses=addresses, names=("localhost",))
    tunnel, push, log = (authority.issue(f"{name}.example") for name in ("tunnel", "push", "log"))
    word = secrets.token_urlsafe(18)
    planted = {
        "Control.key": server.key,
        "Certificates.key": tunnel.key,
        "Push.key": push.key,
        "RemoteLog.key": log.key,
        "Heartbeat.key": secrets.token_hex(32),
        "GuestPassword.password": f'G"{word}\\pw',
        "Tunnel.psk": f"psk {word} 'quoted'",
    }
    user_data = f"#cloud-config\n# canary-{word}\n"
    blob = lab.manager.upload(user_data.encode())
    document = example()
    document["control"] = {
        "ca": authority.identity.certificate,
        "certificate": server.certificate,
        "key": server.key,
        "allowed_names": ["sysvm-manager"],
    }
    document["passwords"] = {
        "guests": {VM1: {"mac": VM1_MAC, "password": planted["GuestPassword.password"]}}
    }
    document["user_data"]["guests"][VM2]["user_data"] = blob
    document["events"] = {
        "heartbeat": {"address": "169.254.99.99", "port": 8445, "key": planted["Heartbeat.key"]},
        "push": {
            "url": "https://169.254.99.99/events",
            "ca": authority.identity.certificate,
            "certificate": push.certificate,
            "key": push.key,
        },
    }
    document["remote_log"] = {
        "name": "log.example",
        "address": "169.254.99.99",
        "ca": authority.identity.certificate,
        "certificate": log.certificate,
        "key": log.key,
    }
    document["ipsec"] = {"connections": tunnels(planted["Tunnel.psk"], tunnel, authority)}
    return Canaries(planted, user_data, document)


def tunnels(psk: str, own: Identity, authority: Any) -> dict[str, Any]:
    common = {
        "local_address": "203.0.113.10",
        "local_subnets": ["10.1.1.0/24"],
        "start": "passive",
    }
    return {
        "one": {
            **common,
            "peer_address": "203.0.113.77",
            "psk": psk,
            "remote_subnets": ["10.77.0.0/24"],
        },
        "two": {
            **common,
            "peer_address": "203.0.113.78",
            "certificates": {
                "certificate": own.certificate,
                "key": own.key,
                "ca": authority.identity.certificate,
            },
            "local_identity": "tunnel.example",
            "peer_identity": "peer.example",
            "remote_subnets": ["10.78.0.0/24"],
        },
    }


@pytest.fixture(scope="module")
def canaries(lab: Lab) -> Canaries:
    """A VM with every kind of secret, which its logs have told, in every way."""
    prepared(lab.vm)
    found = plant(lab)
    Router(lab).push(found.document)
    leaks = "".join(f"leaks {text} here\n" for text in written(found.planted.values()))
    lab.vm.put("/run/leaks", leaks.encode())
    lab.vm.run(["systemd-run", "--wait", "--quiet", "--unit=sysvm-leak", "cat", "/run/leaks"])
    lab.vm.run(["journalctl", "--sync"])
    return found


def written(values: Iterable[str]) -> list[str]:
    """As they are (of a key, each line), in hexadecimal, and in base64 among other bytes."""
    found = []
    for value in values:
        lines = [line for line in value.splitlines() if not line.startswith("-----")]
        found += [line for line in lines if len(line) >= 16]
        raw = value.encode()
        found += [raw.hex(), raw.hex().upper()]
        found += [base64.b64encode(b"x" * n + raw + b"yz").decode() for n in range(3)]
    return found


def unpacked(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
        files = {member.name: tar.extractfile(member) for member in tar.getmembers()}
        return {n.partition("/")[2]: file.read() for n, file in files.items() if file is not None}


def test_every_secret_of_the_schema_is_planted(canaries: Canaries) -> None:
    assert canaries.planted.keys() == MARKED - OF_OTHER_ROLES
    assert set(secrets_of(canaries.document)) == set(canaries.planted.values())


def test_bundle_has_no_secret_in_any_form(lab: Lab, canaries: Canaries) -> None:
    """Hostile case 54. The journal itself has told every one of them."""
    journal = lab.vm.journal("-u", "sysvm-leak")
    leaked = [form for form in written(canaries.planted.values()) if form in journal]
    assert len(leaked) >= 4 * len(canaries.planted)
    content = lab.vm.request("GET", "/v1/diagnostics/bundle", timeout=120).body
    found = unpacked(content)
    whole = b"\n".join(found.values())
    for form in written(canaries.all):
        assert form.encode() not in whole, form
        assert form[4:-4].encode() not in whole, form
    for value in canaries.all:
        assert value.strip().encode() not in whole
        assert json.dumps(value)[1:-1].encode() not in whole
    assert b"PRIVATE KEY" not in whole
    # The lines are there, with what stands for a secret.
    assert len(re.findall(rb"leaks [^\n]*<secret>", whole)) >= len(leaked)


def test_bundle_is_whole_and_says_what_is_in_it(lab: Lab, canaries: Canaries) -> None:
    found = unpacked(lab.manager.request("GET", "/v1/diagnostics/bundle", timeout=120).body)
    about = json.loads(found["manifest.json"])
    rows = {row["name"]: row for row in about["entries"]}
    assert about["hostname"] == "r-1-vm"
    for name in (
        "api/status.json", "api/show-rules.json", "api/drift.json", "api/vpn.json",
        "api/health.json", "api/events.json", "vm/ip-address.txt", "journal/sysvm-agent.txt",
        "services/firewall/iptables-nft-save-c.txt", "services/ipsec/swanctl-list-conns.txt",
        "vm/systemd-analyze-blame-no-pager.txt", "vm/conntrack-C.txt",
    ):  # fmt: skip
        assert rows[name]["exit"] in {0, 200}, rows[name]
        assert len(found[name]) == rows[name]["bytes"] > 0, name
    document = next(found[name] for name in found if name.startswith("documents/"))
    shown = json.loads(document)
    assert shown["passwords"]["guests"][VM1]["password"] == "<secret>"
    assert shown["ipsec"]["connections"]["one"]["psk"] == "<secret>"
    assert shown["nat"] == canaries.document["nat"]
    assert sum(map(len, found.values())) < 34 * 1024 * 1024


def test_bundle_on_the_command_line(lab: Lab, canaries: Canaries) -> None:
    done = lab.vm.run(["sysvmctl", "diag", "bundle", "-o", "/root/bundle.tar.gz"], timeout=120)
    assert done.text.startswith("/root/bundle.tar.gz: ")
    assert lab.vm.run(["stat", "-c", "%a", "/root/bundle.tar.gz"]).text.strip() == "600"
    assert "manifest.json" in unpacked(lab.vm.read("/root/bundle.tar.gz"))
    refused = lab.vm.run(["sysvmctl", "diag", "bundle", "-o", "/proc/nowhere"], check=False)
    assert refused.returncode == 2
    assert b"next: " in refused.stderr


def test_client_that_leaves_ends_the_bundle(lab: Lab, canaries: Canaries) -> None:
    script = "sysvmctl diag bundle -o - | head -c 1 > /dev/null"
    lab.vm.run(["sh", "-c", script], timeout=60, check=False)

    def quiet() -> bool:
        group = "/sys/fs/cgroup/system.slice/sysvm-agent.service/cgroup.procs"
        count = len(lab.vm.run(["cat", group]).text.split())
        return count == 1

    wait_until(quiet, 20, "the agent is alone")
    assert lab.vm.request("GET", "/v1/status").status == 200
