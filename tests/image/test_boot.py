"""The image boots, is pushed to, serves a guest, is reset and unplugged: the short form."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.qemu import proof
from appliance.qemu.bench import Bench, Variant, bench

pytestmark = pytest.mark.image


@pytest.fixture(scope="module")
def ground(image: Path) -> Iterator[Bench]:
    with bench(image, Variant(), name="short") as made:
        yield made


@pytest.mark.parametrize("name", [case.name for case in proof.chosen(short=True)])
def test_image_keeps_what_it_promises(
    ground: Bench, prove: Callable[[Bench, str], None], name: str
) -> None:
    prove(ground, name)
