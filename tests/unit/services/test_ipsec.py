"""IPsec: what charon is told, which rules go with it, and what is refused and where."""

import json
from dataclasses import replace
from typing import Any

import pydantic
import pytest

from agent.engine.model import Artifacts, CharonAnswers, Family, IpsecPolicy, Table, UnitActive
from agent.services import ipsec
from appliance.lab.pki import Authority
from tests.unit.services import rules as fixtures
from tests.unit.services.conftest import Golden
from tests.unit.services.rules import lines

A, B = "203.0.113.10", "192.0.2.77"
PATH = "/ipsec/connections/branch"
SECRET = "correct-horse-battery-staple"


def tunnel(**fields: object) -> dict[str, Any]:
    default = {
        "local_address": A,
        "peer_address": B,
        "psk": SECRET,
        "local_subnets": ["10.1.1.0/24"],
        "remote_subnets": ["10.99.0.0/24"],
    }
    return {key: value for key, value in (default | fields).items() if value is not None}


def section(**connections: dict[str, Any]) -> dict[str, Any]:
    return {"connections": connections}


def rendered(**fields: object) -> Artifacts:
    return fixtures.rendered(ipsec, section(branch=tunnel(**fields)))


def told(artifacts: Artifacts) -> dict[str, Any]:
    """What charon is told of the first connection."""
    value: dict[str, Any] = json.loads(artifacts.connections[0].content)
    return value


def refused(*connections: dict[str, Any]) -> dict[str, str]:
    """Problems of connections named branch, other …, by path."""
    named = dict(zip(("branch", "other", "third"), connections, strict=False))
    return {p.path: p.message for p in fixtures.problems(ipsec, section(**named))}


# -- what charon is told -----------------------------------------------------------------------


def test_messages_are_as_looked_at(golden: Golden) -> None:
    """Everything that a connection can say, in two of them."""
    whole = tunnel(
        version="any",
        local_identity="hq.example",
        peer_address=None,
        peer_name="branch.example.net",
        peer_identity="C=CH, O=Example, CN=branch",
        local_subnets=["10.1.1.0/24"],
        remote_subnets=["10.99.0.0/24", "10.99.1.0/24"],
        split_connections=True,
        ike=[{"encryption": "aes256", "integrity": "sha256", "dh": "modp3072"}],
        esp=[{"encryption": "3des", "integrity": "sha1"}],
        ike_lifetime=86400,
        esp_lifetime=3600,
        esp_lifetime_bytes=1_000_000_000,
        esp_lifetime_packets=1_000_000,
        dpd={"delay": 20, "timeout": 90, "action": "clear"},
        start="trap",
        force_encapsulation=True,
        mss=1200,
        allow_weak=True,
    )
    value = section(branch=tunnel(), other=whole | {"remote_subnets": ["10.98.0.0/24"]})
    golden("ipsec", fixtures.rendered(ipsec, value))


def test_what_cloudstack_says_can_be_said() -> None:
    """ike_policy and esp_policy aes256-sha256;modp3072, 30 s of DPD, encap, split connections."""
    proposal = {"encryption": "aes256", "integrity": "sha256", "dh": "modp3072"}
    artifacts = rendered(
        version="ikev2",
        ike=[proposal],
        esp=[proposal],
        ike_lifetime=86400,
        esp_lifetime=3600,
        dpd={"delay": 30, "timeout": 120, "action": "restart"},
        start="passive",
        force_encapsulation=True,
        split_connections=True,
        remote_subnets=["10.99.0.0/24", "10.99.1.0/24"],
    )
    connection = told(artifacts)["connection"]
    assert connection["proposals"] == ["aes256-sha256-modp3072"]
    assert connection["encap"] == "yes"
    assert (connection["dpd_delay"], connection["dpd_timeout"]) == ("30s", "120s")
    assert [child["remote_ts"] for child in connection["children"].values()] == [
        ["10.99.0.0/24"],
        ["10.99.1.0/24"],
    ]
    for child in connection["children"].values():
        assert child["esp_proposals"] == ["aes256-sha256-modp3072"]
        assert child["start_action"] == "none"
        assert child["dpd_action"] == "restart"
        assert (child["rekey_time"], child["life_time"]) == ("3240s", "3600s")


@pytest.mark.parametrize(
    ("version", "number", "children"),
    [
        ("ikev2", "2", ["branch"]),
        ("any", "0", ["branch"]),
        ("ikev1", "1", ["branch-1", "branch-2"]),
    ],
)
def test_ikev1_has_a_tunnel_for_each_pair(version: str, number: str, children: list[str]) -> None:
    artifacts = rendered(version=version, remote_subnets=["10.98.0.0/24", "10.99.0.0/24"])
    connection = told(artifacts)["connection"]
    assert connection["version"] == number
    assert list(connection["children"]) == children


def test_aead_has_a_prf_and_no_integrity() -> None:
    proposal = {"encryption": "aes128gcm16", "dh": "curve25519"}
    connection = told(rendered(ike=[proposal], esp=[proposal]))["connection"]
    assert connection["proposals"] == ["aes128gcm16-prfsha256-curve25519"]
    assert connection["children"]["branch"]["esp_proposals"] == ["aes128gcm16-curve25519"]


def test_anybody_may_be_a_peer_of_this_identity() -> None:
    artifacts = rendered(peer_address=None, peer_identity="branch.example", start="passive")
    message = told(artifacts)
    assert message["connection"]["remote_addrs"] == ["%any"]
    assert message["connection"]["remote"]["id"] == "branch.example"
    assert message["secret"]["owners"] == [A, "branch.example"]
    inputs = lines(artifacts.rules, Table.FILTER, "services")
    assert inputs[0] == f"-A services -d {A}/32 -i eth2 -p udp -m udp --dport 500 -j ACCEPT"


def test_certificates_come_block_by_block() -> None:
    authority = Authority.create("vpn")
    own = authority.issue("hq", addresses=[A])
    ca = authority.identity.certificate
    both = {"certificate": own.certificate + ca, "key": own.key, "ca": ca, "crl": authority.crl()}
    message = told(rendered(psk=None, certificates=both))
    connection = message["connection"]
    assert connection["local"] == {"auth": "pubkey", "id": A, "certs": [own.certificate, ca]}
    assert connection["remote"]["cacerts"] == [ca]
    assert connection["remote"]["revocation"] == "relaxed"
    assert message["key"] == own.key
    assert message["crl"] == both["crl"]
    assert message["secret"]["type"] == "PPK"  # nobody can use it: it only carries the digest


def test_digest_is_of_everything_and_the_secret_is_nowhere_else() -> None:
    artifacts, other = rendered(), rendered(psk="another-horse-entirely")
    one = artifacts.connections[0]
    assert one.digest != other.connections[0].digest
    assert one.digest == rendered().connections[0].digest
    assert SECRET not in repr(one)
    assert [file.path for file in artifacts.files if SECRET.encode() in file.content] == [
        ipsec.FILE
    ]
    assert artifacts.files[0].mode == 0o600
    assert SECRET not in repr(artifacts)
    assert SECRET not in "".join(rule.comment for rule in artifacts.rules)


def test_daemon_runs_only_where_it_is_wanted() -> None:
    assert fixtures.rendered(ipsec, {}) == Artifacts()
    artifacts = rendered()
    assert [unit.name for unit in artifacts.units] == ["strongswan.service"]
    parsed = fixtures.section(ipsec, section(branch=tunnel()))
    wanted = (UnitActive(ipsec.UNIT), CharonAnswers(ipsec.UNIT))
    assert ipsec.probe(parsed, fixtures.CONTEXT, artifacts) == wanted
    assert ipsec.probe(parsed, fixtures.CONTEXT, Artifacts()) == ()


# -- the firewall's part -----------------------------------------------------------------------


def test_key_exchange_is_for_the_peer_alone() -> None:
    artifacts = rendered()
    inputs = lines(artifacts.rules, Table.FILTER, "services")
    ends = f"-A services -s {B}/32 -d {A}/32 -i eth2"
    assert inputs[:3] == [
        f"{ends} -p udp -m udp --dport 500 -j ACCEPT",
        f"{ends} -p udp -m udp --dport 4500 -j ACCEPT",
        f"{ends} -p esp -j ACCEPT",
    ]
    assert lines(artifacts.rules, Table.FILTER, "services", Family.V6) == []
    assert [(str(c.address), c.ports and c.ports.first) for c in artifacts.claims] == [
        (A, 500),
        (A, 4500),
    ]


def test_what_passes_came_out_of_the_tunnel_or_goes_into_it() -> None:
    artifacts = rendered()
    assert lines(artifacts.rules, Table.FILTER, "tunnels") == [
        "-A tunnels -m policy --dir in --pol ipsec -j tunnels-in",
        "-A tunnels -m policy --dir out --pol ipsec -j tunnels-out",
    ]
    assert lines(artifacts.rules, Table.FILTER, "tunnels-in") == [
        "-A tunnels-in -s 10.99.0.0/24 -d 10.1.1.0/24 -j ACCEPT"
    ]
    assert lines(artifacts.rules, Table.FILTER, "tunnels-out") == [
        "-A tunnels-out -s 10.1.1.0/24 -d 10.99.0.0/24 -j ACCEPT"
    ]
    assert lines(artifacts.rules, Table.NAT, "tunnels") == [
        "-A tunnels -s 10.1.1.0/24 -d 10.99.0.0/24 -j ACCEPT"
    ]


def test_clear_text_is_dropped_after_ike_and_esp() -> None:
    artifacts = rendered()
    assert lines(artifacts.rules, Table.MANGLE, "POSTROUTING")[1:] == [
        "-A POSTROUTING -o eth2 -m policy --dir out --pol none -j tunnels-clear"
    ]
    assert lines(artifacts.rules, Table.MANGLE, "tunnels-clear") == [
        "-A tunnels-clear -p esp -j RETURN",
        "-A tunnels-clear -p udp -m udp --dport 500 -j RETURN",
        "-A tunnels-clear -p udp -m udp --dport 4500 -j RETURN",
        "-A tunnels-clear -d 10.99.0.0/24 -j DROP",
    ]


def test_several_local_subnets_are_one_set() -> None:
    context = replace(
        fixtures.CONTEXT, routed={"eth0": (fixtures.CONTEXT.nics[0].networks(Family.V4)[0],)}
    )
    parsed = fixtures.section(
        ipsec, section(branch=tunnel(local_subnets=["10.1.1.0/25", "10.1.1.128/25"]))
    )
    assert list(ipsec.lint(parsed, context)) == []
    artifacts = ipsec.render(parsed, context)
    (only,) = artifacts.sets
    assert only.members == {"10.1.1.0/25", "10.1.1.128/25"}
    assert lines(artifacts.rules, Table.NAT, "tunnels") == [
        f"-A tunnels -d 10.99.0.0/24 -m set --match-set {only.name} src -j ACCEPT"
    ]


@pytest.mark.parametrize(("mss", "size"), [(None, 1500 - 20 - 81 - 40), (1200, 1200)])
def test_segments_fit_the_tunnel_both_ways(mss: int | None, size: int) -> None:
    artifacts = rendered(mss=mss)
    syn = "-p tcp -m tcp --tcp-flags SYN,RST SYN"
    assert lines(artifacts.rules, Table.MANGLE, "tunnels-mss") == [
        f"-A tunnels-mss -d 10.99.0.0/24 {syn} -j TCPMSS --set-mss {size}",
        f"-A tunnels-mss -s 10.99.0.0/24 {syn} -j TCPMSS --set-mss {size}",
    ]


def test_pings_out_of_the_tunnel_are_answered() -> None:
    found = [r for r in rendered().rules if r.chain == "services" and r.icmp_type == 8]
    assert [(str(r.source), str(r.destination), r.policy) for r in found] == [
        ("10.99.0.0/24", "10.1.1.1/32", IpsecPolicy.CAME_IN)
    ]


def test_flows_that_were_translated_are_forgotten_when_a_tunnel_comes() -> None:
    """The rules say which flows they are about, and no others."""
    drop = next(r for r in rendered().rules if r.chain == "tunnels-clear" and r.destination)
    assert [str(n) for n in drop.flow_sources] == ["10.1.1.0/24"]
    assert str(drop.destination) == "10.99.0.0/24"


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ({"local_address": "10.1.1.1"}, "local_address", "not an address of a public NIC"),
        ({"peer_address": "203.0.113.11"}, "peer_address", "the VM's own address"),
        ({"peer_address": "2001:db8::1"}, "peer_address", "not of the local address's family"),
        ({"peer_address": "127.0.0.1"}, "peer_address", "not a host's address"),
        ({"peer_name": "b.example"}, "peer_name", "has a peer_address beside it"),
        ({"peer_address": None, "start": "passive"}, "peer_identity", "is missing"),
        ({"peer_address": None, "peer_identity": "b"}, "start", "needs a peer_address"),
        ({"local_subnets": ["10.7.0.0/24"]}, "local_subnets", "no network that the VM routes"),
        ({"remote_subnets": ["10.1.0.0/16"]}, "remote_subnets", "overlaps 10.1.1.0/24"),
        ({"remote_subnets": ["0.0.0.0/0"]}, "remote_subnets", "overlaps"),
        ({"remote_subnets": ["2001:db8:9::/64"]}, "remote_subnets", "not of the same families"),
        ({"psk": None}, "psk", "is missing"),
        ({"psk": "short"}, "psk", "fewer than 8"),
        ({"ike": [{"encryption": "aes128", "dh": "ecp256"}]}, "ike/0/integrity", "is missing"),
        (
            {"esp": [{"encryption": "aes256gcm16", "integrity": "sha256"}]},
            "esp/0/integrity",
            "authenticates by itself",
        ),
        (
            {"ike": [{"encryption": "aes128", "integrity": "sha256", "dh": "modp1024"}]},
            "ike/0/dh",
            "modp1024 is weak",
        ),
        (
            {"esp": [{"encryption": "3des", "integrity": "sha256"}]},
            "esp/0/encryption",
            "3des is weak",
        ),
        (
            {"esp": [{"encryption": "aes128", "integrity": "sha1"}]},
            "esp/0/integrity",
            "sha1 is weak",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_path(
    fields: dict[str, Any], path: str, message: str
) -> None:
    found = refused(tunnel(**fields))
    assert list(found) == [f"{PATH}/{path}"]
    assert message in found[f"{PATH}/{path}"]


def test_weak_ones_are_taken_where_they_are_asked_for() -> None:
    weak = {"encryption": "3des", "integrity": "sha1", "dh": "modp1024"}
    assert refused(tunnel(ike=[weak], esp=[weak], psk="short", allow_weak=True)) == {}


def test_certificates_are_looked_into() -> None:
    authority, other = Authority.create("vpn"), Authority.create("other")
    own, stranger = authority.issue("hq"), authority.issue("stranger")
    good = {
        "certificate": own.certificate,
        "key": own.key,
        "ca": authority.identity.certificate,
        "crl": authority.crl(),
    }
    assert refused(tunnel(psk=None, certificates=good)) == {}
    for change, message in (
        ({"key": stranger.key}, "not that of the certificate"),
        ({"ca": own.certificate}, "not a CA's certificate"),
        ({"crl": other.crl()}, "not signed by the CA"),
        ({"certificate": own.certificate.replace("MII", "AAA", 1)}, "cannot be read"),
    ):
        found = refused(tunnel(psk=None, certificates=good | change))
        (name,) = change
        assert message in found[f"{PATH}/certificates/{name}"]
        assert "BEGIN" not in str(found)
    assert f"{PATH}/psk" in refused(tunnel(certificates=good))


def test_two_connections_must_be_told_apart() -> None:
    far = {"remote_subnets": ["10.98.0.0/24"]}
    other = "/ipsec/connections/other"
    assert refused(tunnel(), tunnel(peer_address="192.0.2.78", **far)) == {}
    assert "branch's already" in refused(tunnel(), tunnel(peer_address="192.0.2.78"))[
        f"{other}/remote_subnets"
    ]  # fmt: skip
    assert "cannot be told from branch" in refused(tunnel(), tunnel(**far))[
        f"{other}/peer_identity"
    ]  # fmt: skip
    named = {"peer_identity": "b.example", "local_identity": "a.example"}
    third = tunnel(peer_address="192.0.2.78", psk="another-horse", **named, **far)
    assert "the same two identities" in refused(tunnel(**named), third)[f"{other}/psk"]
    anyone = {"peer_address": None, "start": "passive", "version": "ikev1"}
    one = tunnel(peer_identity="b.example", **anyone)
    two = tunnel(peer_identity="c.example", psk="another-horse", **anyone, **far)
    assert "which both leave open" in refused(one, two)[f"{other}/psk"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("psk", "a\nb"),
        ("psk", " leading"),
        ("psk", ""),
        ("psk", "é" * 9),
        ("local_identity", "%any"),
        ("local_identity", "*.example"),
        ("peer_identity", 'a"b'),
        ("peer_identity", "a\n"),
        ("peer_name", "a b"),
        ("ike", []),
        ("local_subnets", []),
        ("esp_lifetime", 29),
        ("ike", [{"encryption": "null", "dh": "ecp256"}]),
    ],
)
def test_strings_and_numbers_are_constrained(field: str, value: object) -> None:
    with pytest.raises(pydantic.ValidationError):
        fixtures.section(ipsec, section(branch=tunnel(**{field: value})))
