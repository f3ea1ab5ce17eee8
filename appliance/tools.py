"""The host's programs that the builder and the lab call, and the packages they come from."""

import os
import shutil
from collections.abc import Iterable, Mapping

from agent.system.run import ENVIRONMENT
from appliance.errors import ApplianceError

PACKAGES: Mapping[str, str] = {
    "busybox": "busybox",
    "curl": "curl",
    "debugfs": "e2fsprogs",
    "dnsmasq": "dnsmasq-base",
    "fstrim": "util-linux",
    "getopt": "util-linux",
    "gpg": "gnupg",
    "ip": "iproute2",
    "losetup": "mount",
    "lsattr": "e2fsprogs",
    "mcopy": "mtools",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "mmdebstrap": "mmdebstrap",
    "nsenter": "util-linux",
    "ps": "procps",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "setpriv": "util-linux",
    "sfdisk": "fdisk",
    "sudo": "sudo",
    "systemd-nspawn": "systemd-container",
    "unshare": "util-linux",
    "xclip": "xclip",
    "Xtigervnc": "tigervnc-standalone-server",
    "xterm": "xterm",
    "zstd": "zstd",
}
"""Debian's (and Ubuntu's) package of each program."""


def need(*programs: str) -> None:
    """Raise ApplianceError, naming the packages to install, unless these programs are there."""
    missing = [name for name in programs if shutil.which(name, path=ENVIRONMENT["PATH"]) is None]
    if missing:
        packages = " ".join(sorted({PACKAGES[name] for name in missing}))
        raise ApplianceError(
            f"{', '.join(missing)}: not on this machine", f"apt-get install {packages}"
        )


def need_root() -> None:
    """Raise ApplianceError unless we may mount, make namespaces and boot containers."""
    if os.geteuid() != 0:
        raise ApplianceError(
            "only root can build and boot system VMs", "run it again with sudo, or as root"
        )


def passed_on(prefixes: Iterable[str] = ("PIP_", "SSL_CERT_")) -> dict[str, str]:
    """What of our environment a program that downloads has to know: proxies and indexes."""
    proxies = {"http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"}
    return {
        name: value
        for name, value in os.environ.items()
        if name.lower() in proxies or name.startswith(tuple(prefixes))
    }
