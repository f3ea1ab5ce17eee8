"""Everything that is handed out of a build: the image in its formats, and what accounts for it.

Beside `NAME.FORMAT` there are `NAME.manifest.json`, `NAME.cdx.json` (the bill of materials),
`NAME.templates.json` (for a cloud's registration), `NAME.mtree` (every file of the root file
system), `NAME.lock.json` (to build the same again) and SHA256SUMS of them all, which can be signed.
"""

import shutil
from collections.abc import Mapping, Sequence
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
from appliance.image.manifest import Output, Root
from appliance.image.rootfs import Layers


def account(
    files: Mapping[Format, Sequence[Path]],
    raw: Path,
    layers: Layers,
    folder: Path,
    name: str,
    *,
    url: str | None = None,
    sign: str | None = None,
    elements: Sequence[Path] = (),
) -> tuple[Path, ...]:
    """Write what accounts for these files, which were made of the raw disk and lie in `folder`.

    `url` is where `folder` will be reached, `sign` the key (as gpg's --local-user takes it) that
    signs the checksums, `elements` folders of elements besides ours. Returns what was written.
    Raises ApplianceError.
    """
    if sign is not None:
        tools.need("gpg")
    size = formats.capacity(raw)
    outputs = {form: tuple(Output.of(file, size) for file in made) for form, made in files.items()}
    root = root_archive.account(layers)
    listing = folder / f"{name}.mtree"
    shutil.copyfile(root.listing, listing)
    lock = folder / f"{name}.lock.json"
    lock.write_text(locks.render(layers.lock))
    found = contents.read(*layers.lowers)
    epoch = layers.lock.epoch
    texts = {
        "manifest": manifest.render(
            name=name,
            epoch=epoch,
            contents=found,
            root=Root(root.sha256, root.size, listing),
            outputs=outputs,
            lock=lock,
            inputs=manifest.inputs(*elements),
            revision=manifest.revision(),
        ),
        "cdx": sbom.render(
            found,
            name=name,
            version=__version__,
            digest=root.sha256,
            epoch=epoch,
            hashes=layers.lock.hashes(),
        ),
        "templates": templates.render(
            {form: made[0].path for form, made in outputs.items()},
            name="sysvm",
            version=__version__,
            virtual_size=size,
            url=url,
        ),
    }
    accounts = [listing, lock]
    for kind, text in texts.items():
        accounts.append(folder / f"{name}.{kind}.json")
        accounts[-1].write_text(text)
    images = [file for made in files.values() for file in made]
    sums = checksums.write_sums(folder, [*images, *accounts])
    return (*accounts, sums, *((signed(sums, sign),) if sign is not None else ()))


def signed(path: Path, key: str) -> Path:
    """Sign this file with gpg: the armoured signature beside it. Raises ApplianceError."""
    signature = checksums.signature(path)
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
