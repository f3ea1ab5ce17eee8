"""What the CPU was to a unit, and to a thread, by the kernel's figures."""

import os
import subprocess
import sys
import threading

from agent.monitor.silence import CpuTime
from agent.system import cpu_time
from appliance.lab.wait import wait_until

STAT = """usage_usec 40272000
user_usec 35238000
system_usec 5034000
nice_usec 0
"""
PRESSURE = """some avg10=0.09 avg60=0.02 avg300=0.00 total=31513000
full avg10=0.09 avg60=0.02 avg300=0.00 total=31234000
"""


def test_figures_are_seconds_of_all_processes_of_the_unit() -> None:
    assert cpu_time.read(STAT, PRESSURE, 7.0) == CpuTime(7.0, 40.272, 31.513)


def test_a_kernel_without_pressure_tells_what_was_used() -> None:
    assert cpu_time.read(STAT, "", 7.0) == CpuTime(7.0, 40.272, 0.0)


def test_a_kernel_without_either_tells_nothing() -> None:
    assert cpu_time.read("", PRESSURE, 7.0) is None


def test_a_process_that_is_gone_has_no_figures() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    assert cpu_time.of_unit(child.pid) is None


def test_a_thread_that_shares_a_cpu_waits_for_it() -> None:
    """Two that spin on one CPU, where nobody else needs to be."""
    cpu = min(os.sched_getaffinity(0))
    spins = f"import os\nos.sched_setaffinity(0, {{{cpu}}})\nwhile True: pass"
    stop, waited = threading.Event(), [0.0]

    def spin() -> None:
        os.sched_setaffinity(0, {cpu})  # this thread alone
        while not stop.is_set():
            waited[0] = cpu_time.waited_for()

    thread = threading.Thread(target=spin)
    with subprocess.Popen([sys.executable, "-c", spins]) as child:
        thread.start()
        try:
            wait_until(lambda: waited[0] > 0.02, 60, "it had to wait")
        finally:
            stop.set()
            thread.join()
            child.kill()
