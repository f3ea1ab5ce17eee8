"""What a bundle is made of: one archive for whoever has the ticket, within bounds.

Every entry goes through the scrubber before it is cut, and is cut at the end of a line. The last
entry, manifest.json, says of each what it is, how it ended, and whether it is whole.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.diagnostics.scrub import Scrubber
from agent.engine.model import Command

LONGEST_ENTRY = 2 * 1024 * 1024  # bytes
LONGEST_BUNDLE = 32 * 1024 * 1024  # bytes, before it is compressed
TIMEOUT = 20.0  # seconds for one command

_LINES = 4000  # of each journal


def _journal(*words: str) -> tuple[str, ...]:
    return ("journalctl", "--no-pager", "--quiet", "--output=short-iso", *words)


# What every VM is asked, whatever its services are.
COMMANDS: Sequence[tuple[str, ...]] = (
    ("ip", "-s", "-d", "link"),
    ("ip", "address"),
    ("ip", "rule"),
    ("ip", "-6", "rule"),
    ("ip", "route", "show", "table", "all"),
    ("ip", "-6", "route", "show", "table", "all"),
    ("ip", "-s", "neighbour"),
    ("iptables-nft-save", "-c"),
    ("ip6tables-nft-save", "-c"),
    ("ipset", "list", "-terse"),
    ("conntrack", "-S"),
    ("conntrack", "-C"),
    ("ss", "-tulpn"),
    ("ss", "-s"),
    ("sysctl", "net.ipv4", "net.ipv6", "net.netfilter"),
    ("ps", "-eo", "pid,ppid,user,stat,rss,vsz,etime,time,args", "--sort=-rss"),
    ("cat", "/proc/meminfo"),
    ("cat", "/proc/loadavg"),
    ("cat", "/proc/pressure/cpu", "/proc/pressure/memory", "/proc/pressure/io"),
    ("cat", "/proc/net/softnet_stat"),
    ("cat", "/etc/os-release"),
    ("uname", "-a"),
    ("df", "-h"),
    ("findmnt", "--list"),
    ("systemctl", "list-units", "--all", "--no-pager", "--full"),
    ("systemctl", "list-timers", "--all", "--no-pager"),
    ("systemctl", "--failed", "--no-pager", "--full"),
    ("systemd-analyze", "time", "--no-pager"),
    ("systemd-analyze", "blame", "--no-pager"),
    ("systemd-analyze", "critical-chain", "--no-pager"),
    ("chronyc", "-n", "tracking"),
    _journal("--dmesg", "--boot", f"--lines={_LINES}"),
    _journal("--boot", f"--lines={_LINES}", "--priority=warning"),
    _journal("--boot=-1", f"--lines={_LINES // 4}"),
    _journal("--unit=sysvm-*", f"--lines={_LINES}"),
)


def journal_of(unit: str) -> tuple[str, ...]:
    return _journal(f"--unit={unit}", f"--lines={_LINES}")


def commands_of(inspections: Mapping[str, Iterable[Command]]) -> Iterator[tuple[str, Command]]:
    """Every command once, with the name of its entry: those of services, then everyone's."""
    seen: set[tuple[str, ...]] = set()
    for folder, commands in (
        *((f"services/{name}", commands) for name, commands in sorted(inspections.items())),
        ("vm", [Command(argv, timeout=TIMEOUT) for argv in COMMANDS]),
    ):
        for command in commands:
            if command.argv not in seen:
                seen.add(command.argv)
                yield f"{folder}/{slug(command.argv)}.txt", command


def slug(argv: Sequence[str]) -> str:
    """A name for a file, of a command line."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", " ".join(argv)).strip("-.")[:80]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the manifest says of an entry."""

    name: str
    source: str  # a path of the endpoint, or a command
    exit: int | None = None  # a command's exit code, or the HTTP status
    bytes: int = 0
    truncated: bool = False
    problem: str = ""  # why there is nothing, or not all


class Archive:
    """A tar.gz that is taken away while it is made. `when` is seconds since the epoch."""

    def __init__(self, folder: str, scrubber: Scrubber, when: float) -> None:
        self._folder = folder
        self._scrubber = scrubber
        self._when = when
        self._made = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._made, mode="w|gz", bufsize=65536)  # noqa: SIM115
        self._left = LONGEST_BUNDLE
        self._entries: list[Entry] = []

    @property
    def full(self) -> bool:
        return self._left <= 0

    def add(
        self,
        name: str,
        source: str,
        content: bytes,
        *,
        exit: int | None = None,  # noqa: A002 - as the manifest has it
        truncated: bool = False,
        problem: str = "",
    ) -> None:
        """Add an entry, without secrets, and cut where it is too long."""
        if self.full:
            content, problem = b"", "the bundle is full"
        if truncated:
            content = content[: content.rfind(b"\n") + 1]  # half a secret would not be known
        content = self._scrubber.scrub(content)
        room = min(LONGEST_ENTRY, max(self._left, 0))
        if len(content) > room:
            content, truncated = content[: content.rfind(b"\n", 0, room) + 1], True
            self._left = self._left if room == LONGEST_ENTRY else 0
        self._left -= len(content)
        self._entries.append(
            Entry(
                name=name,
                source=self._scrubber.scrub(source.encode()).decode(errors="replace"),
                exit=exit,
                bytes=len(content),
                truncated=truncated,
                problem=self._scrubber.scrub(problem.encode()).decode(errors="replace"),
            )
        )
        if content:
            self._put(name, content)

    def taken(self) -> bytes:
        """What has been made since the last time."""
        made = self._made.getvalue()
        self._made.seek(0)
        self._made.truncate()
        return made

    def close(self, about: Mapping[str, object]) -> bytes:
        """The end, with the manifest."""
        rows = [{part: getattr(entry, part) for part in Entry.__slots__} for entry in self._entries]
        manifest = json.dumps({**about, "entries": rows}, indent=1, ensure_ascii=False) + "\n"
        self._put("manifest.json", manifest.encode())
        self._tar.close()
        return self.taken()

    def _put(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(f"{self._folder}/{name}")
        info.size, info.mtime, info.mode = len(content), self._when, 0o600
        self._tar.addfile(info, io.BytesIO(content))
