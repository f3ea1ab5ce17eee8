"""Checks of rules and daemons: broken by hand, they name what is missing, and where."""

import pytest

from appliance.lab import Lab
from appliance.lab.wait import wait_until
from tests.lab.healthy import broken, check, ill, passes, quiet, sh
from tests.lab.helpers import (
    PUBLIC_MAC,
    VM1,
    VM1_MAC,
    VM2_MAC,
    Router,
    frames,
    wire,
)

DOMAIN = "net1.example.internal"


@pytest.fixture(scope="module")
def router(lab: Lab) -> Router:
    return quiet(lab)


def ask(lab: Lab, path: str, command: str) -> str:
    """A command to one of haproxy's sockets."""
    script = (
        "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
        "s.sendall(sys.argv[2].encode()+b'\\n'); "
        "print(b''.join(iter(lambda: s.recv(65536), b'')).decode())"
    )
    return lab.vm.run(["/opt/sysvm/bin/python3", "-c", script, path, command]).text


# -- the kernel --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rule", "path"),
    [
        ("firewall", "-A in4-203.0.113.10 .*/web", "/firewall/ingress/203.0.113.10/web"),
        ("forwards", "-A to4-203.0.113.10 .*/web", "/nat/forwards/web"),
        ("forwards", "-A to4-203.0.113.12 ", "/nat/static/203.0.113.12"),
    ],
)
def test_a_rule_that_is_gone_is_named(
    lab: Lab, router: Router, name: str, rule: str, path: str
) -> None:
    with broken(lab, name, path, path):
        sh(
            lab,
            "iptables-save > /run/before; "
            f"grep -e '{rule}' /run/before | head -1 | grep . ; "
            f"sed '0,/{rule.replace('/', '.')}/{{//d}}' /run/before | iptables-restore",
        )
    sh(lab, "iptables-restore < /run/before")
    passes(lab, name)


def test_a_rule_that_somebody_added_is_a_warning(lab: Lab, router: Router) -> None:
    rule = "INPUT -p tcp --dport 23 -j ACCEPT"
    with broken(lab, "firewall", "--dport 23", "", verdict="warning"):
        sh(lab, f"iptables -A {rule}")
    sh(lab, f"iptables -D {rule}")
    passes(lab, "firewall")


def test_a_member_of_a_set_that_is_gone_is_named(lab: Lab, router: Router) -> None:
    with broken(lab, "firewall", "203.0.113.11,tcp:80", "/load_balancer"):
        sh(lab, "ipset del lb4 203.0.113.11,tcp:80")
    sh(lab, "ipset add lb4 203.0.113.11,tcp:80")
    passes(lab, "firewall")


def test_an_address_that_is_gone_is_named(lab: Lab, router: Router) -> None:
    path = f"/site/nics/{PUBLIC_MAC}/addresses/203.0.113.12~124"
    with broken(lab, "network", "203.0.113.12/24 on eth2", path):
        sh(lab, "ip address del 203.0.113.12/24 dev eth2")
    sh(lab, "ip address add 203.0.113.12/24 dev eth2")
    passes(lab, "network")


# -- daemons -----------------------------------------------------------------------------------


def test_a_daemon_that_is_down_is_named(lab: Lab, router: Router) -> None:
    with broken(lab, "services", "haproxy.service", "/load_balancer"):
        sh(lab, "systemctl mask --runtime --now haproxy.service")
    assert check(lab, "load-balancer")["missing"] == ["haproxy.service"]
    assert lab.vm.run(["sysvmctl", "check", "--name", "services"], check=False).returncode == 1
    sh(lab, "systemctl unmask --runtime haproxy.service; systemctl start haproxy.service")
    passes(lab, "services")
    assert lab.vm.run(["sysvmctl", "check", "--name", "services"], check=False).returncode == 0


def without(lab: Lab, path: str, word: str) -> None:
    """Cover a file of the running revision by one without the lines that have a word."""
    sh(
        lab,
        f"grep -v '{word}' /run/sysvm/current/{path} > /run/other; chmod 644 /run/other; "
        f"mount --bind /run/other /run/sysvm/current/{path}; systemctl reload dnsmasq",
    )


def uncover(lab: Lab, path: str) -> None:
    sh(lab, f"umount /run/sysvm/current/{path}; systemctl reload dnsmasq")


def test_a_host_that_dnsmasq_does_not_know_is_named(lab: Lab, router: Router) -> None:
    path = f"/dhcp_dns/hosts/{VM2_MAC}"
    with broken(lab, "dhcp", f"{path} ({VM2_MAC}", path):
        without(lab, "dnsmasq/hosts", VM2_MAC)
    uncover(lab, "dnsmasq/hosts")
    passes(lab, "dhcp")


def test_a_service_that_is_held_is_no_failure(lab: Lab, router: Router) -> None:
    """Case 44."""
    sh(lab, "sysvmctl service hold dnsmasq --for 10m --reason repair; systemctl stop dnsmasq")
    try:
        wait_until(lambda: ill(lab) == [], 15, "nothing that is ill")
        for name in ("dhcp", "dns"):
            result = check(lab, name)
            assert (result["verdict"], "repair" in result["message"]) == ("skipped", True)
        assert "dnsmasq.service is held" in check(lab, "services")["message"]
    finally:
        sh(lab, "sysvmctl service release dnsmasq; systemctl start dnsmasq")
    passes(lab, "dhcp")
    passes(lab, "services")


def test_asking_for_offers_spends_no_lease_and_is_not_seen_outside(
    lab: Lab, router: Router
) -> None:
    leases = "cat /var/lib/sysvm/leases/dnsmasq.leases 2>/dev/null || true"
    before = sh(lab, leases)
    with wire(lab.guests["vm1"]) as sock:
        passes(lab, "dhcp")
        lab.guests["vm1"].pings("10.1.1.1")
        came = list(frames(sock))
    assert came
    assert not [one for one in came if one[23] == 17 and one[36:38] in {b"\0\x43", b"\0\x44"}]
    assert sh(lab, leases) == before
    said = lab.vm.journal("-u", "dnsmasq", "-n", "40")
    assert f"DHCPOFFER(eth0) {VM1} {VM1_MAC}" in said


def test_a_host_that_is_offered_another_address_is_named(lab: Lab, router: Router) -> None:
    """The files are right again, and so is the witness: dnsmasq was told something else.

    What it would offer from the range it first looks for with a ping, for longer than is waited.
    """
    path = f"/dhcp_dns/hosts/{VM1_MAC}/address"
    with broken(lab, "dhcp", f"{path} (is offered ", path):
        without(lab, "dnsmasq/hosts", VM1_MAC)
        sh(lab, "umount /run/sysvm/current/dnsmasq/hosts")
    sh(lab, "systemctl reload dnsmasq")
    passes(lab, "dhcp")


def test_files_that_dnsmasq_has_not_read_are_told(lab: Lab, router: Router) -> None:
    """The files are right again, and dnsmasq still has the others."""
    with broken(lab, "dhcp", "has not read the files", "/dhcp_dns"):
        without(lab, "dnsmasq/names", "witness")
        sh(lab, "umount /run/sysvm/current/dnsmasq/names")
    sh(lab, "systemctl reload dnsmasq")
    passes(lab, "dhcp")


@pytest.mark.parametrize(
    ("name", "path"),
    [("vm1", f"/dhcp_dns/hosts/{VM1_MAC}/name"), ("db", "/dhcp_dns/dns/records/db")],
)
def test_a_name_that_does_not_resolve_is_named(
    lab: Lab, router: Router, name: str, path: str
) -> None:
    with broken(lab, "dns", f"{path} ({name}.{DOMAIN} at 10.1.1.1: ", path):
        without(lab, "dnsmasq/names", f"{name}[.]")
    uncover(lab, "dnsmasq/names")
    passes(lab, "dns")


def test_a_listener_and_a_server_that_are_not_as_asked_are_named(lab: Lab, router: Router) -> None:
    admin = "/run/haproxy/admin.sock"
    path = "/load_balancer/listeners/shop"
    with broken(lab, "load-balancer", "203.0.113.11 port 80 is", path):
        ask(lab, admin, "disable frontend shop")
    ask(lab, admin, "enable frontend shop")
    path = f"{path}/servers/vm1"
    with broken(lab, "load-balancer", f"{path} (is 10.1.1.66:80, not 10.1.1.10:80)", path):
        ask(lab, admin, "set server shop/vm1 addr 10.1.1.66 port 80")
    ask(lab, admin, "set server shop/vm1 addr 10.1.1.10 port 80")
    passes(lab, "load-balancer")
