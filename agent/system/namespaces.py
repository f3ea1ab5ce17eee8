"""Scratch namespaces: threads with a network, and mounts, of their own.

The kernel keeps namespaces per thread. A thread of this process unshares them, and what it runs
starts inside, without `ip netns exec`, a shell or a name anywhere: they end with the thread.
"""

import contextlib
import ctypes
import fcntl
import os
import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_SLAVE = 0x80000
_MNT_DETACH = 2

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_IFREQ = "16sH14x"  # struct ifreq of netdevice(7): name, flags

T = TypeVar("T")


class Scratch:
    """A thread in a network and a mount namespace of its own, in which loopback is up.

    Mounts made outside still appear and disappear inside; none made inside is seen outside.
    """

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        born: Future[None] = Future()
        self._thread = threading.Thread(target=self._live, args=(born,), name=name, daemon=True)
        self._thread.start()
        born.result()

    def do(self, work: Callable[[], T]) -> T:
        """Run a function inside; return what it returns, raise what it raises."""
        done: Future[T] = Future()
        self._work.put((work, done))
        return done.result()

    def close(self) -> None:
        """End the thread, and with it the namespaces."""
        self._work.put(None)
        self._thread.join()

    def _live(self, born: "Future[None]") -> None:
        try:
            _unshare(_CLONE_NEWNET | _CLONE_NEWNS)
            _mount(None, Path("/"), _MS_REC | _MS_SLAVE)
            _raise_loopback()
        except BaseException as error:  # noqa: BLE001 - carried to the thread that asked
            born.set_exception(error)
            return
        born.set_result(None)
        while (task := self._work.get()) is not None:
            _do(*task)
            del task  # it would keep what it was about, and what came of it, until the next one


def _do(work: Callable[[], Any], done: "Future[Any]") -> None:
    try:
        done.set_result(work())
    except BaseException as error:  # noqa: BLE001 - carried to the thread that asked
        done.set_exception(error)


@contextlib.contextmanager
def seen_at(source: Path, target: Path) -> Iterator[None]:
    """Inside a scratch: let `target`, a folder, show what `source` holds."""
    if source == target:
        yield
        return
    _mount(source, target, _MS_BIND)
    try:
        yield
    finally:
        _check(_libc().umount2(os.fsencode(target), _MNT_DETACH), target)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(done: int, what: object) -> None:
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(what))


def _unshare(flags: int) -> None:
    _check(_libc().unshare(flags), "unshare")


def _mount(source: Path | None, target: Path, flags: int) -> None:
    given = None if source is None else os.fsencode(source)
    _check(_libc().mount(given, os.fsencode(target), None, ctypes.c_ulong(flags), None), target)


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        request = fcntl.ioctl(asked, _SIOCGIFFLAGS, struct.pack(_IFREQ, b"lo", 0))
        flags = struct.unpack(_IFREQ, request)[1]
        fcntl.ioctl(asked, _SIOCSIFFLAGS, struct.pack(_IFREQ, b"lo", flags | _IFF_UP))
