"""The bill of materials is valid CycloneDX, whole, and the same each time."""

import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.validation.json import JsonStrictValidator

from appliance.errors import ApplianceError
from appliance.image import contents, sbom
from appliance.image.python import SITE_PACKAGES

STATUS = """\
Package: dnsmasq
Status: install ok installed
Maintainer: Simon Kelley <simon@example.org>
Architecture: all
Source: dnsmasq (2.91)
Version: 2.91-1+deb13u2
Depends: netbase, dnsmasq-base (>= 2.91), a-choice | python3:any, not-there
Homepage: https://example.org/dnsmasq

Package: python3
Status: install ok installed
Architecture: amd64
Version: 3.13.5-1
Provides: python3-profiler, dnsmasq-base (= 2.91)

Package: netbase
Status: install ok installed
Architecture: all
Version: 1:6.5

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1
"""
COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2000-2025 Somebody
License: GPL-2 or GPL-3+

Files: debian/*
Copyright: Somebody else
License: Expat
 Permission is hereby granted

License: Unused
 Text.
"""
FLASK = """\
Metadata-Version: 2.4
Name: Flask
Version: 3.1.3
License-Expression: BSD-3-Clause
Requires-Dist: Blinker>=1.9
Requires-Dist: python-dotenv; extra == "dotenv"
"""
BLINKER = """\
Metadata-Version: 2.3
Name: blinker
Version: 1.9.0
Classifier: License :: OSI Approved :: MIT License
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "var/lib/dpkg/status": STATUS,
        "usr/share/doc/dnsmasq/copyright": COPYRIGHT,
        "usr/share/doc/netbase/copyright": "This is free software.\nLicense: GPL-2\n",
        f"{SITE_PACKAGES}/flask-3.1.3.dist-info/METADATA": FLASK,
        f"{SITE_PACKAGES}/blinker-1.9.0.dist-info/METADATA": BLINKER,
        "usr/lib/modules/6.12.0-amd64/modules.builtin": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def _render(root: Path) -> str:
    return sbom.render(
        contents.read(root),
        name="sysvm",
        version="1.2",
        digest="ab" * 32,
        epoch=1_700_000_000,
        hashes={"dnsmasq=2.91-1+deb13u2": "cd" * 32, "flask=3.1.2": "ef" * 32},
    )


def _components(root: Path) -> dict[str, dict[str, Any]]:
    components = json.loads(_render(root))["components"]
    return {component["name"]: component for component in components}


def test_it_is_valid_by_cyclonedxs_schema(root: Path) -> None:
    text = _render(root)
    assert JsonStrictValidator(sbom.VERSION).validate_str(text) is None
    broken = text.replace('"bomFormat": "CycloneDX"', '"bomFormat": "Other"')
    assert JsonStrictValidator(sbom.VERSION).validate_str(broken) is not None


def test_it_is_the_same_each_time(root: Path) -> None:
    assert _render(root) == _render(root)
    assert json.loads(_render(root))["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"


def test_every_installed_package_is_in_it_and_no_other(root: Path) -> None:
    assert set(_components(root)) == {"dnsmasq", "netbase", "python3", "flask", "blinker"}


def test_a_package_has_its_purl_and_hash(root: Path) -> None:
    found = _components(root)
    assert found["dnsmasq"]["purl"] == (
        "pkg:deb/debian/dnsmasq@2.91-1%2Bdeb13u2?arch=all&distro=debian-13"
    )
    assert found["dnsmasq"]["hashes"] == [{"alg": "SHA-256", "content": "cd" * 32}]
    assert found["flask"]["purl"] == "pkg:pypi/flask@3.1.3"
    assert "hashes" not in found["flask"]  # another version's was given


def test_licences_are_spdxs_where_the_package_says_so(root: Path) -> None:
    found = _components(root)
    ids = [entry["license"]["id"] for entry in found["dnsmasq"]["licenses"]]
    assert ids == ["GPL-2.0-only", "GPL-3.0-or-later", "MIT"]
    assert found["flask"]["licenses"] == [{"license": {"id": "BSD-3-Clause"}}]
    assert found["blinker"]["licenses"] == [{"license": {"id": "MIT"}}]
    assert "licenses" not in found["netbase"]  # its file is for people


def test_who_needs_whom(root: Path) -> None:
    graph = {
        entry["ref"]: entry.get("dependsOn", [])
        for entry in json.loads(_render(root))["dependencies"]
    }
    assert graph["deb:dnsmasq"] == ["deb:netbase", "deb:python3"]
    assert graph["pypi:flask"] == ["deb:python3", "pypi:blinker"]
    assert len(graph["image"]) == 5


def test_the_kernel_is_the_one_that_has_modules(root: Path) -> None:
    assert contents.read(root).kernel == "6.12.0-amd64"


def test_layers_are_looked_through_from_the_top(root: Path, tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    assert contents.read(top, root) == contents.read(root)


def test_an_empty_folder_is_no_root_file_system(tmp_path: Path) -> None:
    with pytest.raises(ApplianceError, match="not a root file system"):
        contents.read(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("GPL-2+", "GPL-2.0-or-later"),
        ("GPLv3+", "GPL-3.0-or-later"),
        ("LGPL-2.1", "LGPL-2.1-only"),
        ("AGPL-3", "AGPL-3.0-only"),
        ("Expat", "MIT"),
        ("bsd-3-clause", "BSD-3-Clause"),
        ("GPL", "GPL"),
        ("public-domain", "public-domain"),
    ],
)
def test_debians_short_names_in_spdxs_words(name: str, identifier: str) -> None:
    assert sbom.spdx(name) == identifier


def test_packages_of_python_are_found_below_the_layer_of_the_agent(
    root: Path, tmp_path: Path
) -> None:
    above = tmp_path / "above"
    (above / SITE_PACKAGES / "agent").mkdir(parents=True)
    whole = contents.read(root)
    assert [package.name for package in whole.python] == ["blinker", "flask"]
    assert contents.read(above, root).python == whole.python
