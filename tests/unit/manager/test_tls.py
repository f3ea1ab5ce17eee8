"""The manager's own TLS: what is shown, to whom, and that it is renewed without a restart."""

import shutil
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from appliance.cli import app
from appliance.errors import ApplianceError
from appliance.lab.pki import Authority
from appliance.lab.wait import wait_until
from appliance.manager import access
from appliance.manager.access import Role
from appliance.manager.database import Database
from appliance.manager.tls import Shown
from tests.unit.manager.agent import Keys
from tests.unit.manager.process import running


class Files:
    """What a manager shows, and who believes it; `replace` as certificates' tools do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.authority = Authority.create("callers")
        self.ca, _ = self.authority.identity.write(folder, "ca")
        self.certificate, self.key = folder / "shown.pem", folder / "shown.key"
        self.replace("first")

    def replace(self, name: str, *, key: bool = True) -> None:
        issued = self.authority.issue(name, addresses=("127.0.0.1",))
        certificate, new_key = issued.write(self.folder, name)
        shutil.copy(certificate, self.folder / "new")
        (self.folder / "new").replace(self.certificate)
        if key:
            shutil.copy(new_key, self.folder / "new")
            (self.folder / "new").replace(self.key)

    @property
    def options(self) -> tuple[str, ...]:
        return ("--tls-certificate", str(self.certificate), "--tls-key", str(self.key))

    def client(self, least: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        if least is not None:
            context.minimum_version = context.maximum_version = least
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "tls")


@pytest.fixture
def token(tmp_path: Path) -> str:
    database = Database(f"sqlite:///{tmp_path}/manager.db")
    database.migrate()
    made = database.write(lambda c: access.make(c, "root", Role.OPERATE, 0.0))
    database.close()
    return made.token


def shown(port: int, files: Files, least: ssl.TLSVersion | None = None) -> str:
    """Whom a manager says that it is."""
    with (
        socket.create_connection(("127.0.0.1", port), 20) as plain,
        files.client(least).wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        certificate = secure.getpeercert() or {}
    return str(dict(part[0] for part in certificate["subject"])["commonName"])  # type: ignore[misc]  # as ssl has it


def test_calls_go_over_tls_and_say_where_they_come_from(
    tmp_path: Path, keys: Keys, files: Files, token: str
) -> None:
    url = f"sqlite:///{tmp_path}/manager.db"
    with running(url, keys, tmp_path, "m1", *files.options, ca=files.ca) as one:
        assert one.url.startswith("https://")
        given = ["--manager", one.url, "--token", token]
        answer = CliRunner().invoke(app, ["vm", "list", *given, "--ca", str(files.ca)])
        assert (answer.exit_code, answer.output) == (0, "")
        answer = CliRunner().invoke(app, ["vm", "list", *given])
        assert isinstance(answer.exception, ApplianceError)
        assert "CERTIFICATE_VERIFY_FAILED" in str(answer.exception)
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(
            base_url=one.url, verify=files.client(), headers=headers, timeout=60
        ) as client:
            # A body of some megabytes (of another SHA-256), on a connection that is kept.
            assert client.put(f"/v1/blobs/{'0' * 64}", content=b"x" * 3_000_000).status_code == 400
            assert client.delete("/v1/proxies/p1").status_code == 404
            row = client.get("/v1/audit?limit=1").json()[0]
        assert (row["request"], row["source"]) == ("DELETE /v1/proxies/{proxy}", "127.0.0.1")
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            assert shown(one.port, files, version) == "first"
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{one.port}/v1/openapi.json", timeout=20)
        assert "Traceback" not in one.log


def test_whoever_says_nothing_keeps_nobody_waiting(
    tmp_path: Path, keys: Keys, files: Files
) -> None:
    url = f"sqlite:///{tmp_path}/manager.db"
    with running(url, keys, tmp_path, "m1", *files.options, ca=files.ca) as one:
        silent = [socket.create_connection(("127.0.0.1", one.port), 20) for _ in range(50)]
        assert shown(one.port, files) == "first"
        # They are let go of when the handshake is overdue.
        silent[0].settimeout(60)
        assert silent[0].recv(1) == b""
        for sock in silent:
            sock.close()


def test_a_certificate_is_replaced_without_a_restart(
    tmp_path: Path, keys: Keys, files: Files
) -> None:
    url = f"sqlite:///{tmp_path}/manager.db"
    with running(url, keys, tmp_path, "m1", *files.options, ca=files.ca) as one:
        with httpx.Client(base_url=one.url, verify=files.client(), timeout=60) as client:
            client.get("/v1/openapi.json")
            files.replace("second")
            assert shown(one.port, files) == "second"
            assert client.get("/v1/openapi.json").status_code == 200  # on the connection of before
        files.replace("third", key=False)  # the key is not there yet
        assert shown(one.port, files) == "second"
        assert "cannot be used, and is not shown" in one.log
        files.replace("fourth")
        assert one.process is not None
        one.process.send_signal(signal.SIGHUP)
        wait_until(lambda: one.log.count("is shown from now on") == 2, 60, "it is looked at")
        assert shown(one.port, files) == "fourth"
        assert one.stop() == 0


def test_a_manager_that_is_told_to_end_amid_a_new_connection_ends() -> None:
    """waitress suppresses whatever is raised by what another thread has it do."""
    program = """
import os, signal
from waitress import create_server
from appliance.manager.serve import run_until_told
server = create_server(lambda *_: [], listen="127.0.0.1:0")
def told():
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000):  # in which the signal is handled
        pass
    print("told", flush=True)
server.trigger.pull_trigger(told)
run_until_told(server)
print("ended")
"""
    argv = [sys.executable, "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "told\nended\n", done.stderr


def test_the_authority_of_those_that_push_events_is_renewed_as_well(tmp_path: Path) -> None:
    files = Files(tmp_path / "tls")
    made = Shown(files.certificate, files.key, files.ca)
    assert made.context() is made.context()
    assert made.context().verify_mode is ssl.CERT_REQUIRED
    before = made.context()
    other, _ = Authority.create("others").identity.write(tmp_path, "other")
    other.replace(files.ca)
    assert made.context() is not before
    (known,) = made.context().get_ca_certs()
    assert "others" in str(known["subject"])
    files.key.unlink()  # it is being replaced
    assert made.context() is made.context()


def test_a_certificate_that_cannot_be_used_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ApplianceError, match="cannot be used"):
        Shown(tmp_path / "none.pem", tmp_path / "none.key")
    serve = ["manager", "serve", "--agent-ca", "a", "--agent-certificate", "b", "--agent-key", "c"]
    answer = CliRunner().invoke(app, [*serve, "--key", f"{tmp_path}/k", "--tls-key", "d"])
    assert "--tls-certificate and --tls-key go together" in str(answer.exception)
