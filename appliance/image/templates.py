"""What a cloud's registration step reads: which file is for which hypervisor, and how to say so.

For Apache CloudStack each entry has the parameters of its API command registerTemplate, and the
global setting that has to hold the template's name for routers to be made from it. The names are
those of CloudStack 4.20 (RegisterTemplateCmd, SystemVmTemplateRegistration).
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.image import checksums
from appliance.image.formats import Format

# What CloudStack gives its own system VMs, by hypervisor (SystemVmTemplateRegistration); none of
# its releases lists Debian 13 so far.
_DEBIAN = "Debian GNU/Linux 12 (64-bit)"
_OTHER = "Other Linux (64-bit)"


@dataclass(frozen=True, slots=True)
class Hypervisor:
    """A hypervisor in CloudStack's words; `file` is the format of ours that it takes."""

    name: str
    file: Format
    format: str
    setting: str
    os_type: str
    details: tuple[tuple[str, str], ...] = ()


HYPERVISORS = (
    Hypervisor("KVM", Format.QCOW2, "QCOW2", "router.template.kvm", _DEBIAN),
    Hypervisor("XenServer", Format.VHD, "VHD", "router.template.xenserver", _OTHER),
    Hypervisor(
        "VMware",
        Format.OVA,
        "OVA",
        "router.template.vmware",
        _OTHER,
        (("nicAdapter", "Vmxnet3"), ("rootDiskController", "pvscsi")),
    ),
    Hypervisor("Hyperv", Format.VHD, "VHD", "router.template.hyperv", _DEBIAN),
    Hypervisor("LXC", Format.QCOW2, "QCOW2", "router.template.lxc", _DEBIAN),
    Hypervisor("Ovm3", Format.RAW, "RAW", "router.template.ovm3", _DEBIAN),
)


def render(
    files: Mapping[Format, Path], *, name: str, version: str, virtual_size: int, url: str | None
) -> str:
    """The JSON text for these files of an image.

    `url` is where the files' folder will be reached; without it, URLs are the file names, to be
    completed. `virtual_size` is in bytes.
    """
    base = f"{url.rstrip('/')}/" if url else ""
    entries = list(_entries(files, name, version, virtual_size, base))
    return json.dumps({"version": version, "templates": entries}, indent=2) + "\n"


def _entries(
    files: Mapping[Format, Path], name: str, version: str, virtual_size: int, base: str
) -> Iterator[Mapping[str, object]]:
    digests = {path: checksums.sha256(path) for path in set(files.values())}
    for hypervisor in _served(files):
        path = files[hypervisor.file]
        where = f"{base}{path.name}"
        template = f"{name}-{version}-{hypervisor.name.lower()}"
        parameters = {
            "name": template,
            "displaytext": f"System VM {version} ({hypervisor.name})",
            "hypervisor": hypervisor.name,
            "format": hypervisor.format,
            "url": where,
            "checksum": f"{{SHA-256}}{digests[path]}",
            "zoneids": "-1",
            "arch": "x86_64",
            "bits": 64,
            "isrouting": True,
            "ispublic": False,
            "isfeatured": False,
            "isextractable": False,
            "passwordenabled": False,
            "requireshvm": True,
        } | {f"details[0].{key}": value for key, value in hypervisor.details}
        yield {
            "hypervisor": hypervisor.name,
            "format": str(hypervisor.file),
            "file": path.name,
            "url": where,
            "size": path.stat().st_size,
            "virtual_size": virtual_size,
            "checksum": {"algorithm": "SHA-256", "value": digests[path]},
            "os_type": hypervisor.os_type,
            "cloudstack": {
                "command": "registerTemplate",
                "parameters": parameters,
                # The identifier of an OS type is each installation's own.
                "look_up": {
                    "ostypeid": {
                        "command": "listOsTypes",
                        "parameters": {"description": hypervisor.os_type},
                    }
                },
                "setting": {"name": hypervisor.setting, "value": template},
            },
        }


def _served(files: Mapping[Format, Path]) -> Iterable[Hypervisor]:
    return (hypervisor for hypervisor in HYPERVISORS if hypervisor.file in files)
