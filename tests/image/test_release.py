"""A release: the image's files account for each other, can be checked, signed and compared."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.validation.json import JsonStrictValidator

from agent import __version__
from agent.system.run import run
from appliance import tools
from appliance.errors import ApplianceError
from appliance.image import checksums, diff, formats, listing, locks, release, sbom
from appliance.image.archive import Deb
from appliance.image.formats import Format
from appliance.image.locks import Lock
from appliance.image.python import SITE_PACKAGES
from appliance.image.rootfs import Layers

pytestmark = pytest.mark.image

EPOCH = 1_700_000_000
STATUS = """\
Package: netbase
Status: install ok installed
Architecture: all
Version: {version}
"""
FLASK = "Metadata-Version: 2.4\nName: Flask\nVersion: 3.1.3\nLicense-Expression: BSD-3-Clause\n"
FORMATS = (Format.QCOW2, Format.VHD, Format.OVA)


@pytest.fixture(autouse=True)
def _able(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        tools.need_root()
        tools.need("qemu-img", "unshare", "gpg")
    except ApplianceError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("SYSVM_CACHE", str(tmp_path / "cache"))


def _layers(folder: Path, version: str = "6.5") -> Layers:
    """Three layers with next to nothing in them, and the lock that names it."""
    base = f"base-{version}"  # in the cache, a layer's name says what is in it
    files = {
        f"{base}/usr/lib/sysvm/dpkg/status": STATUS.format(version=version),
        f"{base}/usr/bin/tool": version,
        f"python/{SITE_PACKAGES}/flask-3.1.3.dist-info/METADATA": FLASK,
        "agent/usr/bin/sysvmctl": "",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    deb = Deb("netbase", version, "all", "ab" * 32, 12)
    lock = Lock(EPOCH, (deb,), (), ("flask==3.1.3 --hash=sha256:" + "cd" * 32,))
    return Layers(folder / base, folder / "python", folder / "agent", lock)


def _release(tmp_path: Path, name: str = "out", version: str = "6.5", **options: str) -> Path:
    raw = tmp_path / "disk"
    raw.write_bytes(version.encode() * (1 << 18))
    folder = tmp_path / name
    layers = _layers(tmp_path / f"layers-{name}", version)
    url, sign = options.get("url"), options.get("sign")
    files = dict(formats.write_all(raw, FORMATS, folder, "sysvm", epoch=EPOCH))
    written = release.account(files, raw, layers, folder, "sysvm", url=url, sign=sign)
    assert all(path.exists() for path in written)
    return folder


def _read(path: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(path.read_text())
    return found


def test_the_manifest_tells_the_truth_of_every_file(tmp_path: Path) -> None:
    folder = _release(tmp_path)
    manifest = _read(folder / "sysvm.manifest.json")
    assert manifest["version"] == __version__
    assert (manifest["time"], manifest["epoch"]) == ("2023-11-14T22:13:20+00:00", EPOCH)
    assert set(manifest["formats"]) == {"qcow2", "vhd", "ova"}
    for (entry,) in manifest["formats"].values():
        path = folder / entry["file"]
        assert (entry["size"], entry["sha256"]) == (path.stat().st_size, checksums.sha256(path))
        assert entry["virtual_size"] == (tmp_path / "disk").stat().st_size
    assert manifest["packages"] == {
        "debian": [{"name": "netbase", "version": "6.5", "architecture": "all"}],
        "python": [{"name": "flask", "version": "3.1.3"}],
    }
    lock = folder / manifest["lock"]["file"]
    assert manifest["lock"]["sha256"] == checksums.sha256(lock)
    assert locks.read(lock).epoch == EPOCH


def test_the_manifest_has_the_hash_of_every_input(tmp_path: Path) -> None:
    inputs = _read(_release(tmp_path) / "sysvm.manifest.json")["inputs"]
    for name in (
        "image-recipes/python.lock",
        "agent/main.py",
        "systemd/system/sysvm-agent.service",
    ):
        assert inputs[name] == checksums.sha256(Path(__file__).parents[2] / name)
    assert not [name for name in inputs if "__pycache__" in name]


def test_the_bill_of_materials_is_valid_and_has_the_locks_hashes(tmp_path: Path) -> None:
    text = (_release(tmp_path) / "sysvm.cdx.json").read_text()
    assert JsonStrictValidator(sbom.VERSION).validate_str(text) is None
    hashes = {part["name"]: part["hashes"] for part in json.loads(text)["components"]}
    assert hashes["netbase"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert hashes["flask"] == [{"alg": "SHA-256", "content": "cd" * 32}]


def test_templates_are_for_the_formats_that_were_made(tmp_path: Path) -> None:
    folder = _release(tmp_path, url="https://example.org/images/")
    found = _read(folder / "sysvm.templates.json")["templates"]
    assert {entry["hypervisor"]: entry["file"] for entry in found} == {
        "KVM": "sysvm.qcow2",
        "LXC": "sysvm.qcow2",
        "XenServer": "sysvm.vhd",
        "Hyperv": "sysvm.vhd",
        "VMware": "sysvm.ova",
    }
    for entry in found:
        digest = checksums.sha256(folder / entry["file"])
        assert entry["checksum"] == {"algorithm": "SHA-256", "value": digest}
        assert entry["url"] == f"https://example.org/images/{entry['file']}"
        assert entry["cloudstack"]["parameters"]["checksum"] == f"{{SHA-256}}{digest}"


def test_the_sums_are_of_every_file_and_their_signature_is_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(f"/tmp/b{os.getpid()}")  # gpg-agent's socket wants a short path
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    env = {"GNUPGHOME": str(home)}
    key = ("--passphrase", "", "--quick-generate-key", "release@example.org", "default", "sign")
    try:
        run(["gpg", "--batch", *key], timeout=120, env=env)
        folder = _release(tmp_path, sign="release@example.org")
        signature = folder / "SHA256SUMS.asc"
        verify = ("gpg", "--batch", "--verify", str(signature), str(folder / "SHA256SUMS"))
        run(verify, timeout=60, env=env)
        run(["sha256sum", "-c", "--strict", "SHA256SUMS"], timeout=60, cwd=folder)
        summed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
        own = {"SHA256SUMS", "SHA256SUMS.asc"}
        assert {p.name for p in folder.iterdir() if p.suffix != ".sha256"} == summed | own
        (folder / "SHA256SUMS").write_text("")
        assert run(verify, timeout=60, env=env, check=False).returncode == 1
        with pytest.raises(ApplianceError, match="gpg could not sign"):
            release.signed(folder / "SHA256SUMS", "nobody@example.org")
    finally:
        run(["gpgconf", "--kill", "all"], timeout=60, env=env)
        run(["rm", "-r", str(home)], timeout=60)


def test_two_releases_of_one_lock_are_equal_and_of_another_differ_visibly(tmp_path: Path) -> None:
    one, again = _release(tmp_path, "one"), _release(tmp_path, "again")
    for path in sorted(one.iterdir()):
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
    other = _release(tmp_path, "other", "6.6")
    found = diff.diff(*(diff.read(folder / "sysvm.manifest.json") for folder in (one, other)))
    assert found.packages == (diff.Change("debian", "netbase", "6.5", "6.6"),)
    assert [change.path for change in found.files] == ["usr/bin/tool", "usr/lib/sysvm/dpkg/status"]


def test_the_listing_is_of_all_layers(tmp_path: Path) -> None:
    files = listing.parse((_release(tmp_path) / "sysvm.mtree").read_text())
    assert {"usr/bin/tool", "usr/bin/sysvmctl", f"{SITE_PACKAGES}/flask-3.1.3.dist-info"} <= set(
        files
    )
