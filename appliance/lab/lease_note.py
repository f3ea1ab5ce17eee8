"""What udhcpc calls: writes down what the DHCP server said. A program of its own.

The lab copies it beside a guest's state, as NAME/lease-note; the note goes to NAME/lease.json.
Setting addresses is the lab's part, where errors can be reported.
"""

import json
import os
import sys
from pathlib import Path

event = sys.argv[1]
if event in ("bound", "renew", "leasefail", "nak"):
    note = Path(sys.argv[0]).with_name("lease.json")
    note.write_text(json.dumps({"event": event, **os.environ}))
