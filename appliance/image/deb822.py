"""Debian's control files: paragraphs of fields (deb822(5)), as dpkg and apt write them."""

from collections.abc import Iterator, Mapping

Paragraph = Mapping[str, str]


def paragraphs(text: str) -> Iterator[Paragraph]:
    """The paragraphs of a control file; a field's further lines keep their line breaks."""
    fields: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if not line.strip():
            if fields:
                yield fields
            fields, name = {}, ""
        elif line[0] in " \t":
            fields[name] = f"{fields.get(name, '')}\n{line}"
        elif not line.startswith("#"):
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    if fields:
        yield fields
