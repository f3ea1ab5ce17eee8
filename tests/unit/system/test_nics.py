"""NICs that come late, and get their names later."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.engine.model import Link
from agent.system.nics import Udev, wait

ETH0 = Link("eth0", "02:00:00:00:00:01", 1500, up=False)
ETH1 = Link("eth1", "02:00:00:00:00:02", 1500, up=False)


@pytest.fixture
def udev(tmp_path: Path) -> Udev:
    """A udev that runs and has named nothing yet; eth0 and eth1 have the indices 2 and 3."""
    (tmp_path / "run/data").mkdir(parents=True)
    (tmp_path / "run/control").touch()
    for index, name in ((2, "eth0"), (3, "eth1")):
        (tmp_path / f"net/{name}").mkdir(parents=True)
        (tmp_path / f"net/{name}/ifindex").write_text(f"{index}\n")
    return Udev(tmp_path / "run", tmp_path / "net")


def coming(*looks: tuple[Link, ...]) -> Callable[[], tuple[Link, ...]]:
    """NICs as they are at each look; the last look's stay."""
    left = list(looks)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_a_nic_that_comes_later_is_waited_for(tmp_path: Path) -> None:
    nobody = Udev(tmp_path / "run", tmp_path / "net")
    links = coming((), (ETH0,), (ETH0, ETH1))
    assert wait(links, {ETH0.mac, ETH1.mac}, 10, nobody) == frozenset()
    assert links() == (ETH0, ETH1)


def test_one_that_never_comes_is_named(tmp_path: Path) -> None:
    nobody = Udev(tmp_path / "run", tmp_path / "net")
    assert wait(lambda: (ETH0,), {ETH0.mac, ETH1.mac}, 0, nobody) == {ETH1.mac}


def test_a_nic_without_its_final_name_is_waited_for(udev: Udev) -> None:
    assert wait(lambda: (ETH0,), {ETH0.mac}, 0, udev) == {ETH0.mac}
    (udev.run / "data/n2").touch()
    assert wait(lambda: (ETH0,), {ETH0.mac}, 0, udev) == frozenset()


def test_others_are_waited_for_but_not_missed(udev: Udev) -> None:
    """One that is renamed under a restore is as bad as one that is not there."""
    (udev.run / "data/n2").touch()
    looks = 0

    def links() -> tuple[Link, ...]:
        nonlocal looks
        looks += 1
        if looks == 3:
            (udev.run / "data/n3").touch()
        return ETH0, ETH1

    assert wait(links, {ETH0.mac}, 10, udev) == frozenset()
    assert looks == 3


def test_one_that_is_renamed_between_two_looks_is_looked_at_again(udev: Udev) -> None:
    gone = Link("old", ETH0.mac, 1500, up=False)
    (udev.run / "data/n2").touch()
    assert wait(coming((gone,), (ETH0,)), {ETH0.mac}, 10, udev) == frozenset()
