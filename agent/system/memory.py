"""Memory that is free again goes back to the system: a large push needs for a moment what the
agent does not need afterwards."""

import ctypes
import gc


def settle() -> None:
    """Take what has been imported for permanent, and look for garbage less often.

    A push of a large document makes hundreds of thousands of objects and hardly a cycle; the
    collector would walk all that lives a dozen times meanwhile, for a tenth of the time.
    """
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def give_back() -> None:
    """Collect garbage, and have the allocator return whole free pages."""
    gc.collect()
    trim()


def trim() -> None:
    """Have the allocator return whole free pages (malloc_trim(3)); a millisecond or two."""
    _LIBC.malloc_trim(0)


_LIBC = ctypes.CDLL(None)
