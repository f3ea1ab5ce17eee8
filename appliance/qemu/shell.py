"""A root shell in a machine over its second serial port, for tests.

No image has it: whoever boots the machine hands it in, as a rule for udev in a credential
(systemd.system-credentials(7)), as only a hypervisor can. It needs no network, no account and no
driver but the serial port's, and so it also tells how a VM is that nobody reaches.
"""

import base64
import itertools
import re
import secrets
import shlex
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.system.run import CommandFailed, Completed
from appliance.lab.wait import TookTooLong

PORT = "/dev/ttyS1"
UNIT = "sysvm-proof"
# systemd-run(1) needs neither D-Bus nor a unit file; udev takes rules from credentials.
_START = (
    f"/usr/bin/systemd-run --no-block --quiet --unit={UNIT} --property=DefaultDependencies=no "
    "--property=Restart=always --property=RestartSec=1 --property=OOMScoreAdjust=-1000 "
    f"/bin/sh -c '/usr/bin/stty -F {PORT} raw -echo; exec /bin/sh <{PORT} >{PORT} 2>&1'"
)
CREDENTIALS: Mapping[str, bytes] = {
    "udev.rules.sysvm-proof": f'ACTION=="add", KERNEL=="ttyS1", RUN+="{_START}"\n'.encode(),
}
"""What a machine with systemd is booted with to have the shell."""

_CHUNK = 2048  # bytes of standard input a line


class Shell:
    """Commands for a machine, one after another, over the socket of its second serial port."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._numbers = itertools.count(1)
        self._mark = secrets.token_hex(4)  # not to take another session's answer for ours
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def answers(self, timeout: float = 2) -> bool:
        """Whether a shell listens."""
        try:
            return self.run(["true"], timeout, check=False).returncode == 0
        except (TookTooLong, OSError):
            return False

    def run(
        self,
        argv: Sequence[str],
        timeout: float = 60,
        *,
        check: bool = True,
        stdin: bytes = b"",
    ) -> Completed:
        """Run a program to its end. With `check`, raises CommandFailed; TookTooLong."""
        with self._lock:
            mark = f"{self._mark}-{next(self._numbers)}"
            given = f"/run/.{self._mark}"
            lines = [f": >{given}"]
            encoded = base64.b64encode(stdin).decode()
            lines += [
                f"printf %s {encoded[at : at + _CHUNK]} >>{given}"
                for at in range(0, len(encoded), _CHUNK)
            ]
            # The marks are put together by the shell, so that an echo is never taken for one.
            lines.append(
                f"base64 -d {given} | {{ {shlex.join(argv)}; }} >{given}.o 2>{given}.e; "
                f"code=$?; echo; echo '<'{mark}; echo $code; base64 {given}.o; echo .; "
                f"base64 {given}.e; echo {mark}'>'; rm -f {given} {given}.o {given}.e"
            )
            answer = self._exchange(
                "\n" + "".join(f"{line}\n" for line in lines), mark, timeout, argv
            )
        code, _, rest = answer.partition("\n")
        output, _, errors = rest.partition(".\n")  # no character of base64's
        try:
            done = Completed(
                tuple(argv), int(code), base64.b64decode(output), base64.b64decode(errors)
            )
        except ValueError as error:
            # What is sent before the port is set up can arrive in pieces.
            raise TookTooLong(f"{shlex.join(argv)} in the machine: an answer in pieces") from error
        if check and done.returncode != 0:
            raise CommandFailed(
                argv,
                f"exit code {done.returncode}",
                returncode=done.returncode,
                stdout=done.stdout,
                stderr=done.stderr,
            )
        return done

    def _exchange(self, text: str, mark: str, timeout: float, argv: Sequence[str]) -> str:
        deadline = time.monotonic() + timeout
        sock = self._connected()
        came = b""
        try:
            sock.settimeout(max(0.1, timeout))
            sock.sendall(text.encode())
            pattern = re.compile(rf"<{mark}\r?\n(.*?){mark}>".encode(), re.DOTALL)
            while not (found := pattern.search(came)):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                sock.settimeout(left)
                data = sock.recv(65536)
                if not data:
                    raise ConnectionResetError("the serial port closed")
                came += data
        except (TimeoutError, OSError) as error:
            self.close()
            if isinstance(error, TimeoutError):
                raise TookTooLong(
                    f"{shlex.join(argv)} in the machine: not within {timeout:g} s"
                ) from error
            raise
        return found[1].decode(errors="replace").replace("\r", "")

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(5)
            self._socket.connect(str(self._path))
        return self._socket
