"""Strict JSON: what parsers disagree about is an error, quickly and in little memory."""

import time

import pytest

from agent.document.json import LONGEST, NotJson, loads


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e400}', "too large"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "too long"),
        (b"\xff\xfe{}", "UTF-8"),
        (b"", "not JSON"),
        (b'{"a": 1} x', "line 1 column 10"),
        (b"[" * 100_000, "deep"),
        (b'{"a":' * 100_000, "deep"),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    started = time.monotonic()
    with pytest.raises(NotJson) as caught:
        loads(data)
    assert message in str(caught.value.problem)
    assert time.monotonic() - started < 5  # generous: the machine may be busy


def test_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(NotJson):
        loads(b" " * (LONGEST + 1))


def test_brackets_in_strings_are_not_depth() -> None:
    text = b'{"a": "' + b"[" * 100 + b'"}'
    assert loads(text) == {"a": "[" * 100}


def test_large_integers_are_kept_exactly() -> None:
    assert loads(b'{"a": 1180591620717411303424}') == {"a": 2**70}
