"""DES: the published examples, another implementation, and what VNC makes of it."""

import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from hypothesis import given
from hypothesis import strategies as st

from agent.console.rfb.des import encrypt, vnc_response


@pytest.mark.parametrize(
    ("key", "plain", "coded"),
    [
        ("133457799bbcdff1", "0123456789abcdef", "85e813540f0ab405"),
        ("0101010101010101", "8000000000000000", "95f8a5e5dd31d900"),  # NIST SP 800-17
        ("0101010101010101", "0000000000000001", "166b40b44aba4bd6"),
        ("8001010101010101", "0000000000000000", "95a8d72813daa94d"),
        ("7ca110454a1a6e57", "01a1d6d039776742", "690f5b0d9a26939b"),
    ],
)
def test_published_examples(key: str, plain: str, coded: str) -> None:
    assert encrypt(bytes.fromhex(key), bytes.fromhex(plain)).hex() == coded


@given(st.binary(min_size=8, max_size=8), st.binary(min_size=8, max_size=8))
def test_another_implementation_says_the_same(key: bytes, block: bytes) -> None:
    other = Cipher(TripleDES(key * 3), modes.ECB()).encryptor()  # noqa: S305 - one block of it
    assert encrypt(key, block) == other.update(block)


def test_only_eight_characters_of_a_password_count() -> None:
    challenge = bytes(range(16))
    assert vnc_response("12345678", challenge) == vnc_response("123456789", challenge)
    assert vnc_response("1234567", challenge) != vnc_response("12345678", challenge)
    assert len(vnc_response("", challenge)) == 16
