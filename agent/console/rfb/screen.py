"""What the hypervisor says, where its clipboard must not reach the user: all but the texts pass.

To find the texts everything else has to be stepped over, rectangle by rectangle; so the browser is
left only encodings that this module knows (`agent.console.rfb.filter`). Where the clipboard is
free, nothing of this runs and bytes pass unread.
"""

import enum
import struct
from collections.abc import Generator


class _Message(enum.IntEnum):
    UPDATE = 0
    COLOURS = 1
    BELL = 2
    CUT_TEXT = 3
    CONTINUOUS_ENDED = 150
    FENCE = 248
    XVP = 250


class Encoding(enum.IntEnum):
    """What a rectangle's bytes are, or what else it says."""

    RAW = 0
    COPY = 1
    ZLIB = 6
    TIGHT = 7
    ZRLE = 16
    SIZE = -223
    LAST = -224
    CURSOR = -239
    QEMU_KEYS = -258
    LED = -261
    NAME = -307
    SCREENS = -308
    XVP = -309
    FENCE = -312
    CONTINUOUS = -313


def known(encoding: int) -> bool:
    """Can a ScreenFilter step over what this encoding (as it is sent, unsigned) brings?

    The levels of quality and compression are wishes, which bring nothing.
    """
    signed = encoding - (1 << 32) if encoding >> 31 else encoding
    return signed in set(Encoding) or -32 <= signed <= -23 or -256 <= signed <= -247


class ScreenUnreadable(Exception):
    """The hypervisor sends what cannot be stepped over."""


class _Way(enum.Enum):
    """What becomes of bytes: they go on and are looked at, only go on, or are looked at alone."""

    READ = 0
    PASS = 1
    HOLD = 2
    DROP = 3
    EMIT = 4


_Wish = tuple[_Way, int, bytes]
_Parser = Generator[_Wish, bytes, None]


class ScreenFilter:
    """The hypervisor's messages after ServerInit. `pixels` are the 16 bytes of the pixels' form."""

    def __init__(self, pixels: bytes) -> None:
        self.set_pixels(pixels)
        self._parser = self._messages()
        self._wish = next(self._parser)
        self._got = b""
        self.left_out = 0

    def set_pixels(self, pixels: bytes) -> None:
        """The browser asked for another form, before it asked for the first update."""
        bits, depth, _, true_colour, red, green, blue = struct.unpack_from(">BBBBHHH", pixels)
        self._pixel = max(1, bits // 8)
        compact = bits == 32 and depth == 24 and true_colour and red == green == blue == 255
        self._tight_pixel = 3 if compact else self._pixel

    def feed(self, data: bytes) -> bytes:
        """What of this goes on to the browser. Raises ScreenUnreadable."""
        passed: list[bytes] = []
        at, end = 0, len(data)
        while True:
            way, count, own = self._wish
            if way is _Way.EMIT:
                passed.append(own)
                self._wish = self._parser.send(b"")
                continue
            step = min(count - len(self._got), end - at)
            piece = data[at : at + step]
            at += step
            if way in {_Way.READ, _Way.PASS}:
                passed.append(piece)
            if way in {_Way.READ, _Way.HOLD}:
                self._got += piece
                if len(self._got) < count:
                    return b"".join(passed)
                got, self._got = self._got, b""
                self._wish = self._parser.send(got)
            else:
                if step < count:
                    self._wish = (way, count - step, b"")
                    return b"".join(passed)
                self._wish = self._parser.send(b"")

    def _messages(self) -> _Parser:
        while True:
            kind = yield _Way.HOLD, 1, b""
            if kind[0] == _Message.CUT_TEXT:
                head = yield _Way.HOLD, 7, b""
                (length,) = struct.unpack_from(">i", head, 3)
                self.left_out += 1
                yield _Way.DROP, abs(length), b""
                continue
            yield _Way.EMIT, 0, kind
            match kind[0]:
                case _Message.UPDATE:
                    yield from self._update()
                case _Message.COLOURS:
                    (count,) = struct.unpack_from(">H", (yield _Way.READ, 5, b""), 3)
                    yield _Way.PASS, 6 * count, b""
                case _Message.BELL | _Message.CONTINUOUS_ENDED:
                    pass
                case _Message.FENCE:
                    head = yield _Way.READ, 8, b""
                    yield _Way.PASS, head[7], b""
                case _Message.XVP:
                    yield _Way.PASS, 3, b""
                case other:
                    raise ScreenUnreadable(f"message {other} of the hypervisor is unknown")

    def _update(self) -> _Parser:
        (count,) = struct.unpack_from(">H", (yield _Way.READ, 3, b""), 1)
        for _ in range(count):
            head = yield _Way.READ, 12, b""
            width, height, encoding = struct.unpack_from(">HHi", head, 4)
            if encoding == Encoding.LAST:
                return
            yield from self._rectangle(width, height, encoding)

    def _rectangle(self, width: int, height: int, encoding: int) -> _Parser:
        match encoding:
            case Encoding.RAW:
                yield _Way.PASS, width * height * self._pixel, b""
            case Encoding.COPY:
                yield _Way.PASS, 4, b""
            case Encoding.ZLIB | Encoding.ZRLE | Encoding.NAME:
                (length,) = struct.unpack(">I", (yield _Way.READ, 4, b""))
                yield _Way.PASS, length, b""
            case Encoding.TIGHT:
                yield from self._tight(width, height)
            case Encoding.CURSOR:
                mask = (width + 7) // 8 * height
                yield _Way.PASS, width * height * self._pixel + mask, b""
            case Encoding.LED:
                yield _Way.PASS, 1, b""
            case Encoding.SCREENS:
                head = yield _Way.READ, 4, b""
                yield _Way.PASS, 16 * head[0], b""
            case (
                Encoding.SIZE
                | Encoding.QEMU_KEYS
                | Encoding.XVP
                | Encoding.FENCE
                | Encoding.CONTINUOUS
            ):
                pass
            case other:
                raise ScreenUnreadable(f"encoding {other} of the hypervisor is unknown")

    def _tight(self, width: int, height: int) -> _Parser:
        """A rectangle of Tight: a fill, a JPEG picture, or pixels through a filter and zlib."""
        control = (yield _Way.READ, 1, b"")[0] >> 4
        if control == 8:
            yield _Way.PASS, self._tight_pixel, b""
            return
        if control == 9:
            yield from _compact()
            return
        if control > 7:
            raise ScreenUnreadable(f"Tight control {control} of the hypervisor is unknown")
        length = width * height * self._tight_pixel
        if control & 4:
            chosen = (yield _Way.READ, 1, b"")[0]
            if chosen == 1:
                colours = (yield _Way.READ, 1, b"")[0] + 1
                yield _Way.PASS, colours * self._tight_pixel, b""
                length = height * ((width + 7) // 8) if colours == 2 else width * height
            elif chosen not in {0, 2}:
                raise ScreenUnreadable(f"Tight filter {chosen} of the hypervisor is unknown")
        if length < 12:
            yield _Way.PASS, length, b""
        else:
            yield from _compact()


def _compact() -> _Parser:
    """A length of one to three bytes with seven, seven and eight bits, and what it is of."""
    length = 0
    for shift in (0, 7, 14):
        byte = (yield _Way.READ, 1, b"")[0]
        length |= (byte if shift == 14 else byte & 0x7F) << shift
        if not byte & 0x80:
            break
    yield _Way.PASS, length, b""
