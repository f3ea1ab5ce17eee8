"""sysvm-front itself: whom it lets in, and what the agent behind it hears."""

import datetime as dt
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from appliance.lab.wait import wait_until
from tests.lab.test_service_daemons import House, house  # noqa: F401 - a fixture

DAY = dt.timedelta(days=1)
NOW = dt.datetime.now(dt.UTC)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


class Authority:
    """A CA of the test's own."""

    def __init__(self, common: str) -> None:
        self.name = _name(common)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = (
            self._begin(self.name, self.key.public_key(), NOW + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def _begin(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, until: dt.datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 10 * DAY)
            .not_valid_after(until)
        )

    def issue(
        self, common: str, until: dt.datetime = NOW + DAY
    ) -> tuple[x509.Certificate, str, str]:
        """A certificate, with itself and its key as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        issued = self._begin(_name(common), key.public_key(), until).sign(self.key, hashes.SHA256())
        text = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return issued, _pem(issued), text.decode()

    def revoke(self, *certificates: x509.Certificate) -> str:
        revoked = x509.CertificateRevocationListBuilder(self.name, NOW - DAY, NOW + DAY)
        for certificate in certificates:
            revoked = revoked.add_revoked_certificate(
                x509.RevokedCertificateBuilder(certificate.serial_number, NOW - DAY).build()
            )
        signed = revoked.sign(self.key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM).decode()


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


class Agent(BaseHTTPRequestHandler):
    """Answers with the headers that it was sent."""

    def do_GET(self) -> None:
        body = json.dumps([[k.lower(), v] for k, v in self.headers.items()]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base's name
        """Nobody reads it."""

    def address_string(self) -> str:
        return "unix"


ASK = """
    import http.client, json, ssl, sys
    address, newest, pem, *headers = sys.argv[1:]
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    tls.maximum_version = ssl.TLSVersion[newest]
    if pem:
        tls.load_cert_chain(pem)
    try:
        c = http.client.HTTPSConnection(address, 8443, timeout=5, context=tls)
        c.putrequest("GET", "/v1/status")
        for header in headers:
            c.putheader(*header.split(": "))
        c.endheaders()
        answer = c.getresponse()
        print(json.dumps([answer.status, json.loads(answer.read())]))
    except ssl.SSLError as error:
        print(json.dumps(["refused", error.reason]))
    except OSError as error:
        print(json.dumps(["closed", repr(error)]))
"""

Ask = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def ask(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:  # noqa: F811
    """Ask the front as one of several clients; a status with what came back, or how it failed."""
    pems = tmp_path_factory.mktemp("clients")
    ours, other = Authority("ours"), Authority("other")
    _, certificate, key = ours.issue("r-1-vm")
    revoked = ours.issue("management.example")
    for name, (_, chain, secret) in {
        "good": ours.issue("management.example"),
        "revoked": revoked,
        "expired": ours.issue("management.example", NOW - DAY),
        "unnamed": ours.issue("somebody.example"),
        "other": other.issue("management.example"),
    }.items():
        (pems / name).write_text(chain + secret)
    house.stage(
        "control",
        {
            "port": 8443,
            "ca": _pem(ours.certificate),
            "crl": ours.revoke(revoked[0]),
            "certificate": certificate,
            "key": key,
            "allowed_names": ["management.example"],
        },
    )
    agent = ThreadingUnixStreamServer(str(house.root / "run/sysvm/control.sock"), Agent)
    threading.Thread(target=agent.serve_forever, daemon=True).start()

    def ask(
        client: str, *headers: str, to: str = "127.0.0.1", newest: str = "TLSv1_3"
    ) -> list[Any]:
        pem = str(pems / client) if client else ""
        found: list[Any] = house.python(house.vm, ASK, to, newest, pem, *headers)
        return found

    with house.running(
        "haproxy", "-W", "-f", "/run/sysvm/current/front/haproxy.cfg",
        "-S", "/run/sysvm-front/master.sock",
    ):  # fmt: skip
        wait_until(lambda: ask("good")[0] == 200, 10, "the front answers")
        yield ask
    agent.shutdown()
    agent.server_close()


def test_allowed_client_comes_in_under_its_name(ask: Ask) -> None:
    status, headers = ask("good")
    assert status == 200
    assert ["x-sysvm-client", "management.example"] in headers


@pytest.mark.parametrize(
    ("client", "reason"),
    [
        ("", "CERTIFICATE_REQUIRED"),
        ("revoked", "CERTIFICATE_REVOKED"),
        ("expired", "CERTIFICATE_EXPIRED"),
        ("other", "UNKNOWN_CA"),
    ],
)
def test_others_do_not(ask: Ask, client: str, reason: str) -> None:
    how, why = ask(client)
    assert how in {"refused", "closed"}
    if how == "refused":
        assert reason in why


def test_good_certificate_of_another_name_is_forbidden(ask: Ask) -> None:
    status, problem = ask("unnamed")
    assert (status, problem["status"], problem["title"]) == (403, 403, "Forbidden")


def test_older_tls_is_refused(ask: Ask) -> None:
    assert ask("good", newest="TLSv1_2")[0] in {"refused", "closed"}


def test_client_cannot_say_who_it_is(ask: Ask) -> None:
    status, headers = ask(
        "good",
        "X-Sysvm-Client: root",
        "x-sysvm-role: admin",
        "X_Sysvm_Client: root",
        "X-Forwarded-For: 10.0.0.1",
        "Forwarded: for=10.0.0.1",
    )
    assert status == 200
    names = [name for name, _ in headers if name.startswith(("x", "forwarded"))]
    assert names == ["x-sysvm-client"]
    assert ["x-sysvm-client", "management.example"] in headers


def test_large_body_is_refused_before_it_is_sent(ask: Ask) -> None:
    assert ask("good", "Content-Length: 99999999")[0] == 413


@pytest.mark.parametrize("address", ["10.1.1.1", "203.0.113.10"])
def test_it_is_not_on_other_networks(ask: Ask, address: str) -> None:
    how, why = ask("good", to=address)
    assert how == "closed"
    assert "refused" in why


def test_key_of_another_certificate_is_found_by_the_checker(house: House) -> None:  # noqa: F811
    ours = Authority("ours")
    value = {
        "ca": _pem(ours.certificate),
        "certificate": ours.issue("r-1-vm")[1],
        "key": ours.issue("r-1-vm")[2],
        "allowed_names": ["management.example"],
    }
    current = house.revision
    (checked,) = house.check("control", value, house.stage("control", value))
    house.flip(current)
    assert checked.returncode != 0
    assert b"inconsistencies between private key and certificate" in checked.stderr


def test_secret_is_readable_by_nobody_else(house: House) -> None:  # noqa: F811
    pem: Path = house.root / "run/sysvm/current/front/server.pem"
    assert pem.stat().st_mode & 0o777 == 0o600
