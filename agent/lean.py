"""Imports libraries without the parts of them that nobody here uses.

Some import, for a command line or for tests of theirs, more than they need to serve: it would stay
in memory for good, and at boot each module takes its time.
"""

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType


def know(package: str) -> None:
    """Make a package known without running its own `__init__`, which imports all its modules."""
    if package not in sys.modules:
        found = importlib.util.find_spec(package)
        if found is not None:
            sys.modules[package] = importlib.util.module_from_spec(found)


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """While the block imports, have these modules be empty; who asks later gets the real ones.

    Whatever is taken from an empty one is a class that does nothing.
    """
    missing = [name for name in names if name not in sys.modules]
    for name in missing:
        sys.modules[name] = _Empty(name)
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


class _Empty(ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        nothing = type(name, (), {})
        setattr(self, name, nothing)
        return nothing
