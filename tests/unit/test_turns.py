"""Work that comes round."""

import logging
import threading

import pytest

from agent.turns import turns

log = logging.getLogger(__name__)


class Work:
    """Fails at its first turn, and tells to stop at its third."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.done = 0

    def __call__(self) -> None:
        self.done += 1
        if self.done == 3:
            self.stop.set()
        if self.done == 1:
            raise ValueError("not this time")


@pytest.mark.parametrize("at_once", [False, True])
def test_a_turn_that_fails_is_logged_and_the_next_one_comes(
    caplog: pytest.LogCaptureFixture, at_once: bool
) -> None:
    work = Work()
    turns(work, 0.001, work.stop, log, "it could not be done", at_once=at_once)
    assert work.done == 3
    (record,) = caplog.records
    assert record.getMessage() == "it could not be done"
    assert record.exc_info is not None


def test_the_first_turn_comes_when_it_is_wanted() -> None:
    for at_once, done in ((False, 0), (True, 1)):
        work = Work()
        work.done = 1
        if not at_once:
            work.stop.set()
        else:
            work.done = 2  # this turn is the last
        before = work.done
        turns(work, 600.0, work.stop, log, "failed", at_once=at_once)
        assert work.done - before == done
