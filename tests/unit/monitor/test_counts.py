"""What was told of by the agent before."""

from pathlib import Path

import pytest

from agent.monitor.counts import Counts


def test_counts_are_those_of_the_agent_before(tmp_path: Path) -> None:
    counts = Counts(tmp_path / "counts")
    assert counts.get("dnsmasq.service") == -1
    counts.put("dnsmasq.service", 2)
    assert Counts(tmp_path / "counts").get("dnsmasq.service") == 2


def test_what_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    counts = Counts(folder / "counts")
    counts.put("dnsmasq.service", 2)
    counts.keep()
    folder.mkdir()
    counts.keep()
    assert Counts(folder / "counts").get("dnsmasq.service") == 2


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"a": "b"}'])
def test_what_cannot_be_read_is_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "counts").write_text(text)
    assert Counts(tmp_path / "counts").get("a") == -1
