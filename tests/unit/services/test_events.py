"""The section that says where events and the heartbeat go."""

import json
from dataclasses import replace
from ipaddress import ip_interface, ip_network
from typing import Any

import pydantic
import pytest

from agent.document.site import NicRole
from agent.engine.model import Artifacts
from agent.roles import Role
from agent.services import Context, Nic, events
from tests.unit.services.conftest import Golden
from tests.unit.services.sites import CONTROL, GUEST, PUBLIC, context, linted, rendered, texts

NAME = "events"
PEM = "-----BEGIN CERTIFICATE-----\nTUlJQg==\n-----END CERTIFICATE-----\n"
SECRET = "-----BEGIN PRIVATE KEY-----\nTUlJQg==\n-----END PRIVATE KEY-----\n"
KEY = "0123456789abcdef" * 4
PUSH: dict[str, Any] = {"url": "https://192.0.2.1:8444/v1/events", "ca": PEM}
BEAT: dict[str, Any] = {"address": "192.0.2.1", "port": 8445, "key": KEY}
SELF: dict[str, Any] = {"zone": "zone1", "link": "https://203-0-113-10.console.example/"}
PROXY = replace(
    context(
        PUBLIC, replace(CONTROL, addresses=(*CONTROL.addresses, ip_interface("2001:db8:2::10/64")))
    ),
    role=Role.CONSOLE_PROXY,
)
WHOLE = {"push": {**PUSH, "certificate": PEM, "key": SECRET}, "heartbeat": BEAT}


def settings(artifacts: Artifacts) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(texts(artifacts)[events.SETTINGS])
    return found


def test_files_render_as_looked_at(golden: Golden) -> None:
    golden(NAME, rendered(NAME, WHOLE))


def test_what_a_proxy_says_of_itself_renders_as_looked_at(golden: Golden) -> None:
    golden("registration", rendered(NAME, {"push": PUSH, "registration": SELF}, PROXY))


@pytest.mark.parametrize(
    ("manager", "agent"),
    [
        ("192.0.2.1", "https://192.0.2.10:8443"),
        ("[2001:db8:2::1]", "https://[2001:db8:2::10]:8443"),
        ("manager.example", "https://192.0.2.10:8443"),
    ],
)
def test_a_proxy_is_reached_by_the_address_that_leads_to_its_manager(
    manager: str, agent: str
) -> None:
    push = PUSH | {"url": f"https://{manager}:8444/v1/events"}
    said = settings(rendered(NAME, {"push": push, "registration": SELF}, PROXY))["registration"]
    assert said["path"] == "/v1/proxies/r-1-vm"
    assert said["body"]["agent"] == agent
    given = SELF | {"agent": "https://v-3.example:9443", "server_name": "v-3.example"}
    said = settings(rendered(NAME, {"push": push, "registration": given}, PROXY))["registration"]
    assert said["body"]["agent"] == given["agent"]
    assert said["body"]["server_name"] == given["server_name"]


@pytest.mark.parametrize(
    ("value", "where", "path"),
    [
        ({"push": PUSH, "registration": SELF}, context(), "/events/registration"),
        ({"registration": SELF}, PROXY, "/events/push"),
        (
            {"push": PUSH, "registration": {**SELF, "soft": 60}},
            PROXY,
            "/events/registration/soft",
        ),
        (
            {"push": PUSH | {"url": "https://manager.example/v1/events"}, "registration": SELF},
            replace(context(PUBLIC, replace(CONTROL, addresses=())), role=Role.CONSOLE_PROXY),
            "/events/registration/agent",
        ),
    ],
)
def test_a_registration_that_cannot_be_is_said_with_its_path(
    value: dict[str, Any], where: Context, path: str
) -> None:
    assert [problem.path for problem in linted(NAME, value, where)] == [path]


def test_nothing_is_rendered_of_nothing() -> None:
    assert rendered(NAME, {}) == Artifacts()


def test_only_root_reads_what_is_secret() -> None:
    for file in rendered(NAME, WHOLE).files:
        assert (file.mode, file.owner, file.unit) == (0o600, "root:root", None)


def test_own_certificate_is_the_control_endpoints() -> None:
    push = settings(rendered(NAME, {"push": PUSH}))["push"]
    assert push["certificate"] == "/run/sysvm/current/front/server.pem"
    assert push["server_name"] == push["host"] == "192.0.2.1"
    assert push["batch"] == 100


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://a.example", ("a.example", 443, "/")),
        ("https://[2001:db8::1]:8444/x/y", ("2001:db8::1", 8444, "/x/y")),
        ("https://192.0.2.1/e", ("192.0.2.1", 443, "/e")),
    ],
)
def test_urls_are_taken_apart(url: str, parts: tuple[str, int, str]) -> None:
    assert events.parts(url) == parts


@pytest.mark.parametrize(
    "url",
    ["http://a.example/", "https://a.example/?q=1", "https://u@a.example/", "https://a.example/\n",
     "https://a_b.example/", "file:///etc/passwd", "https://a.example:0/", "https:// a.example"],
)  # fmt: skip
def test_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        events.Section.model_validate({"push": {**PUSH, "url": url}})


@pytest.mark.parametrize("key", ["", "ab", "AB" * 32, "zz" * 32, "<secret>", KEY + "\n"])
def test_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        events.Section.model_validate({"heartbeat": {**BEAT, "key": key}})


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"push": {**PUSH, "url": "https://198.51.100.1/"}}, "/events/push/url"),
        ({"push": {**PUSH, "url": "https://192.0.2.300/"}}, "/events/push/url"),
        ({"push": {**PUSH, "url": "https://192.0.2.1:65536/"}}, "/events/push/url"),
        ({"push": {**PUSH, "key": SECRET}}, "/events/push/certificate"),
        ({"push": {**PUSH, "certificate": PEM}}, "/events/push/key"),
        ({"heartbeat": {**BEAT, "address": "10.1.1.5"}}, "/events/heartbeat/address"),
    ],
)
def test_what_cannot_work_is_said_with_its_path(change: dict[str, Any], path: str) -> None:
    assert [problem.path for problem in linted(NAME, change)] == [path]


def test_way_out_is_a_control_nic_that_leads_there() -> None:
    second = Nic("eth3", "02:00:00:00:00:04", NicRole.CONTROL, (ip_interface("192.0.3.10/24"),))
    where = Context(
        role=context().role,
        hostname="r-1-vm",
        domain="net1.example",
        nics=(PUBLIC, GUEST, CONTROL, second),
        routed={"eth3": (ip_network("198.51.100.0/24"),)},
    )
    for address, nic in (("192.0.2.1", "eth2"), ("192.0.3.1", "eth3"), ("198.51.100.9", "eth3")):
        value = {
            "push": {**PUSH, "url": f"https://{address}/"},
            "heartbeat": {**BEAT, "address": address},
        }
        found = settings(rendered(NAME, value, where))
        assert (found["push"]["nic"], found["heartbeat"]["nic"]) == (nic, nic)
    by_name = rendered(NAME, {"push": {**PUSH, "url": "https://management.example/"}}, where)
    assert settings(by_name)["push"]["nic"] == "eth2"
