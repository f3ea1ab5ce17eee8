"""All that an image promises, on each firmware, bus and format that hypervisors give it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.image.formats import Format
from appliance.qemu import proof
from appliance.qemu.bench import Bench, bench, variants

pytestmark = [pytest.mark.image, pytest.mark.proof]

FORMS = (
    (Format.QCOW2, 0),
    (Format.QCOW2, 1),
    (Format.VHD, 0),
    (Format.VHDX, 0),
    (Format.VMDK, 0),
)


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: f"{form[0]}-{form[1]}")
def ground(request: pytest.FixtureRequest, in_format: Callable[[Format], Path]) -> Iterator[Bench]:
    form, index = request.param
    path = in_format(form)
    with bench(path, variants(path)[index], name="long") as made:
        yield made


@pytest.mark.parametrize("name", [case.name for case in proof.CASES if case.every_variant])
def test_image_serves_on_every_kind_of_machine(
    ground: Bench, prove: Callable[[Bench, str], None], name: str
) -> None:
    prove(ground, name)
