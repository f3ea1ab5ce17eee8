"""The image that is proven: the newest in build/, in each format, or the one of SYSVM_IMAGE."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.image import formats
from appliance.image.formats import Format
from appliance.qemu import proof
from appliance.qemu.bench import Bench
from appliance.qemu.image import Contents

_BUILT = Path(__file__).parents[2] / "build"


@pytest.fixture(scope="session")
def image() -> Path:
    """The qcow2 image; a test that needs one that is not there is skipped, and says so."""
    named = os.environ.get("SYSVM_IMAGE")
    if named:
        return Path(named)
    found = sorted(_BUILT.glob("sysvm-*.qcow2"), key=lambda path: path.stat().st_mtime)
    if not found:
        pytest.skip("no image in build/: sysvm image build")
    return found[-1]


@pytest.fixture(scope="session")
def in_format(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Format], Path]:
    """The image in another format: the one beside it, or written from it as a build does."""
    made: dict[Format, Path] = {Format.QCOW2: image}
    folder = tmp_path_factory.mktemp("formats")

    def write(form: Format) -> Path:
        beside = image.with_suffix(f".{form}")
        if beside.exists() and beside.stat().st_mtime >= image.stat().st_mtime:
            made[form] = beside
        if form not in made:
            raw = Contents.of(image, folder / "raw").raw
            made[form] = formats.write(raw, form, folder / f"{image.stem}.{form}")[0]
        return made[form]

    return write


@pytest.fixture
def prove() -> Callable[[Bench, str | proof.Case], None]:
    """Have a case told, and every check of it hold."""

    def tell(bench: Bench, told: str | proof.Case) -> None:
        case = next((case for case in proof.CASES if case.name == told), told)
        assert isinstance(case, proof.Case), f"no case {told}"
        checks = list(proof.run(case, bench))
        assert checks, "a case without a check proves nothing"
        failed = [f"{check.what}: {check.seen}" for check in checks if not check.holds]
        assert not failed, "\n\n".join(failed)

    return tell
