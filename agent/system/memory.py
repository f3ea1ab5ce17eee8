"""Memory that is free again goes back to the system: a large push needs for a moment what the
agent does not need afterwards."""

import ctypes
import gc


def give_back() -> None:
    """Collect garbage, and have the allocator return whole free pages (malloc_trim(3))."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
