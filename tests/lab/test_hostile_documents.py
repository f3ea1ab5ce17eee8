"""Documents that mean harm, or mean nothing: refused whole, quickly, and without a trace."""

import copy
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agent.document.document import merge
from agent.engine.model import pointer
from appliance.lab import Lab
from tests.lab.helpers import (
    PUBLIC_MAC,
    ROUTER_MAC,
    VM1,
    VM1_MAC,
    VM2_MAC,
    Document,
    Router,
    example,
    settle,
)

HOSTILE = (
    "vm\nserver=6.6.6.6",
    "vm\rserver=6.6.6.6",
    "vm\u0085x",
    "vm\u2028x",
    "vm\x00x",
    "vm #x",
    "{{7*7}}",
    "{% for x in y %}",
    "$(id)",
    "`id`",
    '"; reboot; "',
    "../../etc/passwd",
    "",
    "\ud83d\ude00",
)


@pytest.fixture(scope="module")
def router(lab: Lab) -> Router:
    """The example runs."""
    router = Router(lab)
    router.push(router.document)
    return router


@pytest.fixture(autouse=True)
def _unmoved(router: Router) -> Iterator[None]:
    """Whatever a test here pushes, the machine is afterwards as it was."""
    before = router.daemons(), router.firewall()
    yield
    assert (router.daemons(), router.firewall()) == before
    assert router.drift() == []


def strings(value: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """Where the strings of a document are: its values, and the keys of its maps."""
    match value:
        case dict():
            for key, child in value.items():
                yield from strings(child, *path, key)
        case list():
            for number, child in enumerate(value):
                yield from strings(child, *path, str(number))
        case str():
            yield path


def with_value(document: Document, path: tuple[str, ...], new: object) -> Document:
    """The document with another value there."""
    changed: Any = copy.deepcopy(document)
    place = changed
    for key in path[:-1]:
        place = place[int(key)] if isinstance(place, list) else place[key]
    place[int(path[-1]) if isinstance(place, list) else path[-1]] = new
    return dict(changed)


def with_key(document: Document, path: tuple[str, ...], new: str) -> Document:
    """The document with another key there."""
    changed: Any = copy.deepcopy(document)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[new] = place.pop(path[-1])
    return dict(changed)


def dry_run(router: Router, document: Document) -> Any:
    return router.lab.vm.request("PUT", "/v1/document?dry_run=1", json=document)


def test_newline_in_a_name_is_refused_with_its_path(router: Router) -> None:
    """Case 1."""
    document = merge(
        router.document, {"dhcp_dns": {"hosts": {VM1_MAC: {"name": "vm\nserver=6.6.6.6"}}}}
    )
    assert list(router.refused(document)) == [f"/dhcp_dns/hosts/{VM1_MAC}/name"]


def rich() -> Document:
    """The example with as many kinds of strings as there are."""
    options = {
        "domain_search": ["a.example"],
        "bootfile_name": "pxelinux.0",
        "timezone": "Europe/Zurich",
        "ntp_servers": ["10.1.1.5"],
        "classless_routes": {"192.168.50.0/24": "10.1.1.254"},
    }
    listener = {"check": {"host": "shop.example", "expect": "200-299"}}
    change = {
        "generation": 500,
        "site": {"routes": {"192.168.50.0/24": {"via": "10.1.1.254"}}},
        "dhcp_dns": {"options": options, "dns": {"data_server": "10.1.1.1"}},
        "nat": {"forwards": {"web": {"ports": "8080-8081", "to_ports": "80-81"}}},
        "firewall": {"egress": {"rules": {"no-mail": {"destinations": ["0.0.0.0/0"]}}}},
        "load_balancer": {"listeners": {"shop": listener}},
    }
    return dict(merge(example(), change))


def test_no_string_of_a_document_carries_anything_else(router: Router) -> None:
    """Case 2, in short: every string and key of a rich document, with everything hostile."""
    document = rich()
    assert dry_run(router, document).status == 200
    values = list(strings(document))
    found = {path[:n] for path in values for n in range(1, len(path) + 1)}
    keys = sorted(path for path in found if not path[-1].isdecimal())
    taken: set[str] = set()
    for number, hostile in enumerate(HOSTILE):  # a newline everywhere, the others in turn
        step, first = (1, 0) if number == 0 else (4, number % 4)
        tried = [(path, with_value(document, path, hostile)) for path in values[first::step]]
        tried += [(path, with_key(document, path, hostile)) for path in keys[first::step]]
        for path, changed in tried:
            answer = dry_run(router, changed)
            assert answer.status in {200, 400, 422}, (path, hostile, answer.text)
            if answer.status == 200:
                taken.add(pointer(*path))
            elif answer.status == 422:
                assert answer.json()["problems"], path
    # What people write for people is theirs to choose, as long as it can be printed; and a boot
    # file's name is looked up elsewhere.
    taken -= {path for path in taken if path.startswith("/user_data/guests/")}
    assert taken <= {"/dhcp_dns/options/bootfile_name"}


def test_printable_text_arrives_as_it_was(lab: Lab, router: Router) -> None:
    settle(lab.guests["vm1"], VM1)
    for text in (
        "vm #x",
        "{{7*7}}",
        "{% for x in y %}",
        "$(id)",
        '"; reboot; "',
        "ü 漢 \U0001f600",
    ):
        with router.changed({"user_data": {"guests": {VM1: {"extra": {"rack": {"value": text}}}}}}):
            got = lab.guests["vm1"].get("http://10.1.1.1/latest/rack")
            assert got.body.decode() == text


def test_everything_wrong_is_told_at_once(router: Router) -> None:
    """Case 5: unknown, missing, of the wrong type, impossible."""
    change = {
        "surplus": {},
        "site": {"hostname": None, "colour": "red"},
        "dhcp_dns": {"hosts": {VM2_MAC: {"address": 7}}, "dhcp": {"enabled": "yes"}},
        "nat": {"forwards": {"web": {"ports": True, "to": None, "shade": 1}}},
        "load_balancer": {"listeners": {"shop": {"port": "80", "balance": "luck"}}},
    }
    assert set(router.refused(merge(router.document, change))) == {
        "/surplus",
        "/site/hostname",
        "/site/colour",
        f"/dhcp_dns/hosts/{VM2_MAC}/address",
        "/dhcp_dns/dhcp/enabled",
        "/nat/forwards/web/ports",
        "/nat/forwards/web/to",
        "/nat/forwards/web/shade",
        "/load_balancer/listeners/shop/port",
        "/load_balancer/listeners/shop/balance",
    }


@pytest.mark.parametrize(
    "spelling",
    [
        "10.1.1.1/24/24",
        "::ffff:1.2.3.4",
        "010.0.0.1",
        "1.2.3",
        "fe80::1%eth0",
        "10.1.1.5/24",
        "\u0661.1.1.1",
    ],
)
def test_addresses_have_one_spelling(router: Router, spelling: str) -> None:
    """Case 6."""
    for change, path in (
        ({"nat": {"source_address": spelling}}, "/nat/source_address"),
        ({"dhcp_dns": {"dns": {"upstreams": [spelling]}}}, "/dhcp_dns/dns/upstreams/0"),
        (
            {"firewall": {"ingress": {"203.0.113.11": {"shop": {"sources": [spelling]}}}}},
            "/firewall/ingress/203.0.113.11/shop/sources/0",
        ),
        ({"site": {"routes": {spelling: {"via": "203.0.113.1"}}}}, None),
    ):
        document = merge(router.document, change) | {"generation": 500}
        answer = dry_run(router, document)
        assert answer.status == 422, (spelling, change)
        paths = {problem["path"] for problem in answer.json()["problems"]}
        assert path is None or path in paths


@pytest.mark.parametrize("ports", [0, 65536, -1, "90-80", "80-", "80-90-100", " 80", "080", 1.5])
def test_ports_that_are_none(router: Router, ports: object) -> None:
    """Case 7."""
    web = {"nat": {"forwards": {"web": {"ports": ports}}}}
    rule = {"firewall": {"egress": {"rules": {"no-mail": {"ports": ports}}}}}
    problems = router.refused(merge(router.document, merge(web, rule)))
    assert set(problems) == {"/nat/forwards/web/ports", "/firewall/egress/rules/no-mail/ports"}


def test_range_of_ports_is_written_as_one(router: Router) -> None:
    document = merge(router.document, {"nat": {"forwards": {"web": {"ports": "80-90"}}}})
    assert dry_run(router, {**document, "generation": 500}).status == 200


def agents_memory(lab: Lab) -> int:
    """Bytes that the agent has in memory."""
    pid = lab.vm.run(["systemctl", "show", "-P", "MainPID", "sysvm-agent"]).text.strip()
    status = lab.vm.run(["cat", f"/proc/{pid}/status"]).text
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


BODIES: dict[str, Callable[[], bytes]] = {
    "64 MB": lambda: b" " * (64 * 10**6),
    "100,000 lists deep": lambda: b"[" * 100_000 + b"]" * 100_000,
    "100,000 objects deep": lambda: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a name twice": lambda: b'{"schema":1,"schema":1}',
    "NaN": lambda: b'{"schema":1,"generation":NaN}',
    "Infinity": lambda: b'{"schema":1,"generation":-Infinity}',
    "1e400": lambda: b'{"schema":1,"generation":1e400}',
    "a number of 100,000 digits": lambda: b'{"generation":' + b"9" * 100_000 + b"}",
    "not UTF-8": lambda: b'{"schema":"\xff"}',
    "half": lambda: b'{"schema":1,',
    "nothing": lambda: b"",
    "two": lambda: b"{}{}",
}


@pytest.mark.parametrize("door", ["socket", "tls"])
@pytest.mark.parametrize("kind", BODIES)
def test_bodies_that_are_no_document(lab: Lab, router: Router, kind: str, door: str) -> None:
    """Case 10."""
    ask = lab.vm.request if door == "socket" else lab.manager.request
    body, before = BODIES[kind](), agents_memory(lab)
    began = time.monotonic()
    try:
        answer = ask("PUT", "/v1/document", body=body, headers={"Content-Type": "application/json"})
    except OSError:
        # Whoever sends more than is allowed may be hung up on before he has read why.
        assert kind == "64 MB"
    else:
        assert answer.status == (413 if kind == "64 MB" else 400), answer.text
        assert answer.headers["content-type"] == "application/problem+json"
    assert time.monotonic() - began < 2
    assert lab.vm.request("GET", "/v1/status").status == 200
    assert agents_memory(lab) - before < 40 * 2**20


def test_numbers_that_do_not_fit(router: Router) -> None:
    for number in (2**70, -(2**70), 2**63, -1, 1.0, 1e300):
        answer = router.put({**router.document, "generation": number})
        assert answer.status == 422, number
        assert [p["path"] for p in answer.json()["problems"]] == ["/generation"]
        text = json.dumps(router.document).replace('"port": 80', f'"port": {number}')
        answer = router.lab.vm.request("PUT", "/v1/document", body=text.encode())
        assert answer.status == 422, number


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (
            {"site": {"nics": {PUBLIC_MAC: {"addresses": {"10.1.1.9/24": {}}}}}},
            f"/site/nics/{PUBLIC_MAC}/addresses/10.1.1.9~124",
        ),
        (
            {"site": {"nics": {PUBLIC_MAC: {"addresses": {"10.0.0.9/8": {}}}}}},
            f"/site/nics/{PUBLIC_MAC}/addresses/10.0.0.9~18",
        ),
        (
            {"site": {"nics": {ROUTER_MAC: {"addresses": {"203.0.113.10/32": {}}}}}},
            f"/site/nics/{PUBLIC_MAC}/addresses/203.0.113.10~124",
        ),
        (
            {"nat": {"forwards": {"web2": {"address": "203.0.113.10", "protocol": "tcp",
                                           "ports": "8000-8100", "to": "10.1.1.11"}}}},
            "/nat/forwards/web",
        ),
        (
            {"nat": {"static": {"203.0.113.11": {"to": "10.1.1.10"}}}},
            "/load_balancer/listeners/shop",
        ),
        (
            {"load_balancer": {"listeners": {"mine": {"address": "10.1.1.1", "port": 53}}}},
            "/load_balancer/listeners/mine",
        ),
        ({"site": {"nics": {ROUTER_MAC: None}}}, "/dhcp_dns/ranges/visitors/first"),
        ({"site": {"nics": {"0e:00:a9:fe:0a:02": None}}}, "/site/nics"),
    ],
    ids=["same network", "containing network", "same address", "overlapping forwards",
         "static NAT and listener", "a port of dnsmasq's", "no guest NIC", "no control NIC"],
)  # fmt: skip
def test_parts_that_contradict_each_other(router: Router, change: Document, path: str) -> None:
    """Case 11."""
    problems = router.refused(merge(router.document, change))
    assert path in problems, problems
