"""SHA256SUMS, and the signature beside it."""

from pathlib import Path

from agent.system.run import run
from appliance.image import checksums


def test_sums_are_what_sha256sum_checks(tmp_path: Path) -> None:
    for name in ("b.qcow2", "a.json"):
        (tmp_path / name).write_text(name)
    sums = checksums.write_sums(tmp_path, [tmp_path / "b.qcow2", tmp_path / "a.json"])
    assert [line.split()[1] for line in sums.read_text().splitlines()] == ["a.json", "b.qcow2"]
    checked = run(["sha256sum", "-c", "SHA256SUMS"], timeout=10, cwd=tmp_path)
    assert checked.text == "a.json: OK\nb.qcow2: OK\n"


def test_a_signature_of_earlier_sums_does_not_stay(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("a")
    sums = checksums.write_sums(tmp_path, [tmp_path / "a.json"])
    checksums.signature(sums).write_text("of these")
    checksums.write_sums(tmp_path, [tmp_path / "a.json"])
    assert not checksums.signature(sums).exists()
