"""What is wrong with a document, and where."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong with a document, where it stands, and what would be right.

    `path` is a JSON pointer (RFC 6901) into the document; empty for the document as a whole.
    """

    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.path or '/'}: {self.message}"
        return f"{text} ({self.hint})" if self.hint else text


def pointer(*parts: object) -> str:
    """The JSON pointer (RFC 6901) to the member that `parts` name."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)
