"""Machines under QEMU, as far as no QEMU is needed."""

from appliance.qemu.machine import is_stale_trap

STALE = """\
[    2.047909] Oops: int3: 0000 [#2] PREEMPT SMP NOPTI
[    2.047972] RIP: 0010:sched_clock_cpu+0x9/0x1d0
[    2.048197] Kernel panic - not syncing: Fatal exception in interrupt
[    3.934857] Kernel Offset: 0x27a00000 from 0xffffffff81000000
"""


def test_stale_breakpoint_of_the_emulators_is_told_from_a_panic_of_the_images() -> None:
    assert is_stale_trap(STALE)
    assert not is_stale_trap(STALE.replace("int3", "general protection fault"))
    assert not is_stale_trap("[    2.1] Kernel panic - not syncing: Attempted to kill init!")
    assert not is_stale_trap("")
