"""What the browser says, message by message: what policy forbids is left out, the rest goes on.

A streaming parser. It keeps at most one short message (a list of encodings is the longest that it
keeps whole); long texts pass, or are left out, as they come. What it does not know it cannot step
over: then a session that is free to do anything goes on unread, and any other one ends.
"""

import struct
from dataclasses import dataclass

from agent.console.rfb.screen import known
from agent.console.sessions import Policy

_PIXEL_FORMAT, _ENCODINGS, _UPDATE, _KEY, _POINTER, _CUT_TEXT = 0, 2, 3, 4, 5, 6
_CONTINUOUS, _FENCE, _XVP, _DESKTOP_SIZE, _GII, _QEMU = 150, 248, 250, 251, 253, 255
_MOST_ENCODINGS = 512
_LONGEST_TEXT = 16 * 1024 * 1024

_EXTENDED_CLIPBOARD = 0xC0A1E5CE
_MORE_BUTTONS = 0xFFFFFEC4  # -316: pointer messages have seven bytes where the eighth bit is set


class NotRfb(Exception):
    """The browser says what nobody can understand, or what its policy cannot let pass."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """What of a browser's messages passes."""

    acts: bool  # keys, pointer, size, power
    pastes: bool
    free: bool  # nothing at all is forbidden, in either direction


class ClientFilter:
    """One browser's messages, after ClientInit.

    `inputs` counts what only a person does: keys, pointer, clipboard. Requests for updates are not
    among them, for a browser makes them on its own for as long as the screen changes.
    """

    def __init__(self, policy: Policy) -> None:
        clipboard = policy.clipboard
        self._rule = _Rule(
            acts=not policy.view_only,
            pastes=clipboard.to_guest and not policy.view_only,
            free=clipboard.to_guest and clipboard.from_guest and not policy.view_only,
        )
        self._read = not clipboard.from_guest  # what the screen sends is read, too
        self._fixed = False  # the form of pixels, from the first request for an update on
        self._begun = b""  # a message whose end has not come
        self._through = 0  # bytes of a long message that are still to come
        self._passing = True  # and whether they go on
        self._blind = False
        self._more = False  # may pointer messages have a byte for more buttons?
        self._between = self._rule.acts  # does a key alone go on, nothing being before it?
        self.inputs = 0
        self.left_out = 0  # messages
        self.pixels: bytes | None = None  # the last form of pixels that was asked for

    def feed(self, data: bytes) -> bytes:
        """What of this goes on to the screen. Raises NotRfb."""
        if self._between and len(data) == 8 and data[0] == _KEY:
            self.inputs += 1  # as it comes where somebody types
            return data
        passed = self._read_messages(data)
        self._between = self._rule.acts and not (self._begun or self._through or self._blind)
        return passed

    def _read_messages(self, data: bytes) -> bytes:
        if self._blind:
            self.inputs += 1
            return data
        if self._begun:
            data = self._begun + data
            self._begun = b""
        passed: list[bytes] = []
        kept = at = 0  # from `kept` on nothing has been put into `passed` yet
        end = len(data)
        while at < end:
            if self._through:
                step = min(self._through, end - at)
                self._through -= step
                if not self._passing:
                    passed.append(data[kept:at])
                    kept = at + step
                at += step
                continue
            length = _whole(data, at)
            if self._more and data[at] == _POINTER and data[at + 1 : at + 2] >= b"\x80":
                length = 7
            if length is None:
                passed.append(data[kept:at])
                return self._unknown(data[at:], passed)
            if length == 0 or at + length > end:
                passed.append(data[kept:at])
                self._begun = data[at:]
                return b"".join(passed)
            changed = self._message(data, at, length)
            if changed is not None:
                passed += (data[kept:at], changed)
                kept = at + length
            at += length
        if kept == 0:
            return data
        passed.append(data[kept:])
        return b"".join(passed)

    def _unknown(self, rest: bytes, passed: list[bytes]) -> bytes:
        if not self._rule.free:
            raise NotRfb(f"message {rest[0]} of the browser is unknown, and something is forbidden")
        self._blind = True
        self.inputs += 1
        passed.append(rest)
        return b"".join(passed)

    def _message(self, data: bytes, at: int, length: int) -> bytes | None:
        """None where the message goes on as it is, else what does in its stead."""
        kind = data[at]
        if kind in {_KEY, _POINTER} or (kind == _QEMU and data[at + 1] == 0):
            self.inputs += 1
            return self._allow(self._rule.acts)
        if kind == _CUT_TEXT:
            self.inputs += 1
            return self._text(data, at)
        if kind in {_DESKTOP_SIZE, _XVP, _GII}:
            return self._allow(self._rule.acts)
        if kind == _PIXEL_FORMAT:
            return self._pixels(data[at + 4 : at + 20])
        if kind in {_UPDATE, _CONTINUOUS}:
            self._fixed = True
        if kind == _ENCODINGS:
            if not self._rule.free:
                return self._fewer_encodings(data[at : at + length])
            self._more = _MORE_BUTTONS in _encodings(data[at : at + length])
        return None

    def _pixels(self, pixels: bytes) -> bytes | None:
        """A change amid updates would leave it open which of them are in which form."""
        if self._read and self._fixed and pixels != self.pixels:
            self.left_out += 1
            return b""
        self.pixels = pixels
        return None

    def _allow(self, allowed: bool) -> bytes | None:
        if allowed:
            return None
        self.left_out += 1
        return b""

    def _text(self, data: bytes, at: int) -> bytes | None:
        (length,) = struct.unpack_from(">i", data, at + 4)
        if abs(length) > _LONGEST_TEXT:
            raise NotRfb(f"a text of {abs(length)} bytes for the clipboard")
        self._through = abs(length)
        # One with a negative length is of the extended clipboard, which also asks for text.
        self._passing = self._rule.pastes
        return self._allow(self._passing)

    def _fewer_encodings(self, message: bytes) -> bytes:
        """Nothing that the proxy could not read; an extended clipboard only where it is free."""
        left = [
            encoding
            for encoding in _encodings(message)
            if encoding not in {_EXTENDED_CLIPBOARD, _MORE_BUTTONS}
            and (not self._read or known(encoding))
        ]
        return struct.pack(f">BxH{len(left)}I", _ENCODINGS, len(left), *left)


def _encodings(message: bytes) -> tuple[int, ...]:
    return struct.unpack_from(f">{(len(message) - 4) // 4}I", message, 4)


def _whole(data: bytes, at: int) -> int | None:
    """The length of the message that begins here, of a text without the text itself.

    0 where too little has come to say, None where its kind is unknown.
    """
    kind = data[at]
    fixed = _FIXED.get(kind)
    if fixed is not None:
        return fixed
    left = len(data) - at
    if kind == _ENCODINGS:
        if left < 4:
            return 0
        (count,) = struct.unpack_from(">H", data, at + 2)
        if count > _MOST_ENCODINGS:
            raise NotRfb(f"{count} encodings")
        return int(4 + 4 * count)
    if kind == _FENCE:
        if left < 9:
            return 0
        if data[at + 8] > 64:
            raise NotRfb("a fence of more than 64 bytes")
        return 9 + data[at + 8]
    if kind == _DESKTOP_SIZE:
        return 8 + 16 * data[at + 6] if left >= 8 else 0
    if kind == _GII:
        return _gii(data, at, left)
    if kind == _QEMU:
        return _qemu(data, at, left)
    return None


def _gii(data: bytes, at: int, left: int) -> int:
    if left < 4:
        return 0
    order = ">H" if data[at + 1] & 0x80 else "<H"
    (length,) = struct.unpack_from(order, data, at + 2)
    if length > 4096:
        raise NotRfb(f"{length} bytes from an input device")
    return int(4 + length)


def _qemu(data: bytes, at: int, left: int) -> int | None:
    if left < 2:
        return 0
    if data[at + 1] == 0:
        return 12
    if data[at + 1] != 1:
        return None
    if left < 4:
        return 0
    return 10 if data[at + 3] == 2 else 4


_FIXED = {
    _PIXEL_FORMAT: 20,
    _UPDATE: 10,
    _KEY: 8,
    _POINTER: 6,
    _CUT_TEXT: 8,
    _CONTINUOUS: 10,
    _XVP: 4,
}
