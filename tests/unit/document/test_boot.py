import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.document import boot
from agent.document.boot import InvalidBootConfig, parse, serialize
from agent.engine.model import Problem
from agent.roles import Role
from tests.unit.document.test_schema import HOSTILE, strings

MAC = "02:00:00:00:00:02"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExampleExampleExampleExampleExample ops@example"
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
SMALL: dict[str, Any] = {
    "role": "router",
    "hostname": "r-1",
    "nics": {MAC: {"role": "control", "addresses": {"169.254.10.2/16": {}}}},
}
WHOLE: dict[str, Any] = {
    **SMALL,
    "schema": 1,
    "domain": "net1.example.internal",
    "routes": {"10.0.0.0/8": {"via": "169.254.1.1"}},
    "control": {
        "ca": PEM,
        "crl": PEM,
        "certificate": PEM,
        "key": PEM,
        "allowed_names": ["manager"],
    },
    "authorized_keys": [KEY],
    "resolver": {"servers": ["192.0.2.53", "2001:db8::53"]},
    "time": {"ntp_servers": ["ntp.example.internal", "192.0.2.1", "2001:db8::1"]},
}


def problems(value: object) -> dict[str, str]:
    with pytest.raises(InvalidBootConfig) as caught:
        parse(json.dumps(value).encode())
    return {problem.path: problem.message for problem in caught.value.problems}


@pytest.mark.parametrize("value", [SMALL, WHOLE])
def test_what_is_serialized_is_parsed_as_the_same(value: dict[str, Any]) -> None:
    config = parse(json.dumps(value).encode())
    assert parse(serialize(config)) == config


def test_without_keys_nobody_may_log_in() -> None:
    assert parse(json.dumps(SMALL).encode()).authorized_keys == ()


@pytest.mark.parametrize("role", list(Role))
def test_every_role_can_be_booted(role: Role) -> None:
    assert parse(json.dumps({**SMALL, "role": role.value}).encode()).role is role


def test_all_problems_are_told_with_their_paths() -> None:
    wrong = {"role": "king", "nics": {MAC: {"role": "control", "mtu": 1}}, "extra": 1}
    assert problems(wrong) == {
        "/extra": "is not known here",
        "/hostname": "is missing",
        "/role": "is not one of 'router', 'vpc-router', 'dhcp-server', 'load-balancer', "
        "'console-proxy' or 'secondary-storage'",
        f"/nics/{MAC}/mtu": "input should be greater than or equal to 576",
    }


def test_a_vm_that_management_cannot_reach_is_refused() -> None:
    assert problems({**SMALL, "nics": {}}) == {"/nics": "has no control NIC"}
    guest = {MAC: {"role": "guest", "addresses": {"10.1.1.1/24": {}}}}
    assert problems({**SMALL, "nics": guest}) == {"/nics": "has no control NIC"}


def test_a_route_leads_through_a_control_network() -> None:
    routes = {"10.0.0.0/8": {"via": "192.0.2.1"}}
    found = problems({**SMALL, "routes": routes})
    assert found == {"/routes/10.0.0.0~18/via": "192.0.2.1 is not in a control network"}


@pytest.mark.parametrize(
    "key",
    [
        'command="/bin/sh" ' + KEY,
        KEY + "\nssh-rsa AAAA",
        KEY + "\n",
        KEY + "\x00",
        KEY.replace("ed25519 ", "ed25519  "),
        "ssh-dss AAAAB3NzaC1kc3MAAACBAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "ssh-ed25519",
        "",
    ],
)
def test_a_key_is_one_line_without_options(key: str) -> None:
    assert set(problems({**SMALL, "authorized_keys": [key]})) == {"/authorized_keys/0"}


def test_no_string_is_free_text() -> None:
    found = list(strings(boot.schema()))
    assert len(found) > 10
    for path, node in found:
        assert node.keys() & {"pattern", "enum", "const"}, f"{path} is a bare string"


def _leaves(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = node.items() if isinstance(node, dict) else enumerate(node)
    found = []
    for key, child in children:
        if isinstance(child, dict | list):
            found += _leaves(child, (*path, key))
        elif isinstance(child, str):
            found.append((*path, key))
    return found


@pytest.mark.parametrize("hostile", [text for text in HOSTILE if text != "\ud800"])
def test_hostile_text_in_any_string_is_refused_with_its_path(hostile: str) -> None:
    leaves = _leaves(WHOLE)
    assert len(leaves) > 12
    for path in leaves:
        value = json.loads(json.dumps(WHOLE))
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = hostile
        expected = "".join(f"/{str(key).replace('/', '~1')}" for key in path)
        assert expected in problems(value)


def test_a_name_that_is_there_twice_is_refused() -> None:
    with pytest.raises(InvalidBootConfig, match="twice"):
        parse(b'{"role": "router", "role": "router"}')


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    with pytest.raises(InvalidBootConfig) as caught:
        parse(data)
    assert caught.value.problems


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(list(WHOLE)) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(list(WHOLE)), _JSON, max_size=4))
def test_a_configuration_of_nonsense_is_refused_or_whole(change: dict[str, Any]) -> None:
    try:
        config = parse(json.dumps({**WHOLE, **change}).encode())
    except InvalidBootConfig as error:
        found = error.problems
    else:
        found = (Problem("", "none"),) if config.control_nics() else ()
    assert found
    assert all(problem.message for problem in found)
