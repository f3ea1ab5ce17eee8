"""Refusals at the control endpoint: who, why, and folded by the minute."""

import pytest

from agent.monitor.events import Kind
from agent.monitor.refusals import CLIENTS, OTHERS, Refusals, parse
from tests.unit.monitor.heard import Heard

# As sysvm-front (haproxy 3.0.11) wrote them.
VERIFY = (
    "169.254.0.1:60812 refused: SSL client certificate not trusted error:0A000086:SSL routines::"
    'certificate verify failed verify=X509_V_ERR_{} name="sysvm-manager"'
)
HANDSHAKE = (
    "169.254.0.1:60850 refused: SSL handshake failure error:0A0000C7:SSL routines::{} "
    'verify=X509_V_OK name=""'
)
NAME = '[2001:db8::1]:60810 "somebody-else" GET /v1/status 403 243 0 LR'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (VERIFY.format("CERT_REVOKED"), "its certificate is revoked"),
        (VERIFY.format("CERT_HAS_EXPIRED"), "its certificate has expired"),
        (
            VERIFY.format("UNABLE_TO_GET_ISSUER_CERT_LOCALLY"),
            "its certificate is of another authority",
        ),
        (VERIFY.format("INVALID_PURPOSE"), "its certificate: invalid purpose"),
        (HANDSHAKE.format("peer did not return a certificate"), "it showed no certificate"),
        (HANDSHAKE.format("unsupported protocol"), "its handshake failed: unsupported protocol"),
        (HANDSHAKE.format("http request"), "its handshake failed: http request"),
        (NAME, "the name of its certificate is not among the allowed ones"),
    ],
)
def test_reasons_are_said_in_words(line: str, reason: str) -> None:
    found = parse(line)
    assert found is not None
    assert found.reason == reason


@pytest.mark.parametrize(
    "line",
    [
        '169.254.0.1:60884 "sysvm-manager" GET /v1/status 503 207 0 SC',
        '169.254.0.1:1 refused: Connection closed during SSL handshake - verify=X509_V_OK name=""',
        "Proxy control stopped (cumulated conns: FE: 3, BE: 2).",
        "",
    ],
)
def test_what_is_no_refusal_is_none(line: str) -> None:
    assert parse(line) is None


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_refusals_are_folded_by_client_and_minute() -> None:
    heard, clock = Heard(), Clock()
    refusals = Refusals(heard, clock)
    for _ in range(10):
        refusals.heard(NAME)
        clock.now += 1
    refusals.heard(VERIFY.format("CERT_REVOKED"))
    assert [(e.subject, e.data["times"]) for e in heard.events] == [
        ("[2001:db8::1]", 1),
        ("169.254.0.1", 1),
    ]
    assert heard.events[0].data["name"] == "somebody-else"
    clock.now = 61
    refusals.idle()
    assert heard.events[2].data["times"] == 9
    assert heard.events[2].message.endswith("9 times within a minute")
    clock.now = 200
    refusals.idle()
    assert len(heard.events) == 3
    refusals.heard(NAME)
    assert heard.events[3].data["times"] == 1
    assert set(heard.kinds) == {Kind.CLIENT_REFUSED}


def test_scan_from_everywhere_is_told_as_one() -> None:
    heard, clock = Heard(), Clock()
    refusals = Refusals(heard, clock)
    for number in range(10 * CLIENTS):
        refusals.heard(NAME.replace("db8::1", f"db8::{number:x}"))
    clock.now = 61
    refusals.idle()
    assert len(heard.events) == CLIENTS + 2
    assert heard.events[-1].subject == OTHERS
    assert heard.events[-1].data["times"] == 9 * CLIENTS - 1
