"""Certificates of the control endpoint, of IPsec and of any daemon: their dates against now."""

import datetime as dt
import time
from collections.abc import Mapping
from dataclasses import replace

import pytest

from agent.engine.model import Connection, File
from agent.monitor.checks import Round
from agent.monitor.checks.certificates import texts
from agent.monitor.health import Verdict
from appliance.lab.pki import Authority
from tests.unit.engine.documents import router
from tests.unit.monitor.checks.machine import FakeMachine, found, given

DAY = dt.timedelta(days=1)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("an authority")


def about(files: Mapping[str, str], connections: Mapping[str, str] = {}) -> Round:
    """A round whose document has these files, and tells charon this."""
    one = given(router(), wall=time.time())
    assert one.desired is not None
    one.desired = replace(
        one.desired,
        files={path: File(path, text.encode()) for path, text in files.items()},
        connections={
            name: Connection(name, "", text.encode()) for name, text in connections.items()
        },
    )
    return one


def issued(authority: Authority, left: dt.timedelta, since: dt.timedelta = -DAY) -> str:
    return authority.issue("vm.example", valid=(since, left)).certificate


def test_valid_ones_pass_and_say_when_the_first_ends(authority: Authority) -> None:
    finding = found("certificates", about({"front/server.pem": issued(authority, 100 * DAY)}))
    assert (finding.verdict, finding.threshold) == (Verdict.PASSED, 14.0)
    assert finding.value is not None
    assert 99 < finding.value <= 100


def test_one_that_ends_too_soon_fails_and_one_that_has_ended_too(authority: Authority) -> None:
    soon = found("certificates", about({"front/server.pem": issued(authority, 3 * DAY)}))
    assert (soon.verdict, soon.path) == (Verdict.FAILED, "/control/certificate")
    assert "of vm.example expires in 3.0 days" in soon.message
    over = found("certificates", about({"front/server.pem": issued(authority, -DAY / 2)}))
    assert "expired 12.0 hours ago" in over.message
    assert over.missing == (f"/control/certificate: {over.message}",)
    early = found("certificates", about({"front/ca.pem": issued(authority, 90 * DAY, DAY)}))
    assert (early.path, "not valid yet" in early.message) == ("/control/ca", True)


def test_a_list_that_is_over_fails(authority: Authority) -> None:
    one = about({"front/crl.pem": authority.crl()})
    assert found("certificates", one).verdict is Verdict.PASSED
    assert isinstance(one.machine, FakeMachine)
    one.machine.wall += 3700 * 86400
    finding = found("certificates", one)
    assert (finding.verdict, finding.path) == (Verdict.FAILED, "/control/crl")


def test_those_of_ipsec_and_of_any_daemon_are_looked_at(authority: Authority) -> None:
    import json

    told = json.dumps({"connection": {"local": {"certs": [issued(authority, 2 * DAY)]}}})
    finding = found("certificates", about({}, {"branch": told}))
    assert finding.path == "/ipsec/connections/branch/certificates"
    finding = found("certificates", about({"haproxy/shop.pem": issued(authority, 2 * DAY)}))
    assert finding.path == "haproxy/shop.pem"


def test_no_key_is_looked_at(authority: Authority) -> None:
    one = about({"front/server.pem": authority.identity.certificate + authority.identity.key})
    assert one.desired is not None
    assert found("certificates", one).verdict is Verdict.PASSED
    assert list(texts(one.desired)) == ["/control/certificate"]


def test_nothing_to_look_at_and_nothing_that_can_be_read() -> None:
    assert found("certificates", about({})).verdict is Verdict.SKIPPED
    broken = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
    assert found("certificates", about({"front/ca.pem": broken})).verdict is Verdict.UNKNOWN
