"""What a daemon says against its configuration: file, line, and where in the document it is from.

A line that a hand added or changed is from nowhere in the document, and that is said.

Pure. The words are the daemons' own: dnsmasq 2.91, haproxy 3.0, apache 2.4, OpenSSH 10.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from agent.monitor.model import Finding

_WORDS = (
    # dnsmasq: bad dhcp-range at line 12 of /run/sysvm/current/dnsmasq/dnsmasq.conf
    re.compile(r"(?:dnsmasq: )?(?P<message>.+?) at line (?P<line>\d+) of (?P<file>/\S+)"),
    # config : parsing [/run/sysvm/current/haproxy/haproxy.cfg:12] : unknown keyword 'x'
    re.compile(r"parsing \[(?P<file>/[^:\]]+):(?P<line>\d+)\] ?:? *(?P<message>.+)"),
    # AH00526: Syntax error on line 12 of /run/sysvm/current/apache2/apache2.conf:
    re.compile(r"(?P<message>Syntax error) on line (?P<line>\d+) of (?P<file>/[^:\s]+)"),
    # /run/sysvm/current/ssh/sshd_config: line 5: Bad configuration option: x
    re.compile(r"(?P<file>/[^:\s]+):? line (?P<line>\d+): (?P<message>.+)"),
)
_LONGEST = 200  # characters of a message
_PLACE = re.compile(r"\s*# (/[^\s].*?)\s*$")


def finding(words: Sequence[str]) -> Finding | None:
    """What the daemon's last words say against a file; None where they are about something else."""
    for index, word in enumerate(words):
        for pattern in _WORDS:
            if (match := pattern.search(word)) is not None:
                message = match["message"].strip()
                if message == "Syntax error" and index + 1 < len(words):  # apache says it below
                    message = words[index + 1].strip()
                return Finding(match["file"], int(match["line"]), message[:_LONGEST])
    return None


def traced(found: Finding, text: str, made: str, section: str) -> Finding:
    """Where it comes from: `text` is the file as it is, `made` as the document makes it."""
    lines = text.splitlines()
    if not 0 < found.line <= len(lines):
        return replace(found, by_hand=text != made, path="" if text != made else section)
    if lines[found.line - 1] not in made.splitlines():
        return replace(found, by_hand=True)
    return replace(found, path=place(text, found.line, section))


def place(text: str, line: int, otherwise: str) -> str:
    """Where in the document a line of a rendered file comes from: the comment above it says so."""
    for above in reversed(text.splitlines()[:line]):
        if (match := _PLACE.match(above)) is not None:
            return match[1]
    return otherwise
