"""The heartbeat: what is said arrives, what is forged, changed or replayed is refused."""

import hmac
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.document.heartbeat import BOOTS, Beat, Health, Receiver, Refused, decode, encode

KEY = bytes(range(32))
BEAT = Beat(
    vm="r-1-vm", boot="b1", seq=7, role="router", generation=3, revision=4, health=Health.WARNING,
    monotonic=12.5,
)  # fmt: skip


def test_what_is_said_arrives() -> None:
    assert decode(encode(BEAT, KEY), KEY) == BEAT
    nothing = replace(BEAT, generation=None, revision=None)
    assert decode(encode(nothing, KEY), KEY) == nothing


def test_datagram_is_as_it_is_documented() -> None:
    datagram = encode(BEAT, KEY)
    assert datagram[:5] == b"SVHB\x01"
    assert datagram[37:] == (
        b'{"boot":"b1","generation":3,"health":"warning","monotonic":12.5,"revision":4,'
        b'"role":"router","seq":7,"vm":"r-1-vm"}'
    )
    assert datagram[5:37].hex() == (
        "c8dbb4983eea3c827fd2970ee6e148ca24112d663b02e2f10fddf1b70004e6b7"
    )


@given(place=st.integers(0, len(encode(BEAT, KEY)) - 1), bit=st.integers(0, 7))
def test_any_changed_bit_is_refused(place: int, bit: int) -> None:
    changed = bytearray(encode(BEAT, KEY))
    changed[place] ^= 1 << bit
    with pytest.raises(Refused):
        decode(bytes(changed), KEY)


@given(st.binary(max_size=1500))
def test_nonsense_is_refused(datagram: bytes) -> None:
    with pytest.raises(Refused):
        decode(datagram, KEY)


def test_another_key_is_refused() -> None:
    with pytest.raises(Refused, match="authentic"):
        decode(encode(BEAT, KEY), bytes(32))


@pytest.mark.parametrize(
    "change",
    [{"seq": -1}, {"seq": True}, {"monotonic": float("nan")}, {"vm": 1}, {"revision": "1"}],
)
def test_authentic_nonsense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(Refused, match="not understood"):
        decode(encode(replace(BEAT, **change), KEY), KEY)  # type: ignore[arg-type]


def test_replay_is_refused() -> None:
    """Case 52."""
    receiver = Receiver(KEY)
    first, second = encode(BEAT, KEY), encode(replace(BEAT, seq=8), KEY)
    assert receiver.accept(first).seq == 7
    assert receiver.accept(second).seq == 8
    for old in (second, first):
        with pytest.raises(Refused, match="has been before"):
            receiver.accept(old)
    assert receiver.accept(encode(replace(BEAT, seq=20), KEY)).seq == 20  # some were lost


def test_replay_of_an_earlier_boot_is_refused_also_by_a_receiver_that_starts_again() -> None:
    receiver = Receiver(KEY)
    old = encode(BEAT, KEY)
    receiver.accept(old)
    receiver.accept(encode(replace(BEAT, boot="b2", seq=1), KEY))
    again = Receiver(KEY, receiver.seen())
    for one in (receiver, again):
        with pytest.raises(Refused, match="has been before"):
            one.accept(old)
        assert one.accept(encode(replace(BEAT, boot="b2", seq=2), KEY)).boot == "b2"


def test_receiver_remembers_no_more_boots_than_it_should() -> None:
    receiver = Receiver(KEY)
    for number in range(3 * BOOTS):
        receiver.accept(encode(replace(BEAT, boot=f"b{number}"), KEY))
    assert len(receiver.seen()) == BOOTS


def test_newer_vm_may_say_more() -> None:
    content = encode(BEAT, KEY)[37:].replace(b'{"boot"', b'{"and":1,"boot"')
    prefix = b"SVHB\x01"
    datagram = prefix + hmac.digest(KEY, prefix + content, "sha256") + content
    assert decode(datagram, KEY) == BEAT
