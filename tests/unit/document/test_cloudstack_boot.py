import base64
import re
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.document.boot import BootConfig, InvalidBootConfig, NoSuchNic, parse, serialize
from agent.document.cloudstack_boot import ignored
from agent.document.cloudstack_boot import parse as parse_words
from agent.document.site import NicRole
from agent.engine.model import Link
from agent.roles import Role

KEY = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC7ExampleExampleExampleExample root@mgmt1"
NONE = str(IPv4Address(0))
AUTHORIZED = base64.b64encode(KEY.encode()).decode()

ROUTER = (
    f" template=domP name=r-42-VM authorized_key={AUTHORIZED} eth2ip=203.0.113.10 "
    "eth2mask=255.255.255.0 gateway=203.0.113.1 publicMtu=1450 eth0ip=10.1.1.1 "
    "eth0mask=255.255.255.0 privateMtu=1400 domain=net1.example.internal cidrsize=24 "
    "dhcprange=10.1.1.1 eth1ip=169.254.240.17 eth1mask=255.255.0.0 type=router "
    "disable_rp_filter=true dns1=198.51.100.53 dns2=198.51.100.54 logrotatefrequency=*:00:00"
)
VPC_ROUTER = (
    "vpccidr=10.20.0.0/16 domain=tenant.example.internal publicMtu=1500 dns1=null template=domP "
    f"name=r-77-VM authorized_key={AUTHORIZED} eth0ip=169.254.77.10 eth0mask=255.255.0.0 "
    "redundant_router=1 advert_int=1 redundant_state=BACKUP advert_int=1 type=vpcrouter"
)
SECONDARY_STORAGE = (
    "template=domP type=secstorage host=192.0.2.10 port=8250 name=s-1-VM role=templateProcessor "
    f"authorized_key={AUTHORIZED} mtu=9000 ntpserverlist=0.ntp.example,1.ntp.example "
    "eth2ip=203.0.113.6 eth2mask=255.255.255.0 gateway=203.0.113.1 eth0ip=169.254.1.6 "
    "eth0mask=255.255.0.0 eth1ip=192.0.2.46 eth1mask=255.255.255.0 "
    "mgmtcidr=192.0.2.0/24,198.18.0.0/15 localgw=192.0.2.1 eth3ip=192.0.2.146 "
    "eth3mask=255.255.255.0 internaldns1=192.0.2.53 dns1=198.51.100.53"
)


def links(count: int, name: str = "eth{}") -> tuple[Link, ...]:
    return tuple(Link(name.format(n), f"02:00:00:00:00:{n:02x}", 1500, up=False)
                 for n in range(count))  # fmt: skip


def understand(text: str, count: int = 4) -> BootConfig:
    return parse_words(text, links(count))


def problems(text: str, count: int = 4) -> dict[str, str]:
    with pytest.raises(InvalidBootConfig) as caught:
        understand(text, count)
    return {problem.path: problem.message for problem in caught.value.problems}


def nic(config: BootConfig, number: int) -> tuple[NicRole, list[str]]:
    section = config.nics[f"02:00:00:00:00:{number:02x}"]
    return section.role, [str(address) for address in section.addresses]


def change(text: str, key: str, value: str) -> str:
    changed, count = re.subn(rf"(?<!\S){key}=\S*", f"{key}={value}", text)
    assert count
    return changed


def test_a_router_is_understood() -> None:
    config = understand(ROUTER)
    assert (config.role, config.hostname) == (Role.ROUTER, "r-42-VM")
    assert config.domain == "net1.example.internal"
    assert nic(config, 0) == (NicRole.GUEST, ["10.1.1.1/24"])
    assert nic(config, 1) == (NicRole.CONTROL, ["169.254.240.17/16"])
    assert nic(config, 2) == (NicRole.PUBLIC, ["203.0.113.10/24"])
    guest, control, public = (config.nics[f"02:00:00:00:00:0{n}"] for n in range(3))
    assert (guest.mtu, control.mtu, public.mtu) == (1400, 1500, 1450)
    assert (guest.gateway, control.gateway) == (None, None)
    assert public.gateway == ip_address("203.0.113.1")
    assert config.resolver is not None
    assert [str(a) for a in config.resolver.servers] == ["198.51.100.53", "198.51.100.54"]
    assert config.authorized_keys == (KEY,)
    assert config.control is None
    assert parse(serialize(config)) == config


def test_base64_keeps_its_padding_and_does_without() -> None:
    assert AUTHORIZED.endswith("=")
    assert understand(change(ROUTER, "authorized_key", AUTHORIZED.rstrip("="))) == understand(
        ROUTER
    )


def test_several_keys_and_comments_in_authorized_key() -> None:
    text = f"# of the management servers\n{KEY}\n\n{KEY}2\r\n".encode()
    several = change(ROUTER, "authorized_key", base64.b64encode(text).decode())
    assert understand(several).authorized_keys == (KEY, f"{KEY}2")


def test_a_vpc_router_has_its_control_nic_first_and_others_by_mac_later() -> None:
    config = understand(VPC_ROUTER)
    assert config.role is Role.VPC_ROUTER
    assert len(config.nics) == 1
    assert nic(config, 0) == (NicRole.CONTROL, ["169.254.77.10/16"])
    assert config.resolver is None


def test_secondary_storage_is_understood() -> None:
    config = understand(SECONDARY_STORAGE)
    assert config.role is Role.SECONDARY_STORAGE
    assert nic(config, 0) == (NicRole.CONTROL, ["169.254.1.6/16"])
    assert nic(config, 1) == (NicRole.CONTROL, ["192.0.2.46/24"])
    assert nic(config, 2) == (NicRole.PUBLIC, ["203.0.113.6/24"])
    assert nic(config, 3) == (NicRole.STORAGE, ["192.0.2.146/24"])
    assert config.nics["02:00:00:00:00:03"].mtu == 9000
    assert config.time is not None
    assert config.time.ntp_servers == ("0.ntp.example", "1.ntp.example")
    assert config.resolver is not None
    assert str(config.resolver.servers[0]) == "192.0.2.53"
    # Management's own network is connected; the other is behind its gateway.
    assert {str(network): str(route.via) for network, route in config.routes.items()} == {
        "198.18.0.0/15": "192.0.2.1"
    }


@pytest.mark.parametrize(
    ("kind", "role", "roles"),
    [
        ("dhcpsrvr", Role.DHCP_SERVER, (NicRole.GUEST, NicRole.CONTROL)),
        ("elbvm", Role.LOAD_BALANCER, (NicRole.GUEST, NicRole.CONTROL)),
        ("ilbvm", Role.LOAD_BALANCER, (NicRole.GUEST, NicRole.CONTROL)),
        ("consoleproxy", Role.CONSOLE_PROXY, (NicRole.CONTROL, NicRole.CONTROL)),
        ("vpcrouter", Role.VPC_ROUTER, (NicRole.CONTROL, NicRole.PUBLIC)),
    ],
)
def test_what_a_nic_is_depends_on_the_type(
    kind: str, role: Role, roles: tuple[NicRole, ...]
) -> None:
    config = understand(
        f"template=domP type={kind} name=v-1-VM eth0ip=10.70.0.9 eth0mask=255.255.255.0 "
        "gateway=10.70.0.1 eth1ip=169.254.70.9 eth1mask=255.255.0.0"
    )
    assert config.role is role
    assert (nic(config, 0)[0], nic(config, 1)[0]) == roles
    assert config.nics["02:00:00:00:00:00"].gateway == ip_address("10.70.0.1")


@pytest.mark.parametrize("kind", ["router", "vpcrouter", "dhcpsrvr", "elbvm", "ilbvm"])
def test_no_further_nic_is_one_that_management_comes_by(kind: str) -> None:
    more = change(ROUTER, "type", kind) + " eth3ip=198.51.100.9 eth3mask=255.255.255.0"
    assert nic(understand(more), 3) == (NicRole.PUBLIC, ["198.51.100.9/24"])


def test_ipv6_addresses_and_gateway() -> None:
    config = understand(
        ROUTER + " eth2ip6=2001:db8:ff::20 eth2ip6prelen=64 ip6gateway=2001:db8:ff::1 "
        "eth0ip6=FD00:1:1::1 eth0ip6prelen=64 ip6dns1=2001:db8:53::1"
    )
    assert nic(config, 0)[1] == ["10.1.1.1/24", "fd00:1:1::1/64"]
    assert config.nics["02:00:00:00:00:02"].gateway_ipv6 == ip_address("2001:db8:ff::1")
    assert config.resolver is not None
    assert ip_address("2001:db8:53::1") in config.resolver.servers


@pytest.mark.parametrize("nothing", [NONE, ""])
def test_a_nic_without_an_address_is_known_without_one(nothing: str) -> None:
    config = understand(change(ROUTER, "eth2ip", nothing))
    assert nic(config, 2) == (NicRole.PUBLIC, [])
    assert config.nics["02:00:00:00:00:02"].gateway is None


def test_nics_count_as_numbers_not_as_text() -> None:
    shuffled = tuple(reversed(links(12, "ens{}")))
    config = parse_words(ROUTER, shuffled)
    assert nic(config, 2)[0] is NicRole.PUBLIC


def test_nic_macs_names_the_nics_whatever_their_order() -> None:
    macs = "02:00:00:00:00:03|02:00:00:00:00:01|02:00:00:00:00:0A|"
    config = parse_words(f"{ROUTER} nic_macs={macs}", links(11))
    assert nic(config, 3)[0] is NicRole.GUEST
    assert nic(config, 10)[0] is NicRole.PUBLIC
    assert "02:00:00:00:00:00" not in config.nics


def test_nics_that_are_missing_are_told_from_what_is_wrong() -> None:
    with pytest.raises(NoSuchNic) as caught:
        understand(ROUTER, 2)
    assert [problem.path for problem in caught.value.problems] == ["/eth2ip"]
    with pytest.raises(NoSuchNic, match="02:00:00:00:00:99"):
        understand(f"{ROUTER} nic_macs=02:00:00:00:00:99|02:00:00:00:00:01|02:00:00:00:00:02")
    with pytest.raises(InvalidBootConfig) as wrong:
        understand(change(ROUTER, "eth1mask", "255.0.255.0"), 2)
    assert not isinstance(wrong.value, NoSuchNic)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("type", "king", "is not a type that is known"),
        ("name", "-r_42", "has a form that is not allowed"),
        ("name", "", "has a form that is not allowed"),
        ("domain", "a..b", "has a form that is not allowed"),
        ("eth1ip", "169.254.240", "is not an IPv4 address"),
        ("eth1ip", "2001:db8::1", "is not an IPv4 address"),
        ("eth1mask", "255.0.255.0", "is not a network mask"),
        ("eth1mask", "0.0.255.255", "is not a network mask"),
        ("eth1mask", "16", "is not a network mask"),
        ("eth1mask", "", "is missing"),
        ("gateway", "192.0.2.1", "is not in the network of any NIC"),
        ("gateway", "nowhere", "is not an IPv4 address"),
        ("dns1", "ns.example", "is not an IPv4 address"),
        ("publicMtu", "many", "is not a number of bytes"),
        ("privateMtu", "10", "input should be greater than or equal to 576"),
        ("authorized_key", "****", "is not the base64 of OpenSSH public keys"),
        (
            "authorized_key",
            base64.b64encode(b'command="id" ' + KEY.encode()).decode(),
            "has a form that is not allowed",
        ),
    ],
)
def test_a_bad_value_is_a_problem_at_its_key(key: str, value: str, message: str) -> None:
    assert problems(change(ROUTER, key, value)) == {f"/{key}": message}


@pytest.mark.parametrize("key", ["type", "name"])
def test_what_must_be_there(key: str) -> None:
    assert problems(re.sub(rf" {key}=\S*", "", ROUTER)) == {f"/{key}": "is missing"}


def test_a_key_that_contradicts_itself_is_a_problem_and_one_repeated_is_not() -> None:
    assert problems(f"{ROUTER} eth1ip=169.254.1.1") == {
        "/eth1ip": "is there twice, with different values"
    }
    understand(f"{ROUTER} eth1ip=169.254.240.17 advert_int=1 advert_int=2")


def test_ntp_servers_are_names_or_addresses() -> None:
    assert problems(f"{ROUTER} ntpserverlist=a.example,b;reboot") == {
        "/ntpserverlist": "has a form that is not allowed"
    }


def test_other_keys_are_left_alone_and_listed() -> None:
    assert ignored(ROUTER) == ("cidrsize", "dhcprange", "disable_rp_filter", "logrotatefrequency")
    assert understand(f"{ROUTER} $(reboot)=1 userdata=H4sI quiet") == understand(ROUTER)


_WORD = st.tuples(
    st.sampled_from(sorted(set(re.findall(r"(\w+)=", ROUTER + SECONDARY_STORAGE)))),
    st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), max_size=20)
    | st.sampled_from([NONE, "null", "10.0.0.1", "255.255.255.0", "::1", "1500", "router"]),
)


@given(st.lists(_WORD, max_size=8), st.integers(0, 4))
def test_no_words_break_the_parser(words: list[tuple[str, str]], count: int) -> None:
    text = " ".join([ROUTER, *(f"{key}={value}" for key, value in words)])
    try:
        config = understand(text, count)
    except InvalidBootConfig as error:
        paths = [problem.path for problem in error.problems]
    else:
        paths = ["/"] if parse(serialize(config)) == config else []
    assert paths
    assert all(path.startswith("/") for path in paths)


@given(st.text(max_size=200))
def test_no_text_breaks_the_parser(text: str) -> None:
    with pytest.raises(InvalidBootConfig):
        understand(text)
