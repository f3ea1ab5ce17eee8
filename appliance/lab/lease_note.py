"""What udhcpc calls: writes down what the DHCP server said. A program of its own.

The lab copies it beside a guest's state, as NAME/lease-note; the note goes to NAME/lease.json.
Setting addresses is the lab's part, where errors can be reported.
"""

import json
import os
import sys
from pathlib import Path


def main(program: str, event: str) -> None:
    """Note this event, with the variables that udhcpc describes it by."""
    if event in ("bound", "renew", "leasefail", "nak"):
        note = Path(program).with_name("lease.json")
        note.write_text(json.dumps({"event": event, **os.environ}))


if __name__ == "__main__":
    main(*sys.argv[:2])
