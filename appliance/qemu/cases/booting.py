"""The boot configuration: by every channel, not at all, or a broken one."""

import dataclasses
import json
from typing import Any

from agent.document.boot_source import Source
from appliance.lab.wait import wait_until
from appliance.qemu import channels as channel
from appliance.qemu.bench import READY, Bench
from appliance.qemu.cases.check import Checks, check, same
from appliance.qemu.cases.sides import CONTROL, SSH
from appliance.qemu.channels import FIRMWARE, GUEST_AGENT, PORT

_BROKEN = b'{"schema": 1, "role": "emperor", "hostname": "r-1-vm", "nics": {'


def without_configuration(bench: Bench) -> Checks:
    """No boot configuration, then a broken one: closed, and the console says why."""
    for words, credentials, reason in (
        ("without a boot configuration", {}, r"(?i)no boot configuration"),
        (
            "with a broken one",
            {"sysvm.boot": _BROKEN},
            r"boot configuration \(credential\) cannot be used",
        ),
    ):
        spec = bench.spec(told=False)
        spec = dataclasses.replace(spec, credentials={**spec.credentials, **credentials})
        vm = bench.boot(spec)
        said = vm.wait_console(reason, READY)
        bench.say(f"{words}, the console says: {said[0].strip()}")
        yield check(f"{words}, the console says why", True)  # noqa: FBT003
        rules = vm.run(["iptables", "-S"]).text + vm.run(["ip6tables", "-S"]).text
        closed = all(f"-P {chain} DROP" in rules for chain in ("INPUT", "FORWARD"))
        yield check(f"{words}, the firewall lets nothing in", closed, rules)
        links: list[dict[str, Any]] = json.loads(vm.run(["ip", "-j", "link"]).text)
        up = [link["ifname"] for link in links if "UP" in link["flags"] and link["ifname"] != "lo"]
        yield check(f"{words}, no network card is up", not up, up)
        reached = [p for p in (22, 8443, SSH) if bench.cloud.manager.reaches(CONTROL, p)]
        yield check(f"{words}, nothing answers management", not reached, reached)
    bench.discard()


def channels(bench: Bench) -> Checks:
    """The boot configuration by each channel that QEMU has: management is answered each time."""
    configuration = bench.cloud.boot_configuration()
    firmware, labelled = bench.cloud.folder / "firmware", bench.cloud.folder / "drive.img"
    firmware.write_bytes(configuration)
    bench.boot(bench.spec(told=False, firmware_files={FIRMWARE: firmware}))
    bench.cloud.wait_ready(READY)
    yield from _source(bench, "QEMU's firmware files", Source.CREDENTIAL)
    drive = channel.drive(labelled, configuration)
    bench.boot(bench.spec(told=False, drives=(drive,)))
    bench.cloud.wait_ready(READY)
    yield from _source(bench, "a labelled drive", Source.DRIVE)
    vm = bench.boot(bench.spec(told=False, channels=(PORT,)))
    broken = channel.send(vm.channel(PORT), b'{"schema": 1}', READY)
    yield check("a virtio-serial port: a broken one is refused", broken["problems"], broken)
    answer = channel.send(vm.channel(PORT), configuration, READY)
    yield check("a virtio-serial port: accepted", answer["result"] == "accepted", answer)
    bench.cloud.wait_ready(READY)
    yield from _source(bench, "a virtio-serial port", Source.VIRTIO_SERIAL)
    vm = bench.boot(bench.spec(told=False, channels=(GUEST_AGENT,)))
    channel.write_by_agent(vm.channel(GUEST_AGENT), configuration, READY)
    bench.cloud.wait_ready(READY)
    yield from _source(bench, "qemu-guest-agent", Source.GUEST_AGENT)
    bench.discard()


def _source(bench: Bench, words: str, source: Source) -> Checks:
    # A configuration that came late has the agent start anew, after it has answered once.
    wait_until(lambda: bench.cloud.running() is not None, READY, "an answer that tells what runs")
    yield check(f"{words}: management is answered", True)  # noqa: FBT003
    told: dict[str, Any] = json.loads(bench.started().read("/run/sysvm/boot-status.json"))
    yield same(f"{words}: it knows where that came from", source.value, told["source"])
