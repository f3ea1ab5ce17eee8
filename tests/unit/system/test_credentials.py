from pathlib import Path

from agent.system import credentials
from agent.system.credentials import Credential


def test_credential_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "sysvm.boot").write_bytes(b'{"a": 1}\n')
    assert credentials.read(Credential.BOOT, tmp_path) == b'{"a": 1}\n'


def test_credential_that_nobody_gave_is_none(tmp_path: Path) -> None:
    assert credentials.read(Credential.FAULT, tmp_path) is None
