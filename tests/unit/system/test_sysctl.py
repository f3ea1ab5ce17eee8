from pathlib import Path

import pytest

from agent.engine.host import StepFailed
from agent.engine.model import Sysctl
from agent.system import sysctl


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "net/ipv4/conf/eth0.100"
    folder.mkdir(parents=True)
    (folder / "rp_filter").write_text("0\n")
    (tmp_path / "net/ipv4/tcp_rmem").write_text("4096\t131072\t6291456\n")
    return tmp_path


def test_key_may_hold_a_nic_whose_name_has_a_dot(root: Path) -> None:
    key = "net.ipv4.conf.eth0/100.rp_filter"
    sysctl.put(Sysctl(key, "1"), root)
    assert sysctl.observe([key], root) == {key: "1"}


def test_blanks_are_collapsed_and_missing_keys_left_out(root: Path) -> None:
    seen = sysctl.observe(["net.ipv4.tcp_rmem", "net.ipv4.no_such"], root)
    assert seen == {"net.ipv4.tcp_rmem": "4096 131072 6291456"}


def test_equal_value_is_not_written_again(root: Path) -> None:
    path = root / "net/ipv4/tcp_rmem"
    sysctl.put(Sysctl("net.ipv4.tcp_rmem", "4096 131072 6291456"), root)
    assert path.read_text() == "4096\t131072\t6291456\n"


def test_key_that_is_not_there_fails_unless_that_is_fine(root: Path) -> None:
    with pytest.raises(StepFailed, match=r"set net\.no"):
        sysctl.put(Sysctl("net.no", "1"), root)
    sysctl.put_if_there(Sysctl("net.no", "1"), root)
    assert not (root / "net/no").exists()
