import multiprocessing
import threading
from pathlib import Path

import pytest

from agent.engine.errors import Busy
from agent.system import lock


def test_lock_excludes_another_holder_of_the_same_process(tmp_path: Path) -> None:
    with lock.held(tmp_path / "lock"), pytest.raises(Busy), lock.held(tmp_path / "lock"):
        pass
    with lock.held(tmp_path / "lock"):
        pass


def test_lock_is_waited_for(tmp_path: Path) -> None:
    entered = threading.Event()
    leave = threading.Event()

    def hold() -> None:
        with lock.held(tmp_path / "lock"):
            entered.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(10)
    threading.Timer(0.05, leave.set).start()
    with lock.held(tmp_path / "lock", wait=10):
        assert leave.is_set()
    holder.join()


def _hold(path: Path, entered: "multiprocessing.synchronize.Event") -> None:
    with lock.held(path):
        entered.set()
        threading.Event().wait()


def test_lock_dies_with_its_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    entered = context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "lock", entered))
    process.start()
    assert entered.wait(30)
    with pytest.raises(Busy), lock.held(tmp_path / "lock"):
        pass
    process.kill()
    process.join()
    with lock.held(tmp_path / "lock", wait=5):
        pass
