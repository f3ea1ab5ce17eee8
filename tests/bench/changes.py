"""What one change costs: ours by PUT and by PATCH, interleaved with the floor in the same VM."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.bench import documents
from tests.bench.documents import PUBLIC_ADDRESS
from tests.bench.router import Json, Router, router
from tests.bench.samples import Samples

# Where an entry of each kind stands in the document, how it is called, and what it is.
Entry = tuple[tuple[str, ...], str, Callable[[int], Json]]
KINDS: Mapping[str, Entry] = {
    "rule": (("firewall", "ingress", PUBLIC_ADDRESS), "r{}", documents.rule),
    "forward": (("nat", "forwards"), "f{}", documents.forward),
    "host": (("dhcp_dns", "hosts"), "", documents.host),
    "listener": (("load_balancer", "listeners"), "l{}", documents.listener),
    "user data": (("user_data", "guests"), "", documents.guest_data),
}
# What is pushed where only a mix is wanted.
MIX = tuple(KINDS)


@dataclass(frozen=True, slots=True)
class Change:
    """A document, one with an entry more, and the merge patches between them."""

    was: Json
    now: Json
    add: Json
    remove: Json


def change(kind: str, base: Json, number: int) -> Change:
    """Entry `number` of this kind more."""
    path, name, make = KINDS[kind]
    key = name.format(number) or _key(kind, number)
    entry = make(number)
    now = copy.deepcopy(base)
    inner = now
    for part in path:
        inner = inner[part]
    inner[key] = entry
    return Change(base, now, _nested(path, {key: entry}), _nested(path, {key: None}))


def _key(kind: str, number: int) -> str:
    return documents.guest_mac(number) if kind == "host" else documents.guest_address(number)


def _nested(path: tuple[str, ...], value: Mapping[str, Any]) -> Json:
    for part in reversed(path):
        value = {part: value}
    return dict(value)


def measure(
    sizes: Mapping[int, int], say: Callable[[str], None]
) -> Iterator[tuple[int, str, Json]]:
    """For each size (with its number of repetitions) and kind, samples in seconds by way."""
    with router("one") as vm:
        for size, repetitions in sizes.items():
            base = documents.router(size)
            vm.put(base)
            for kind in KINDS:
                say(f"one {kind} more and less among {size}, {repetitions} times")
                samples = Samples()
                for repetition in range(-1, repetitions):
                    one = _repetition(vm, change(kind, base, size + 1 + repetition))
                    if repetition >= 0:  # the first warms caches up, of both
                        samples.add_all(one)
                yield size, kind, samples.seconds


def _repetition(vm: Router, step: Change) -> Mapping[str, float]:
    """There and back each way: ours whole, ours by patch, the floor, the least that could be."""
    vm.ask("capture", name="was")
    took = {"put add": vm.put(step.now)}
    vm.ask("capture", name="now")
    took["put remove"] = vm.put(step.was)
    took["floor add"] = vm.ask("change", was="was", now="now")["seconds"]
    took["floor remove"] = vm.ask("change", was="now", now="was")["seconds"]
    took["patch add"] = vm.patch(step.add)
    took["patch remove"] = vm.patch(step.remove)
    took["ideal add"] = vm.ask("change", was="was", now="now", ideal=True)["seconds"]
    took["ideal remove"] = vm.ask("change", was="now", now="was", ideal=True)["seconds"]
    return took


def rebuild(
    sizes: Mapping[int, int], say: Callable[[str], None]
) -> Iterator[tuple[int, Json, Json]]:
    """For each size: samples of a first push on a clean VM and of the same by hand; its parts."""
    for size, repetitions in sizes.items():
        samples, parts = Samples(), Samples()
        for repetition in range(repetitions):
            say(f"first push of {size} of each on a clean VM, {repetition + 1} of {repetitions}")
            with router(f"all{size}x{repetition}") as vm:
                took = vm.put(documents.router(size))
                made = vm.ask("capture", name="all")
                vm.ask("clear", name="all")
                by_hand = vm.ask("rebuild", name="all")
                if vm.ask("capture", name="again")["digest"] != made["digest"]:
                    raise AssertionError("by hand it became something else")
                samples.add_all({"push": took, "floor": by_hand["seconds"]})
                parts.add_all(by_hand["parts"])
        yield size, samples.seconds, parts.seconds
