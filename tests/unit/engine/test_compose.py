"""Composition: one owner for every port, and every problem of every service at once."""

import json
import time
from typing import Any

import pytest

from agent.document.boot import parse as parse_boot
from agent.document.document import InvalidDocument, merge, parse
from agent.engine.compose import Composer, Push
from agent.engine.model import Link
from appliance.lab.pki import Authority
from tests.unit.engine.documents import BOOT, router, with_services
from tests.unit.engine.memory import CONTROL, GUEST, PUBLIC

LINKS = tuple(
    Link(name, mac, 1500, up=False)
    for name, mac in (("eth0", GUEST), ("eth1", CONTROL), ("eth2", PUBLIC))
)


def problems(change: dict[str, Any]) -> dict[str, str]:
    document = parse(json.dumps(merge(json.loads(router(1)), change)).encode())
    with pytest.raises(InvalidDocument) as caught:
        Composer().compose(document, LINKS, parse_boot(json.dumps(BOOT).encode()))
    return {problem.path: problem.message for problem in caught.value.problems}


def forward(port: object, **fields: object) -> dict[str, object]:
    return {
        "address": "203.0.113.10", "protocol": "tcp", "ports": port, "to": "10.1.1.10", **fields,
    }  # fmt: skip


def listener(port: int) -> dict[str, Any]:
    return {"listeners": {"shop": {"address": "203.0.113.10", "port": port}}}


@pytest.mark.parametrize(
    ("change", "path", "other"),
    [
        (
            {"nat": {"forwards": {"a": forward("80-90"), "b": forward(85)}}},
            "/nat/forwards/b",
            "/nat/forwards/a",
        ),
        (
            {"nat": {"forwards": {"a": forward(80)}}, "load_balancer": listener(80)},
            "/nat/forwards/a",
            "/load_balancer/listeners/shop",
        ),
        (
            {
                "nat": {
                    "source_address": None,
                    "forwards": {"a": forward(80)},
                    "static": {"203.0.113.10": {"to": "10.1.1.12"}},
                }
            },
            "/nat/forwards/a",
            "/nat/static/203.0.113.10",
        ),
    ],
)
def test_port_that_two_want_is_a_problem_that_names_both(
    change: dict[str, Any], path: str, other: str
) -> None:
    found = problems(change)
    assert found.keys() & {path, other}
    assert any(path in message or other in message for message in found.values())


def test_same_port_of_other_protocols_and_addresses_is_free() -> None:
    change = {
        "nat": {
            "forwards": {
                "a": forward(80),
                "b": forward(80, protocol="udp"),
                "c": forward(80, address="203.0.113.11"),
            }
        }
    }
    document = parse(json.dumps(merge(json.loads(router(1)), change)).encode())
    Composer().compose(document, LINKS, None)


@pytest.mark.parametrize(
    ("nics", "path"),
    [
        ({GUEST: {"addresses": {"10.1.1.0/24": {}}}}, f"/site/nics/{GUEST}/addresses/10.1.1.0~124"),
        (
            {GUEST: {"addresses": {"10.1.1.255/24": {}}}},
            f"/site/nics/{GUEST}/addresses/10.1.1.255~124",
        ),
        (
            {GUEST: {"addresses": {"203.0.113.129/25": {}}}},
            f"/site/nics/{PUBLIC}/addresses/203.0.113.10~124",
        ),
        (
            {GUEST: {"addresses": {"203.0.113.10/24": {}}}},
            f"/site/nics/{PUBLIC}/addresses/203.0.113.10~124",
        ),
        ({PUBLIC: {"gateway": "192.0.2.1"}}, f"/site/nics/{PUBLIC}/gateway"),
        ({PUBLIC: {"gateway": "203.0.113.10"}}, f"/site/nics/{PUBLIC}/gateway"),
        ({GUEST: {"gateway": "10.1.1.254"}}, f"/site/nics/{PUBLIC}/gateway"),
        ({CONTROL: None}, "/site/nics"),
        ({"02:00:00:00:00:99": {"role": "guest"}}, "/site/nics/02:00:00:00:00:99"),
    ],
)
def test_site_that_cannot_be_is_a_problem_at_its_path(nics: dict[str, Any], path: str) -> None:
    assert path in problems({"site": {"nics": nics}})


def test_route_has_to_lead_somewhere() -> None:
    found = problems({"site": {"routes": {"192.168.0.0/16": {"via": "192.0.2.1"}}}})
    assert "/site/routes/192.168.0.0~116/via" in found


def test_section_that_did_not_change_is_not_rendered_again() -> None:
    composer = Composer()
    first = parse(router(1))
    second = parse(router(2), first)
    one = composer.compose(first, LINKS, None)
    other = composer.compose(second, LINKS, None)
    assert all(a is b for a, b in zip(one.rules, other.rules, strict=True))


def test_section_that_did_not_change_is_kept_once() -> None:
    one = parse(router(1))
    two = parse(router(2, nat={"source_address": "203.0.113.11"}), one)
    assert two.texts["firewall"] is one.texts["firewall"]
    assert two.texts["nat"] != one.texts["nat"]


def test_certificates_that_have_run_out_are_refused_in_a_push_and_come_up_at_boot() -> None:
    authority = Authority.create("Root")
    identity = authority.issue("proxy", names=["*.console.example"])
    given = json.loads(router(1))
    section = {
        "networks": ["10.2.0.0/24"],
        "domain": "*.console.example",
        "certificates": {"own": identity.certificate, "root": authority.identity.certificate},
        "key": identity.key,
    }
    kept = {name: given[name] for name in ("schema", "generation", "site")}
    value = kept | {"role": "console-proxy", "console": section}

    def found(document: bytes, push: Push | None) -> dict[str, str]:
        try:
            Composer().compose(parse(document), LINKS, None, push)
        except InvalidDocument as error:
            return {problem.path: problem.message for problem in error.problems}
        return {}

    good = json.dumps(value).encode()
    today, later = time.time(), time.time() + 40 * 365 * 86400
    assert found(good, None) == {}
    assert found(good, Push(today, {})) == {}
    refused = found(good, Push(later, {}))
    assert "expired on" in refused["/console/certificates/own"]
    # What runs already goes on, whatever else is pushed.
    assert found(good, Push(later, parse(good).texts)) == {}
    # And it is told beside everything else.
    worse = json.dumps(value | {"console": section | {"networks": ["0.0.0.0/0"]}}).encode()
    assert set(found(worse, Push(later, {}))) >= {
        "/console/networks/0", "/console/certificates/own",
    }  # fmt: skip


def test_everybody_may_read_what_starts_ahead_of_the_restore() -> None:
    """A boot copies these files with no regard to modes (share/firewall)."""
    boot = parse_boot(json.dumps(BOOT).encode())
    desired = Composer().compose(parse(with_services(1)), LINKS, boot)
    ahead = {unit.name for unit in desired.units.values() if unit.ahead}
    files = [file for file in desired.files.values() if file.unit in ahead]
    assert ahead
    assert files
    for file in files:
        assert file.mode & 0o444 == 0o444, file.path
        assert not file.mode & 0o111, file.path
