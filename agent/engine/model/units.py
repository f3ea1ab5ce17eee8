"""Files, and the units that react to them."""

import enum
from dataclasses import dataclass

from agent.engine.model.network import IPAddress


class Reaction(enum.IntEnum):
    """What a unit has to do when one of its files changes; the greatest of a unit's wins."""

    NONE = 0
    RELOAD = 1
    RESTART = 2


@dataclass(frozen=True, slots=True)
class File:
    """A file of a revision.

    `path` is relative to the revision's folder, which daemons know as `/run/sysvm/current`.
    `mode` and `owner` (user:group) hold for the file; the folders on the way to it are made
    0755 root, so that a daemon that re-reads as its own user reaches it. `unit` reacts to a
    change by `reaction`; files without a unit change silently.
    """

    path: str
    content: bytes
    unit: str | None = None
    reaction: Reaction = Reaction.NONE
    mode: int = 0o644
    owner: str = "root:root"

    def __repr__(self) -> str:  # contents may be secret
        return f"File({self.path!r}, {len(self.content)} bytes, unit={self.unit!r})"


class Reload(enum.Enum):
    """How a unit is told to read its files again."""

    SYSTEMD = "systemd"  # ReloadUnit: the unit's own ExecReload
    HAPROXY_MASTER = "haproxy-master"  # `reload` on the master's socket, which answers how it went


@dataclass(frozen=True, slots=True)
class Keep:
    """What a daemon is asked at `socket` just before it reloads, and where the answer is kept.

    With `columns`, lines of so many words are kept only if those words are one of `rows`.
    """

    socket: str
    command: str
    path: str
    columns: tuple[int, ...] = ()
    rows: frozenset[tuple[str, ...]] = frozenset()


@dataclass(frozen=True, slots=True)
class Bind:
    """A TCP address and port that a daemon listens on; `path` is where the document says so."""

    address: IPAddress
    port: int
    path: str


@dataclass(frozen=True, slots=True)
class Unit:
    """A systemd unit that has to run. Units that a service owns and does not want are stopped.

    Where it only holds together others, `daemon` is the one whose process answers. `process` is
    what operators know that by, where it is not the unit's own name. `ahead`: its files are kept,
    so that a boot starts it before the restore (engine/ahead.py); everybody may read them.
    """

    name: str
    reload: Reload = Reload.SYSTEMD
    socket: str = ""  # the haproxy master's socket, for Reload.HAPROXY_MASTER
    keeps: tuple[Keep, ...] = ()
    binds: tuple[Bind, ...] = ()
    daemon: str = ""
    process: str = ""
    ahead: bool = False

    @property
    def main(self) -> str:
        """The unit of the process that answers."""
        return self.daemon or self.name

    @property
    def known_as(self) -> str:
        """What operators know its process by."""
        return self.process or self.main.removesuffix(".service")
