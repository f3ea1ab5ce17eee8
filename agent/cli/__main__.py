"""Runs sysvmctl from its folder, without site-packages: python3 -I -S …/agent/cli"""

import sys

if not __package__:
    sys.path.append(sys.path.pop(0).removesuffix("/agent/cli"))

from agent.cli import main

sys.exit(main())
