"""Becomes systemd-nspawn for one boot of a system VM: mounts its disk, then executes it.

Runs in a mount name space of its own (unshare(1)), which ends with the container. What each
setting is for: systemd-nspawn(1), and the table in docs/lab.md.
"""

import os
import sys
from pathlib import Path

from appliance.image import steps
from appliance.lab import cgroup, network
from appliance.lab.state import Container

# Plain cgroup2 as in the image, whatever the host has; and /proc/sys/net writable.
_ENVIRONMENT = {
    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
    "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
}


def main(path: str) -> None:
    """Replace this process by the container of this folder."""
    container = Container(Path(path))
    settings = container.settings()
    root = container.path / "root"
    root.mkdir(exist_ok=True)
    lowers = ":".join(settings.lowers)
    options = f"lowerdir={lowers},upperdir={container.upper},workdir={container.path / 'work'}"
    steps.mount("overlay", root, "overlay", options=options)
    name = network.namespace(settings.lab, settings.node)
    argv = [
        "systemd-nspawn",
        "--quiet",
        f"--directory={root}",
        f"--machine={name}",
        "--boot",
        "--register=no",
        "--keep-unit",
        "--capability=CAP_NET_ADMIN",
        "--console=read-only",
        f"--network-namespace-path={network.NETNS / name}",
        "--link-journal=no",
        "--resolv-conf=off",
        "--timezone=off",
        "--setenv=SYSTEMD_GETTY_AUTO=0",
        *(
            f"--load-credential={file.name}:{file}"
            for file in sorted(container.credentials.iterdir())
        ),
    ]
    argv = [*cgroup.enter(name), *argv]
    os.execvpe(argv[0], argv, {**os.environ, **_ENVIRONMENT})  # noqa: S606  # no shell is meant


if __name__ == "__main__":
    main(sys.argv[1])
