"""Site-to-site IPsec between two system VMs: up, renewed, refused with its reason, gone, back.

How the lab does without ESP in its kernel: tests/lab/sites.py.
"""

import copy
import datetime as dt
import re
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa

from appliance.lab import Lab
from appliance.lab.pki import Authority
from appliance.lab.wait import wait_until
from tests.lab.conftest import Boot
from tests.lab.helpers import Document, frames, settle, wire
from tests.lab.sites import (
    FAR_A,
    FAR_B,
    GUEST_A,
    GUEST_B,
    NET_A,
    NET_B,
    OTHER_SECRET,
    RULES,
    SECRET,
    A,
    B,
    Site,
    begin,
    connection,
    document,
    prepared,
    restored,
)


@pytest.fixture(scope="module")
def sites(boot_lab: Boot) -> tuple[Site, Site]:
    """Both VMs with one connection each; B waits for A."""
    lab = boot_lab("sites")
    vms = prepared(lab.vms["vm"]), prepared(lab.vms["vmb"])
    a = Site(vms[0], document(vms[0], "10.1", A))
    b = Site(vms[1], document(vms[1], "10.2", B))
    settle(lab.guests["vm1"], GUEST_A)
    settle(lab.guests["vm3"], GUEST_B, "10.2.1.1")
    b.connection("head", connection(B, A, NET_B, NET_A, start="passive"))
    a.connection("branch", connection(A, B, NET_A, NET_B))
    return a, b


@pytest.fixture
def lab(sites: tuple[Site, Site]) -> Lab:
    return Lab.find(sites[0].vm.lab)


def reached(lab: Lab) -> bool:
    return lab.guests["vm1"].pings(GUEST_B)


def test_tunnel_carries_traffic_untranslated(lab: Lab, sites: tuple[Site, Site]) -> None:
    a, b = sites
    a.wait("branch")
    b.wait("head")
    before = a.tunnel("branch")["packets_in"]
    assert lab.guests["vm1"].pings(GUEST_B, count=3)
    with lab.guests["vm3"].serve(80):
        body = lab.guests["vm1"].get(f"http://{GUEST_B}/").body
        assert body.decode().strip() == f"vm3 sees {GUEST_A}"
    assert lab.guests["vm3"].pings(GUEST_A)
    row = a.tunnel("branch")
    assert row["packets_in"] >= before + 5
    assert row["bytes_out"] > 0
    assert row["peer"] == row["remote_identity"] == B
    assert (row["local"], row["remote"]) == ([NET_A], [NET_B])
    assert row["ike"].startswith("IKEv2 AES_GCM_16_256")
    assert row["reason"] == ""


def test_only_what_the_connection_names_passes(lab: Lab, sites: tuple[Site, Site]) -> None:
    """A guest with an address that B routes, but that the connection does not name."""
    guest = lab.guests["vm3"]
    guest.run(["ip", "address", "add", "10.2.50.7/32", "dev", guest.nic.name])
    ping = ["ping", "-n", "-q", "-c", "1", "-W", "1", GUEST_A]
    assert guest.run([*ping, "-I", "10.2.50.7"], check=False).returncode == 1
    assert guest.run([*ping, "-I", GUEST_B], check=False).returncode == 0
    guest.run(["ip", "address", "del", "10.2.50.7/32", "dev", guest.nic.name])


def test_keys_are_renewed_under_traffic(lab: Lab, sites: tuple[Site, Site]) -> None:
    a, _ = sites
    a.wait("branch")
    old = a.spis()["branch"]
    before = a.tunnel("branch")
    argv = ["ping", "-n", "-q", "-i", "0.02", "-c", "150", "-W", "1", GUEST_B]
    with lab.guests["vm1"].popen(argv) as ping:
        for what in (["--child", "branch"], ["--ike", "branch"], ["--child", "branch"]):
            a.vm.run(["swanctl", "--rekey", *what])
        said = ping.communicate(timeout=30)[0].decode()
    received = int(re.findall(r"(\d+) received", said)[0])
    assert received >= 149, said
    wait_until(lambda: not a.spis()["branch"] & old, 15, "the old keys being gone")
    row = a.tunnel("branch")
    assert row["rekeyed"]
    assert abs(_when(row["since"]) - _when(before["since"])) <= 2
    assert reached(lab)
    assert a.tunnel("branch")["packets_out"] > row["packets_out"]


def _when(moment: str) -> float:
    return dt.datetime.fromisoformat(moment).timestamp()


def test_tunnel_that_goes_down_and_comes_back_is_told(lab: Lab, sites: tuple[Site, Site]) -> None:
    """And no renewal of keys before it was."""
    a, b = sites
    a.wait("branch")

    def told() -> list[tuple[str, str]]:
        events = a.vm.request("GET", "/v1/events?tail=1000&limit=1000").json()["events"]
        return [(e["kind"], e["subject"]) for e in events if e["kind"].startswith("vpn.")]

    before = len(told())
    a.vm.run(["swanctl", "--rekey", "--child", "branch"])
    b.vm.run(["swanctl", "--terminate", "--ike", "head"])
    wait_until(lambda: ("vpn.tunnel-down", "branch/branch") in told()[before:], 15, "down is told")
    wait_until(lambda: reached(lab), 15, "the next packets bring it back")
    wait_until(lambda: ("vpn.tunnel-up", "branch/branch") in told()[before:], 15, "up is told")
    kinds = [kind for kind, _ in told()[before:]]
    assert kinds == ["vpn.tunnel-down", "vpn.tunnel-up"]


def test_other_secret_is_told_and_the_other_connection_goes_on(
    lab: Lab, sites: tuple[Site, Site]
) -> None:
    a, b = sites
    with restored(a, b):
        names = {"local_identity": "far.b.example", "peer_identity": "far.a.example"}
        b.connection("far", connection(B, A, FAR_B, FAR_A, start="passive", **names))
        names = {"local_identity": "far.a.example", "peer_identity": "far.b.example"}
        plan = a.connection("far", connection(A, B, FAR_A, FAR_B, **names))
        assert [line for line in plan if "connection " in line] == ["+ connection far"]
        a.wait("far")
        far, near, pid = a.spis()["far"], a.spis()["branch"], a.charon()
        plan = a.connection("branch", {"psk": OTHER_SECRET})
        assert [line for line in plan if "connection " in line] == ["~ connection branch"]
        assert OTHER_SECRET not in str(plan)
        row = wait_until(
            lambda: next((r for r in a.tunnels() if r["child"] == "branch" and r["reason"]), {}),
            15,
            "a reason",
        )
        assert row["state"] in {"down", "connecting"}
        assert row["reason"].startswith("authentication failed")
        assert not reached(lab)
        assert "authentication failed" in wait_until(
            lambda: b.tunnel("head")["reason"], 10, "B's reason"
        )
        assert a.spis()["far"] == far
        assert a.charon() == pid
        b.connection("head", {"psk": OTHER_SECRET})
        begin(a, "branch")
        row = a.wait("branch")
        assert row["reason"] == ""
        assert reached(lab)
        assert not a.spis()["branch"] & near
        assert a.spis()["far"] == far
    begin(a, "branch")
    a.wait("branch")
    assert [row["child"] for row in a.tunnels() if row["connection"]] == ["branch"]
    journal = a.vm.run(["journalctl", "--no-pager", "-o", "cat"]).text
    assert SECRET not in journal
    assert OTHER_SECRET not in journal


def test_algorithms_and_subnets_that_differ_are_told(sites: tuple[Site, Site]) -> None:
    a, b = sites
    weak = [{"encryption": "3des", "integrity": "sha1", "dh": "modp1024"}]
    with restored(a):
        a.connection("branch", {"ike": weak, "allow_weak": True})
        wait_until(
            lambda: a.tunnel("branch")["reason"].startswith("no proposal chosen"), 15, "the reason"
        )
        a.connection("branch", {"ike": None, "remote_subnets": [FAR_B], "allow_weak": None})
        wait_until(
            lambda: a.tunnel("branch")["reason"].startswith("traffic selectors"), 15, "the reason"
        )
    begin(a, "branch")
    a.wait("branch")
    assert b.tunnel("head")["state"] == "installed"


def test_stranger_is_told(sites: tuple[Site, Site]) -> None:
    """Whoever knocks and is no connection's peer."""
    a, b = sites
    with restored(b, a):
        b.connection("head", {"peer_address": None, "peer_identity": "hq.example.net"})
        begin(a, "branch")
        found = wait_until(
            lambda: [row for row in b.tunnels() if row["state"] == "refused"], 15, "a refusal"
        )
        assert "no connection for the identities" in found[0]["reason"]
        a.connection("branch", {"local_identity": "hq.example.net"})
        begin(a, "branch")
        assert b.wait("head")["remote_identity"] == "hq.example.net"
    begin(a, "branch")
    a.wait("branch")


def test_without_a_tunnel_nothing_leaves_in_clear(lab: Lab, sites: tuple[Site, Site]) -> None:
    a, _ = sites
    guest = lab.guests["vm1"]

    def clear(frame: bytes) -> bool:
        return frame[12:14] == b"\x08\x00" and frame[30:34] == bytes([10, 2, 1, 10])

    with restored(a), wire(lab.internet) as public:
        a.connection("branch", {"start": "passive"})
        wait_until(lambda: "branch" not in a.spis(), 10, "the tunnel's end")
        # B's address has no owner on the public wire but for the gateway, which would get it.
        for _ in range(3):
            assert guest.ask(GUEST_B, 9, b"in clear?", timeout=0.2) is None
        assert guest.reaches("198.51.100.10", 80)
        seen = list(frames(public))
        assert any(frame[30:34] == bytes([198, 51, 100, 10]) for frame in seen)
        assert not [frame for frame in seen if clear(frame)]
        # The same packet does leave, translated, where no connection names the network.
        a.push({"ipsec": None})
        guest.ask(GUEST_B, 9, b"in clear?", timeout=0.2)
        wait_until(lambda: any(map(clear, frames(public))), 5, "the packet in clear")
    begin(a, "branch")
    a.wait("branch")
    assert reached(lab)


def test_removal_ends_tunnel_and_daemon(lab: Lab, sites: tuple[Site, Site]) -> None:
    a, b = sites
    assert reached(lab)
    with restored(a):
        plan = a.push({"ipsec": None})
        assert "- connection branch" in plan
        assert "- stop strongswan.service" in plan
        assert a.tunnels() == []
        assert a.charon() == 0
        assert not reached(lab)
        b.wait("head", "down")  # it was told
        chains = a.vm.run(["iptables-save"]).text
        assert "tunnels-in" not in chains
        assert "4500" not in chains
        assert a.drift() == []
    begin(a, "branch")
    a.wait("branch")


def test_killed_daemon_comes_back_with_its_tunnels(lab: Lab, sites: tuple[Site, Site]) -> None:
    a, _ = sites
    pid = a.charon()
    a.vm.run(["kill", "-9", str(pid)])
    wait_until(lambda: a.charon() not in {0, pid}, 10, "another charon")
    a.wait("branch")
    wait_until(lambda: reached(lab), 10, "B's guest")
    assert a.drift() == []


def test_daemon_comes_back_while_the_agent_is_dead(lab: Lab, sites: tuple[Site, Site]) -> None:
    a, _ = sites
    pid = a.charon()
    a.vm.run(["systemctl", "stop", "sysvm-agent"])
    try:
        a.vm.run(["kill", "-9", str(pid)])
        wait_until(lambda: a.charon() not in {0, pid}, 10, "another charon")
        wait_until(lambda: "branch" in a.spis(), 15, "the tunnel")
        wait_until(lambda: reached(lab), 10, "B's guest")
    finally:
        a.vm.run(["systemctl", "start", "sysvm-agent"])
        a.vm.wait_ready()
    assert a.drift() == []


def test_unloaded_connection_is_drift_and_mended(sites: tuple[Site, Site]) -> None:
    a, _ = sites
    script = (
        "from vici import Session; s = Session(); s.unload_conn({'name': 'branch'}); "
        "s.load_conn({'stray': {'remote_addrs': ['192.0.2.1'], 'children': {'stray': {}}}})"
    )
    a.vm.run(["/opt/sysvm/bin/python3", "-c", script])
    assert sorted(a.drift()) == ["+ connection branch", "- connection stray"]
    assert a.tunnel("branch")["state"] == "not loaded"
    answer = a.vm.request("PUT", "/v1/document", json=a.document)
    assert answer.json()["result"] in {"unchanged", "committed"}, answer.text
    a.vm.run(["sh", "-c", RULES])
    assert a.drift() == []
    a.wait("branch")


def test_certificates_and_the_revoked_one(sites: tuple[Site, Site]) -> None:
    a, b = sites
    authority = Authority.create("vpn")
    head = authority.issue("head", addresses=[B])
    branch = authority.issue("branch", addresses=[A])
    ca = authority.identity.certificate

    def with_certificates(one: Any, crl: str | None = None) -> Document:
        given = {"certificate": one.certificate, "key": one.key, "ca": ca, "crl": crl}
        return {"psk": None, "certificates": given}

    with restored(b, a):
        nobody = authority.crl()
        b.connection("head", with_certificates(head, nobody))
        a.connection("branch", with_certificates(branch))
        begin(a, "branch")
        row = a.wait("branch")
        assert row["certificate_expires"]
        # A list is newer by its number, and the lab's authority counts seconds.
        wait_until(lambda: _number(authority.crl()) > _number(nobody), 5, "another second")
        b.connection("head", with_certificates(head, authority.crl([branch])))
        a.wait("branch", "down")
        begin(a, "branch")
        reason = wait_until(lambda: b.tunnel("head")["reason"], 15, "the reason")
        assert "revoked" in reason
        assert b.tunnel("head")["state"] != "installed"
    begin(a, "branch")
    a.wait("branch")


def test_authority_that_was_removed_is_not_trusted_any_more(sites: tuple[Site, Site]) -> None:
    """Neither by a new exchange, nor by charon itself; what another connection has stays."""
    a, b = sites
    first, second, third = (Authority.create(name) for name in ("first", "second", "third"))

    def issued(by: Authority, name: str, address: str, trusted: Authority) -> Document:
        own = by.issue(name, addresses=[address])
        given = {"certificate": own.certificate, "key": own.key}
        return {"psk": None, "certificates": given | {"ca": trusted.identity.certificate}}

    other = {
        **connection(B, "192.0.2.9", FAR_B, "10.99.0.0/24", start="passive"),
        **issued(third, "head", B, third),
    }
    with restored(b, a):
        b.connection("other", other)
        b.connection("head", issued(first, "head", B, first))
        a.connection("branch", issued(first, "branch", A, first))
        begin(a, "branch")
        a.wait("branch")
        assert authorities(b) == {"first", "third"}
        pid = b.charon()
        # B trusts another one now, which A has no certificate of.
        b.connection("head", issued(first, "head", B, second))
        assert authorities(b) == {"second", "third"}
        a.wait("branch", "down")
        begin(a, "branch")
        reason = wait_until(lambda: b.tunnel("head")["reason"], 15, "the reason")
        assert reason.startswith("authentication failed")
        assert b.tunnel("head")["state"] != "installed"
        # One of the other's is let in.
        a.connection("branch", issued(second, "branch", A, first))
        begin(a, "branch")
        a.wait("branch")
        b.connection("head", None)
        assert authorities(b) == {"third"}
        assert b.charon() == pid
        b.connection("head", connection(B, A, NET_B, NET_A, start="passive"))
        b.connection("other", None)
        assert authorities(b) == set()
        assert b.drift() == []
    begin(a, "branch")
    a.wait("branch")


def authorities(site: Site) -> set[str]:
    """The CAs that charon trusts, by their common names."""
    argv = ["swanctl", "--list-certs", "--type", "x509", "--flag", "ca"]
    return set(re.findall(r'subject: +"CN=(\w+)', site.vm.run(argv).text))


def test_ikev1_with_a_tunnel_for_each_pair(sites: tuple[Site, Site]) -> None:
    a, b = sites
    old = {"version": "ikev1", "force_encapsulation": True}
    with restored(b, a):
        b.connection("head", {**old, "local_subnets": [NET_B, FAR_B]})
        a.connection("branch", {**old, "remote_subnets": [NET_B, FAR_B]})
        for child in ("branch-1", "branch-2"):
            begin(a, child)
            assert a.wait(child)["ike"].startswith("IKEv1 ")
        assert {row["child"] for row in b.tunnels() if row["state"] == "installed"} == {
            "head-1",
            "head-2",
        }
    begin(a, "branch")
    a.wait("branch")


def test_connection_that_charon_refuses_is_rolled_back(sites: tuple[Site, Site]) -> None:
    """A certificate of a kind that charon does not know, which only charon can tell."""
    a, _ = sites
    spis, wanted = a.spis(), copy.deepcopy(a.document)
    certificate, key = _dsa()
    given = {
        "certificate": certificate,
        "key": key,
        "ca": Authority.create("x").identity.certificate,
    }
    bad = connection(A, "192.0.2.9", FAR_A, "10.99.0.0/24", certificates=given)
    wanted["ipsec"]["connections"]["bad"] = bad | {"psk": None}
    wanted["generation"] += 1
    answer = a.vm.request("PUT", "/v1/document", json=wanted)
    assert answer.status >= 400, answer.text
    assert [one["path"] for one in answer.json()["problems"]] == ["/ipsec/connections/bad"]
    assert "PRIVATE KEY" not in answer.text
    a.vm.run(["sh", "-c", RULES])
    assert a.spis() == spis
    assert a.drift() == []
    a.push()


def _number(crl: str) -> int:
    extensions = x509.load_pem_x509_crl(crl.encode()).extensions
    return extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def _dsa() -> tuple[str, str]:
    key = dsa.generate_private_key(2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "old")])
    now = dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return built.public_bytes(serialization.Encoding.PEM).decode(), text.decode()


def test_reboot_brings_tunnels_back_without_management(lab: Lab, sites: tuple[Site, Site]) -> None:
    a, _ = sites
    a.vm.reboot()
    a.vm.wait_ready()
    a.wait("branch")
    a.vm.run(["sh", "-c", RULES])
    wait_until(lambda: reached(lab), 10, "B's guest")
    assert a.drift() == []


def test_eight_connections(sites: tuple[Site, Site]) -> None:
    """A push that adds eight, and one that is not about them."""
    a, _ = sites
    spis = a.spis()["branch"]
    with restored(a):
        eight = {
            f"c{n}": connection(A, f"192.0.2.{n}", FAR_A, f"10.99.{n}.0/24", start="trap")
            for n in range(1, 9)
        }
        plan = a.push({"ipsec": {"connections": eight}})
        assert len([line for line in plan if line.startswith("+ connection ")]) == 8
        plan = a.push({"site": {"domain": "net9.example"}})
        assert not [line for line in plan if "connection" in line]
        assert a.spis()["branch"] == spis
        assert len([row for row in a.tunnels() if row["state"] == "trap"]) == 8
    assert a.spis()["branch"] == spis
