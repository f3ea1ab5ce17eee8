"""Files of JSON lines that somebody is writing while they are read."""

import json
from pathlib import Path
from typing import Any


def rows(path: Path) -> tuple[dict[str, Any], ...]:
    """The whole lines so far: none before there is a file, and not one that is half written."""
    if not path.exists():
        return ()
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return tuple(json.loads(line) for line in whole.splitlines())
