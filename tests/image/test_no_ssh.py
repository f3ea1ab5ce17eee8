"""An image that is built without SSH: it works, and nobody can log in to it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from appliance import tools
from appliance.errors import ApplianceError
from appliance.image import build, locks, recipe
from appliance.image.formats import Format
from appliance.qemu import proof
from appliance.qemu.bench import Bench, Variant, bench
from appliance.qemu.cases.exposure import without_ssh

pytestmark = [pytest.mark.image, pytest.mark.proof]


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such an image; its layers and its disk come from the cache where it has been built before."""
    try:
        tools.need_root()
    except ApplianceError as error:
        pytest.skip(str(error))
    wanted = recipe.read(ssh=False)
    with locks.held(wanted):
        built = build.build(wanted, [Format.QCOW2], tmp_path_factory.mktemp("no-ssh"))
    return built.files[Format.QCOW2][0]


def test_image_without_ssh_serves_and_has_no_way_in(
    closed: Path, prove: Callable[[Bench, proof.Case], None]
) -> None:
    with bench(closed, Variant(), name="no-ssh") as made:
        prove(made, proof.Case("no-ssh", "an image without SSH", without_ssh))
