"""The machine's clocks."""

import time


class SystemClock:
    """`agent.engine.host.Clock`, as it really is."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
