"""DES of one block (FIPS 46-3), which VNC authentication is made of; it is good for nothing else.

The ciphers that have it would cost each worker eight MiB for 16 bytes per session, and are about
to give it up. That it is weak is the protocol's affair: what has to be kept from a listener goes
through TLS.
"""

_IP = tuple(start - 8 * row for start in (58, 60, 62, 64, 57, 59, 61, 63) for row in range(8))
_FP = tuple(
    column - row for row in range(8) for column in (40, 8, 48, 16, 56, 24, 64, 32)
)  # the inverse of _IP
_E = tuple((4 * row + column - 1) % 32 + 1 for row in range(8) for column in range(6))
_P = (
    16, 7, 20, 21, 29, 12, 28, 17, 1, 15, 23, 26, 5, 18, 31, 10,
    2, 8, 24, 14, 32, 27, 3, 9, 19, 13, 30, 6, 22, 11, 4, 25,
)  # fmt: skip
_PC1 = (
    57, 49, 41, 33, 25, 17, 9, 1, 58, 50, 42, 34, 26, 18, 10, 2, 59, 51, 43, 35, 27, 19, 11, 3,
    60, 52, 44, 36, 63, 55, 47, 39, 31, 23, 15, 7, 62, 54, 46, 38, 30, 22, 14, 6, 61, 53, 45, 37,
    29, 21, 13, 5, 28, 20, 12, 4,
)  # fmt: skip
_PC2 = (
    14, 17, 11, 24, 1, 5, 3, 28, 15, 6, 21, 10, 23, 19, 12, 4, 26, 8, 16, 7, 27, 20, 13, 2,
    41, 52, 31, 37, 47, 55, 30, 40, 51, 45, 33, 48, 44, 49, 39, 56, 34, 53, 46, 42, 50, 36, 29, 32,
)  # fmt: skip
_TURNS = (1, 1, 2, 2, 2, 2, 2, 2, 1, 2, 2, 2, 2, 2, 2, 1)
# Each S-box as hexadecimal digits, row by row.
_S = (
    "e4d12fb83a6c59070f74e2d1a6cb953841e8d62bfc973a50fc8249175b3ea06d",
    "f18e6b34972dc05a3d47f28ec01a69b50e7ba4d158c6932fd8a13f42b67c05e9",
    "a09e63f51dc7b428d709346a285ecbf1d6498f30b12c5ae71ad069874fe3b52c",
    "7de3069a1285bc4fd8b56f03472c1ae9a690cb7df13e52843f06a1d8945bc72e",
    "2c417ab6853fd0e9eb2c47d150fa3986421bad78f9c5630eb8c71e2d6f09a453",
    "c1af92680d34e75baf427c9561de0b389ef528c3704a1db6432c95fabe17608d",
    "4b2ef08d3c975a61d0b7491ae35c2f8614bdc37eaf6805926bd814a7950fe23c",
    "d2846fb1a93e50c71fd8a374c56b0e927b419ce206adf35821e74a8dfc90356b",
)


def _permute(value: int, width: int, table: tuple[int, ...]) -> int:
    """The bits of a value of `width` bits that the table names, counted from 1 at the left."""
    result = 0
    for position in table:
        result = result << 1 | value >> width - position & 1
    return result


def _round_keys(key: int) -> tuple[int, ...]:
    both = _permute(key, 64, _PC1)
    left, right = both >> 28, both & 0xFFFFFFF
    keys = []
    for turn in _TURNS:
        left = (left << turn | left >> 28 - turn) & 0xFFFFFFF
        right = (right << turn | right >> 28 - turn) & 0xFFFFFFF
        keys.append(_permute(left << 28 | right, 56, _PC2))
    return tuple(keys)


def _mix(half: int, key: int) -> int:
    mixed = _permute(half, 32, _E) ^ key
    result = 0
    for number, box in enumerate(_S):
        six = mixed >> 42 - 6 * number & 63
        row = six >> 4 & 2 | six & 1
        result = result << 4 | int(box[16 * row + (six >> 1 & 15)], 16)
    return _permute(result, 32, _P)


def encrypt(key: bytes, block: bytes) -> bytes:
    """One block of 8 bytes with a key of 8 bytes, whose parity bits do not matter."""
    both = _permute(int.from_bytes(block), 64, _IP)
    left, right = both >> 32, both & 0xFFFFFFFF
    for round_key in _round_keys(int.from_bytes(key)):
        left, right = right, left ^ _mix(right, round_key)
    return _permute(right << 32 | left, 64, _FP).to_bytes(8)


def vnc_response(password: str, challenge: bytes) -> bytes:
    """The answer to the 16 bytes of a VNC challenge (RFC 6143, section 7.2.2).

    Of the password count the first eight bytes, and the bits of each go in from the other end.
    """
    key = password.encode("latin-1", "replace")[:8].ljust(8, b"\0")
    mirrored = bytes(int(f"{byte:08b}"[::-1], 2) for byte in key)
    return encrypt(mirrored, challenge[:8]) + encrypt(mirrored, challenge[8:16])
