"""A PostgreSQL of a test's own: Debian's package, in a folder of its own, as a user without rights.

It listens on a Unix socket in that folder alone.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg

from appliance.lab.wait import wait_until

_NOBODY = 65534


def programs() -> Path | None:
    """Where the newest PostgreSQL's programs are; None where it is not installed."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4])
    )
    return found[-1].parent if found else None


class Server:
    """A server that is up."""

    def __init__(self, folder: Path, user: str) -> None:
        self._folder = folder
        self._user = user
        self._made = 0

    def url(self, name: str) -> str:
        """How a manager is told of a database."""
        return f"postgresql://{self._user}@/{name}?host={self._folder}"

    def ready(self) -> bool:
        """Does it answer?"""
        with contextlib.suppress(psycopg.OperationalError):
            self._connect().close()
            return True
        return False

    def create(self) -> str:
        """The URL of a new, empty database."""
        self._made += 1
        name = f"manager{self._made}"
        with self._connect() as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def _connect(self) -> "psycopg.Connection[tuple[object, ...]]":
        return psycopg.connect(
            host=str(self._folder), user=self._user, dbname="postgres", autocommit=True
        )


@contextlib.contextmanager
def server(*, durable: bool = False) -> Iterator[Server]:
    """Have one until the block ends; `durable`: as it is by default, with everything synced."""
    found = programs()
    assert found is not None, "postgresql is not installed"
    folder = Path(tempfile.mkdtemp(prefix="sysvm-pg-", dir="/tmp"))
    user = "tester"
    # It ends with whoever has it, also where that is killed.
    become: tuple[str, ...] = ("setpriv", "--pdeathsig=QUIT")
    if os.getuid() == 0:
        os.chown(folder, _NOBODY, _NOBODY)
        become += (f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups")
    become += ("--",)
    data = folder / "data"
    initdb = (found / "initdb", "-D", data, "-U", user, "-A", "trust", "-E", "UTF8", "--no-sync")
    subprocess.run((*become, *map(str, initdb)), check=True, capture_output=True, cwd=folder)
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(folder),
        "max_connections": "200",
        "autovacuum": "off",
    } | ({} if durable else {"fsync": "off", "full_page_writes": "off"})
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            (*become, str(found / "postgres"), "-D", str(data), *options),
            stdout=log,
            stderr=log,
            cwd=folder,
        )
    try:
        running = Server(folder, user)
        wait_until(running.ready, 60, "PostgreSQL answers")
        yield running
    finally:
        process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
