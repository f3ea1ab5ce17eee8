"""Work that comes round: turn after turn until it is told to stop, whatever one turn meets."""

import logging
import threading
from collections.abc import Callable


def turns(
    work: Callable[[], object],
    every: float,
    stop: threading.Event,
    log: logging.Logger,
    failed: str,
    *,
    at_once: bool = False,
) -> None:
    """Do the work, and wait so many seconds, until `stop`; the first turn may come at once.

    A turn that raises is logged, under what `failed` says, and the next one comes as usual: the
    work is such that a later turn makes up for it.
    """
    if not at_once:
        stop.wait(every)
    while not stop.is_set():
        try:
            work()
        except Exception:
            log.exception(failed)
        stop.wait(every)
