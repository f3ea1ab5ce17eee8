from pathlib import Path

import pytest

from agent.system import credentials
from agent.system.credentials import Credential


def test_credential_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "sysvm.boot").write_bytes(b'{"a": 1}\n')
    assert credentials.read(Credential.BOOT, tmp_path) == b'{"a": 1}\n'


def test_credential_that_nobody_gave_is_none(tmp_path: Path) -> None:
    assert credentials.read(Credential.FAULT, tmp_path) is None


def test_a_sandboxed_process_reads_what_its_unit_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sysvm.fault").write_bytes(b"kill:push:flip")
    hidden = tmp_path / "hidden"
    assert credentials.read(Credential.FAULT, hidden) is None
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert credentials.read(Credential.FAULT, hidden) == b"kill:push:flip"
    assert credentials.read(Credential.BOOT, hidden) is None
