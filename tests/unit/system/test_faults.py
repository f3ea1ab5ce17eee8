import multiprocessing
import signal
from pathlib import Path

from agent.system.faults import Faults
from appliance.lab.wait import wait_until

CONTEXT = multiprocessing.get_context("spawn")


def _pass(wishes: str, reached: Path, points: list[str]) -> None:
    faults = Faults(wishes, reached)
    for point in points:
        faults.at(point)


def test_machine_without_a_wish_never_fails(tmp_path: Path) -> None:
    _pass("", tmp_path / "reached", ["push:flip"])
    assert not (tmp_path / "reached").exists()


def test_wishes_come_true_in_order_and_once(tmp_path: Path) -> None:
    reached = tmp_path / "reached"
    points = ["begin", "push:flip", "push:flip", "end"]
    for done in (["kill:push:flip"], ["kill:push:flip", "kill:end"]):
        process = CONTEXT.Process(target=_pass, args=("kill:push:flip kill:end", reached, points))
        process.start()
        process.join(30)
        assert process.exitcode == -signal.SIGKILL
        assert reached.read_text().split() == done
    _pass("kill:push:flip kill:end", reached, points)


def test_power_waits_for_the_plug(tmp_path: Path) -> None:
    reached = tmp_path / "reached"
    process = CONTEXT.Process(target=_pass, args=("power:push:flip", reached, ["push:flip"]))
    process.start()
    wait_until(
        lambda: reached.exists() and reached.read_text() == "power:push:flip\n", 30, "the point"
    )
    assert process.is_alive()
    process.kill()
    process.join()
