"""Where the recipes, the units and the agent's source are, in a checkout and when installed."""

from pathlib import Path

import agent

_PACKAGE = Path(__file__).resolve().parent


def recipes() -> Path:
    """The folder of image recipes: package lists, locks and elements."""
    return _data("image-recipes")


def units() -> Path:
    """The folder of systemd units and what travels with them."""
    return _data("systemd")


def examples() -> Path:
    """The folder of documents to push."""
    return _data("examples")


def agent_source() -> Path:
    """The agent's package, as it is to be copied into the VM."""
    return Path(agent.__file__).resolve().parent


def _data(name: str) -> Path:
    # A wheel carries the folders as package data; a checkout has them beside the package, and a
    # checkout wins, so that an editable installation never builds from stale copies.
    for folder in (_PACKAGE.parent / name, _PACKAGE / "_data" / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"{name} is neither beside the package nor inside it: reinstall sysvm")
