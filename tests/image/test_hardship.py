"""What an image survives: full disks, wrong clocks, no memory, no power, no configuration."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.qemu import proof
from appliance.qemu.bench import Bench, Variant, bench

pytestmark = [pytest.mark.image, pytest.mark.proof]


@pytest.fixture(scope="module")
def ground(image: Path) -> Iterator[Bench]:
    with bench(image, Variant(), name="hardship") as made:
        yield made


@pytest.mark.parametrize(
    "name",
    [case.name for case in proof.chosen(short=False) if not case.every_variant],
)
def test_image_survives(ground: Bench, prove: Callable[[Bench, str], None], name: str) -> None:
    prove(ground, name)
