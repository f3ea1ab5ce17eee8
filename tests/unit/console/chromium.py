"""Headless Chromium, driven over a pipe by the DevTools protocol."""

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")


class Chromium:
    """One browser with one page. `prefix` comes before the command: `ip netns exec …`, say."""

    def __init__(self, profile: Path, prefix: Sequence[str] = ()) -> None:
        assert PROGRAM is not None
        to_read, to_write = os.pipe(), os.pipe()

        def arrange() -> None:
            ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read[0], to_write[1])]
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        # It leaves its sockets behind, whose paths have to be short.
        self._sockets = tempfile.TemporaryDirectory(prefix="sysvm-chromium-", dir="/tmp")
        self._process = subprocess.Popen(
            (
                *(*prefix, PROGRAM, "--headless=new", "--remote-debugging-pipe", "--no-sandbox"),
                *("--disable-gpu", "--disable-dev-shm-usage", "--ignore-certificate-errors"),
                *("--no-first-run", f"--user-data-dir={profile}", "--window-size=1000,700"),
                *("--host-resolver-rules=MAP console.example 127.0.0.1", "about:blank"),
            ),
            preexec_fn=arrange,  # noqa: PLW1509 - nothing but these two
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": self._sockets.name},
        )
        os.close(to_read[0])
        os.close(to_write[1])
        self._out = os.fdopen(to_read[1], "wb", buffering=0)
        self._in = os.fdopen(to_write[0], "rb")
        self._number = 0
        targets = self._ask("Target.getTargets")["targetInfos"]
        page = next(one["targetId"] for one in targets if one["type"] == "page")
        attached = self._ask("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        self.ask("Page.enable")
        self.ask("Runtime.enable")

    def _ask(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        self._out.write(json.dumps(message).encode() + b"\0")
        while True:
            data = b""
            while not data.endswith(b"\0"):
                byte = self._in.read1(1)
                if not byte:
                    raise EOFError("Chromium ended")
                data += byte
            answer = json.loads(data[:-1])
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the page."""
        return self._ask(method, self._session, **parameters)

    def go(self, url: str) -> None:
        """Show this page; a fragment alone would not load it again."""
        self.ask("Page.navigate", url="about:blank")
        self.ask("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """What an expression is in the page."""
        answer = self.ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        return answer["result"].get("value")

    def press(self, button: str) -> None:
        """Click what has this id."""
        assert self.value(f"document.getElementById('{button}').checkVisibility()"), button
        self.value(f"document.getElementById('{button}').click()")

    def text(self, name: str) -> str:
        """What is written in what has this id."""
        return str(self.value(f"document.getElementById('{name}').textContent"))

    def seen(self, name: str) -> bool:
        """Is what has this id on the page, for whoever looks at it?"""
        return bool(self.value(f"document.getElementById('{name}').checkVisibility()"))

    def size(self, width: int, height: int) -> None:
        """Make the window as large as this."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def type(self, text: str, codes: Mapping[str, str] | None = None) -> None:
        """Press keys; `codes` says which ones, where it matters."""
        for character in text:
            key = {"key": "Enter", "code": "Enter"} if character == "\n" else {"key": character}
            if codes and character in codes:
                key["code"] = codes[character]
            given = "\r" if character == "\n" else character
            code = 13 if character == "\n" else ord(character.upper())
            for kind in ("keyDown", "keyUp"):
                self.ask(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    text=given if kind == "keyDown" else "",
                    windowsVirtualKeyCode=code,
                    **key,
                )

    def move(self, x: int, y: int) -> None:
        """Move the pointer."""
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: int, y: int) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, path: Path) -> None:
        """A screenshot."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            self._out.close()
        self._process.terminate()
        self._process.wait(20)
        self._in.close()
        self._sockets.cleanup()


@contextlib.contextmanager
def browsing(profile: Path, prefix: Sequence[str] = ()) -> Iterator[Chromium]:
    browser = Chromium(profile, prefix)
    try:
        yield browser
    finally:
        browser.close()
