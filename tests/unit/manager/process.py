"""Managers as processes of their own, by the command line."""

import contextlib
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

from appliance.lab.wait import wait_until
from tests.unit import ports
from tests.unit.manager.agent import Keys


class Process:
    """A manager; `kill` ends it as a power cut would."""

    def __init__(
        self, url: str, keys: Keys, folder: Path, name: str, *more: str, ca: Path | None = None
    ) -> None:
        """With `ca` it does TLS, by a certificate of that authority's."""
        self.port = ports.free()
        self._verify = True if ca is None else ssl.create_default_context(cafile=str(ca))
        self._log = folder / f"{name}.log"
        identity = keys.identity
        self._argv = [
            sys.executable, "-c", "from appliance.cli import main; main()", "manager", "serve",
            "--database", url,
            "--listen", f"127.0.0.1:{self.port}", "--key", str(folder / "seal.key"),
            "--agent-ca", str(identity.ca), "--agent-certificate", str(identity.certificate),
            "--agent-key", str(identity.key), "--name", name, *more,
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        scheme = "http" if self._verify is True else "https"
        return f"{scheme}://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self._log.read_text()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._argv, stdout=log, stderr=log)
        wait_until(self._answers, 60, "the manager answers")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        with contextlib.suppress(httpx.HTTPError):
            path = f"{self.url}/v1/openapi.json"
            return httpx.get(path, timeout=5, verify=self._verify).status_code == 200
        return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        status = self.process.wait(20)
        self.process = None
        return status


@contextlib.contextmanager
def running(
    url: str, keys: Keys, folder: Path, name: str, *more: str, ca: Path | None = None
) -> Iterator[Process]:
    """One until the block ends."""
    made = Process(url, keys, folder, name, *more, ca=ca)
    try:
        yield made
    finally:
        made.kill()
