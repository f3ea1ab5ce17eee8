"""Heartbeats: datagrams of VMs, each authentic and new, taken into the database by the second.

A datagram names its VM, which chooses the key that it must be authentic with; nothing else of it is
looked at before. What was said before is refused, also by a manager that was killed and has begun
anew: a heartbeat counts in the transaction that remembers its number. That is a few seconds' worth
more than it was, so that what was heard after the last transaction is refused as well.
"""

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable

from agent.document.heartbeat import LONGEST, Beat, Receiver, Refused
from agent.turns import turns
from appliance.manager import fleet
from appliance.manager.database import Database
from appliance.manager.fleet import Heard
from appliance.manager.seal import Seal

log = logging.getLogger(__name__)

EVERY = 1.0  # seconds between two turns of writing
AHEAD = 50  # numbers beyond the last that are refused after a restart: ten for each second
SILENT = 20.0  # seconds: three heartbeats of the usual interval are missing
_KEYS = 5.0  # seconds between two looks at whose key has changed
_BUFFER = 8 * 1024 * 1024  # bytes of datagrams that the kernel keeps meanwhile
_NAME = re.compile(rb'"vm":"([A-Za-z0-9][A-Za-z0-9._-]{0,62})"')


class Beats:
    """The heartbeats of all VMs."""

    def __init__(
        self, database: Database, seal: Seal, *, now: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._seal = seal
        self._now = now
        self._lock = threading.Lock()
        self._receivers: dict[str, Receiver] = {}
        self._keys: dict[str, str] = {}  # sealed, of those receivers
        self._heard: dict[str, Beat] = {}
        self._looked = float("-inf")
        self._begun = now()
        self.taken = 0
        self.refused = 0

    def take(self, datagram: bytes) -> Beat:
        """What a datagram says, if its VM said it and had not said it before. Raises Refused."""
        found = _NAME.findall(datagram)
        receiver = self._receivers.get(found[-1].decode()) if found else None
        if receiver is None:
            raise Refused("it is of no VM that sends heartbeats")
        with self._lock:
            beat = receiver.accept(datagram)
            if beat.vm != found[-1].decode():
                raise Refused("its key is another VM's")
            self._heard[beat.vm] = beat
        return beat

    def hear(self, sock: socket.socket, stop: threading.Event) -> None:
        """Take what comes until told to stop."""
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        sock.settimeout(0.5)
        while not stop.is_set():
            try:
                datagram = sock.recv(2 * LONGEST)
            except TimeoutError:
                continue
            except OSError as error:
                log.warning("heartbeats: %s", error)
                continue
            try:
                self.take(datagram)
                self.taken += 1
            except Refused as error:
                self.refused += 1
                log.debug("a heartbeat is refused: %s", error)

    def run(self, stop: threading.Event) -> None:
        """Write down what was heard, and whose heartbeats are missing, until told to stop."""
        turns(self.turn, EVERY, stop, log, "heartbeats could not be written down")
        self.flush()

    def turn(self) -> None:
        """One turn of that."""
        now = self._now()
        if now - self._looked >= _KEYS:
            self.look()
            self._looked = now
        self.flush()
        if now - self._begun > SILENT:
            for name in self._database.write(lambda c: fleet.silence(c, now, SILENT)):
                log.warning("%s sends no heartbeat any more", name)

    def look(self) -> None:
        """Learn whose keys there are."""
        with self._database.read() as connection:
            known = fleet.keys(connection)
        with self._lock:
            for name in self._keys.keys() - known.keys():
                del self._keys[name], self._receivers[name]
            for name, (sealed, boots) in known.items():
                if self._keys.get(name) != sealed:
                    key = bytes.fromhex(self._seal.open(sealed, f"heartbeat {name}"))
                    before = self._receivers.get(name)
                    seen = json.loads(boots) if before is None else before.seen()
                    self._receivers[name] = Receiver(key, seen)
                    self._keys[name] = sealed

    def flush(self) -> None:
        """Write down what was heard since the last time."""
        now = self._now()
        with self._lock:
            heard, self._heard = self._heard, {}
            rows = [
                Heard(
                    name=name,
                    beat=now,
                    health=beat.health.value,
                    running=beat.generation,
                    revision=beat.revision,
                    boots=json.dumps({**self._receivers[name].seen(), beat.boot: beat.seq + AHEAD}),
                )
                for name, beat in sorted(heard.items())
                if name in self._receivers
            ]
        if rows:
            self._database.write(lambda c: fleet.hear(c, rows))
