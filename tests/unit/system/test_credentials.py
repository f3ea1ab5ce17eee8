"""Credentials of whoever boots the machine, seen from outside a sandbox and from within."""

from pathlib import Path

import pytest

from agent.system import credentials
from agent.system.boot_channels import Places
from agent.system.credentials import FOLDER, Credential


def test_outside_a_sandbox_they_are_where_the_machine_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert credentials.folder() == Places().credentials == FOLDER


def test_in_a_sandbox_those_are_seen_that_the_unit_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert Places().credentials == tmp_path
    assert credentials.read(Credential.FAULT) is None
    (tmp_path / "sysvm.fault").write_bytes(b"kill:push:flip")
    assert credentials.read(Credential.FAULT) == b"kill:push:flip"
    assert credentials.read(Credential.BOOT) is None
