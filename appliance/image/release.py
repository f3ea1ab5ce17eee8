"""Everything that is handed out of a build: the image in its formats, and what accounts for it.

Beside `NAME.FORMAT` there are `NAME.manifest.json`, `NAME.cdx.json` (the bill of materials),
`NAME.templates.json` (for a cloud's registration), `NAME.mtree` (every file of the root file
system), `NAME.lock.json` (to build the same again) and SHA256SUMS of them all, which can be signed.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from agent import __version__
from agent.system.run import CommandFailed, run
from appliance import tools
from appliance.errors import ApplianceError
from appliance.image import (
    checksums,
    contents,
    formats,
    locks,
    manifest,
    root_archive,
    sbom,
    templates,
)
from appliance.image.formats import Format
from appliance.image.manifest import Output
from appliance.image.rootfs import Layers


def write(
    raw: Path,
    layers: Layers,
    wanted: Sequence[Format],
    folder: Path,
    name: str,
    *,
    url: str | None = None,
    sign: str | None = None,
    elements: Sequence[Path] = (),
) -> Iterator[Path]:
    """Write the release of the raw disk `raw`, made of these layers; yields each file made.

    `url` is where `folder` will be reached, `sign` the key (as gpg's --local-user takes it) that
    signs the checksums, `elements` folders of elements besides ours. Raises ApplianceError.
    """
    if sign is not None:
        tools.need("gpg")
    lock = layers.lock
    made: list[Path] = []
    outputs: dict[Format, tuple[Output, ...]] = {}
    size = formats.capacity(raw)
    for form, files in formats.write_all(raw, wanted, folder, name, epoch=lock.epoch):
        outputs[form] = tuple(Output.of(file, size) for file in files)
        made += files
        yield from files
    root = root_archive.of(layers)
    listing = folder / f"{name}.mtree"
    shutil.copyfile(root / root_archive.LISTING, listing)
    archived = Output.of(root / root_archive.TAR, 0)
    found = contents.read(*layers.lowers)
    lock_file = folder / f"{name}.lock.json"
    lock_file.write_text(locks.render(lock))
    texts = {
        "manifest": manifest.render(
            name=name,
            epoch=lock.epoch,
            contents=found,
            root=manifest.Root(archived.sha256, archived.size, listing),
            outputs=outputs,
            lock=lock_file,
            inputs=manifest.inputs(*elements),
            revision=manifest.revision(),
        ),
        "cdx": sbom.render(
            found,
            name=name,
            version=__version__,
            digest=archived.sha256,
            epoch=lock.epoch,
            hashes=lock.hashes(),
        ),
        "templates": templates.render(
            {form: files[0].path for form, files in outputs.items()},
            name=name,
            version=__version__,
            virtual_size=size,
            url=url,
        ),
    }
    accounts = [listing, lock_file]
    for kind, text in texts.items():
        path = folder / f"{name}.{kind}.json"
        path.write_text(text)
        accounts.append(path)
    yield from accounts
    sums = checksums.write_sums(folder, [*made, *accounts])
    yield sums
    if sign is not None:
        yield signed(sums, sign)


def signed(path: Path, key: str) -> Path:
    """Sign this file with gpg: the armoured signature beside it. Raises ApplianceError."""
    signature = path.with_name(f"{path.name}.asc")
    signature.unlink(missing_ok=True)
    options = ("--batch", "--local-user", key, "--armor", "--detach-sign")
    try:
        run(
            ["gpg", *options, "--output", str(signature), str(path)],
            timeout=120,
            env=tools.passed_on(("HOME", "GNUPGHOME", "GPG_")),
        )
    except CommandFailed as error:
        raise ApplianceError(
            f"gpg could not sign {path.name}: {error}",
            "its agent must hold the key unlocked: nobody can be asked for a passphrase here",
        ) from error
    return signature
