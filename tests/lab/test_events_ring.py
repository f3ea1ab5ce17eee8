"""The ring of events with its bounds as they are, in a lab of its own: it leaves much behind."""

from appliance.lab import Lab
from appliance.lab.wait import wait_until
from tests.lab.test_events import STATE, kept

FLOOD = """
from agent.monitor.events import Event, Kind
from agent.monitor.outbox import Outbox
from agent.system.clock import SystemClock, boot_id
from agent.system.paths import Paths
from concurrent.futures import ThreadPoolExecutor
outbox = Outbox(Paths().events, boot=boot_id(), clock=SystemClock())
outbox.start()
def say(number):
    kind = Kind.CHECK_FAILED if number % 100 == 0 else Kind.CHECK_PASSED
    outbox.record(Event(kind=kind, subject="flood", message="m", data={"number": number}))
with ThreadPoolExecutor(16) as pool:  # which come together are written together
    list(pool.map(say, range(50_500)))
outbox.close()
"""


def test_ring_that_overflows_says_so_and_keeps_what_is_bad(lab: Lab) -> None:
    lab.vm.run(["systemctl", "stop", "sysvm-agent"])
    lab.vm.run(["/opt/sysvm/bin/python3", "-I", "-c", FLOOD], timeout=500)
    lab.vm.run(["systemctl", "start", "sysvm-agent"])
    lab.vm.wait_ready()
    wait_until(lambda: kept(lab)["events"], 30, "the agent has read them")
    gaps = [e for e in kept(lab, "tail=1000&severity=alert")["events"] if e["kind"] == "events.gap"]
    gap = gaps[-1]["data"]
    assert gap["reason"] == "nobody took them"
    assert gap["lost"] >= 2500
    assert gap["first"] < gap["last"]
    answer = kept(lab, "after=0&severity=warning")
    numbers = [e["data"]["number"] for e in answer["events"] if e["subject"] == "flood"]
    assert set(numbers) >= set(range(0, 50_000, 100))  # those are worse than INFO
    size = int(lab.vm.run(["stat", "-c", "%s", f"{STATE}/events/events.db"]).text)
    assert size < 24 * 1024 * 1024
