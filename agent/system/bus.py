"""Calls and signals over the system's D-Bus; the only module that imports jeepney.

Each use opens its own connection, which takes about a millisecond: so threads share nothing, and
a bus that was restarted is no special case.
"""

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# jeepney comes without type information.
from jeepney import (  # type: ignore[import-untyped]
    DBusAddress,
    DBusErrorResponse,
    HeaderFields,
    MatchRule,
    Message,
    MessageType,
    message_bus,
    new_method_call,
)
from jeepney.io.blocking import (  # type: ignore[import-untyped]
    DBusConnection,
    open_dbus_connection,
)

_TIMEOUT = 10.0  # seconds
_START_TIMEOUT = 30.0  # seconds; less than the restore may take (sysvm-restore.service)
_BUS = DBusAddress(message_bus.object_path, message_bus.bus_name, message_bus.interface)


__all__ = ["Bus", "BusError", "DBusAddress", "Ear", "Signals", "connect", "ear"]


class BusError(Exception):
    """A call failed; `name` is D-Bus' name of the error, empty if the bus itself did not answer."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text or name)
        self.name = name
        self.text = text


@dataclass(frozen=True, slots=True)
class Bus:
    """An open connection."""

    connection: DBusConnection

    def call(
        self,
        address: DBusAddress,
        member: str,
        signature: str | None = None,
        body: tuple[Any, ...] = (),
        timeout: float = _TIMEOUT,
    ) -> tuple[Any, ...]:
        """Call a method and wait for its answer. Raises BusError."""
        message = new_method_call(address, member, signature, body)
        try:
            reply = self.connection.send_and_get_reply(message, timeout=timeout)
        except (OSError, TimeoutError) as error:
            raise BusError("", f"the system's bus does not answer: {error}") from error
        if reply.header.message_type is MessageType.error:
            failure = DBusErrorResponse(reply)
            said = failure.data[0] if failure.data else ""
            raise BusError(failure.name, str(said))
        answer: tuple[Any, ...] = reply.body
        return answer

    def get_all(self, address: DBusAddress) -> Mapping[str, Any]:
        """The properties of an interface, by name."""
        values = self.call(_properties(address), "GetAll", "s", (address.interface,))[0]
        return {name: value for name, (_, value) in values.items()}

    def get(self, address: DBusAddress, name: str) -> Any:
        """One property of an interface."""
        return self.call(_properties(address), "Get", "ss", (address.interface, name))[0][1]

    @contextlib.contextmanager
    def hearing(self, address: DBusAddress, signal: str) -> Iterator["Signals"]:
        """Listen to a signal while the block lasts; none that comes in it is lost."""
        rule = MatchRule(
            type="signal",
            interface=address.interface,
            member=signal,
            path=address.object_path,
        )
        heard: deque[Message] = deque()
        with self.connection.filter(rule, queue=heard):
            self.call(_BUS, "AddMatch", "s", (rule.serialise(),))
            yield Signals(self.connection, heard)


@dataclass(frozen=True, slots=True)
class Ear:
    """Hears a signal of many objects for as long as its connection is open; see `ear`."""

    bus: "Bus"
    rule: Mapping[str, str]
    heard: deque[Message]

    def add(self, path: str) -> None:
        """Hear an object from now on. Raises BusError."""
        rule = MatchRule(type="signal", path=path, **self.rule)
        self.bus.call(_BUS, "AddMatch", "s", (rule.serialise(),))

    def fileno(self) -> int:
        """For poll(2): there may be something to hear."""
        descriptor: int = self.bus.connection.sock.fileno()
        return descriptor

    def waiting(self) -> frozenset[str]:
        """Objects whose signals have come in, while something else was asked, and wait."""
        return frozenset(message.header.fields[HeaderFields.path] for message in self.heard)

    def drain(self) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """What has been heard: each object's path, and the signal's body. Raises BusError."""
        while True:
            try:
                message = self.bus.connection.recv_until_filtered(self.heard, timeout=0)
            except TimeoutError:
                return
            except OSError as error:
                raise BusError("", f"the system's bus went away: {error}") from error
            yield message.header.fields[HeaderFields.path], message.body


@dataclass(frozen=True, slots=True)
class Signals:
    """What `Bus.hearing` hears."""

    connection: DBusConnection
    heard: deque[Message]

    def next(self, timeout: float) -> tuple[Any, ...] | None:
        """The next signal's body; None when `timeout` seconds are over. Raises BusError."""
        try:
            message = self.connection.recv_until_filtered(self.heard, timeout=timeout)
        except TimeoutError:
            return None
        except OSError as error:
            raise BusError("", f"the system's bus went away: {error}") from error
        body: tuple[Any, ...] = message.body
        return body


def ear(bus: Bus, interface: str, member: str) -> Ear:
    """Hear a signal on this connection, beside calls; of no object yet."""
    rule = {"interface": interface, "member": member}
    heard: deque[Message] = deque()
    # Left open for as long as the connection is.
    bus.connection.filter(MatchRule(type="signal", **rule), queue=heard)
    return Ear(bus, rule, heard)


@contextlib.contextmanager
def connect(bus: str = "SYSTEM") -> Iterator[Bus]:
    """A connection to the bus; `bus` may be an address. Raises BusError."""
    try:
        # At boot the bus's socket is there before the bus: systemd starts it after sysinit.target.
        connection = open_dbus_connection(bus, auth_timeout=_START_TIMEOUT)
    except (OSError, ValueError, KeyError) as error:
        raise BusError("", f"the system's bus cannot be reached: {error}") from error
    try:
        yield Bus(connection)
    finally:
        connection.close()


def _properties(address: DBusAddress) -> DBusAddress:
    return DBusAddress(address.object_path, address.bus_name, "org.freedesktop.DBus.Properties")
