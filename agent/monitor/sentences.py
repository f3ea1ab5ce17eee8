"""Every sentence that a line of /var/log/routerServiceMonitor.log begins with: one closed set.

Operators' scripts look for the first four, word for word. docs/events.md has all, from here.
"""

import enum
from collections.abc import Mapping


class Sentence(enum.StrEnum):
    """`{}` is the process, or the check."""

    RUNNING = "The process detected as running"
    TRYING = "The process {} is not running trying recover"
    RECOVERED = "The process {} is recovered successfully"
    FAILED = "The process {} recover failed"
    BUSY = "The process {} is busy and is given time"
    OTHER_FILES = "The process {} runs with other files and is told to read its own"
    STILL_OTHER_FILES = "The process {} runs with other files"
    OWN_FILES = "The process {} runs with its own files again"
    NOT_READ = "The process {} did not read its files"
    PUT_BACK = "The files of {} are put back"
    NOT_PUT_BACK = "The files of {} could not be put back"
    NOT_DONE = "The process {} was not done with"
    HELD = "The process {} is held"
    RELEASED = "The process {} is released"
    UNWATCHED = "The process {} is not watched any more"
    WATCHED = "The process {} is watched again"
    CHECK_FAILED = "The check {} failed"
    CHECK_WARNS = "The check {} warns"
    CHECK_PASSES = "The check {} passes again"

    def of(self, name: str) -> str:
        return self.value.format(name)


# Of each, how bad it is said to be, and what it means.
MEANINGS: Mapping[Sentence, tuple[str, str]] = {
    Sentence.RUNNING: ("INFO", "it had ended unnoticed, and runs again"),
    Sentence.TRYING: ("INFO", "it has ended, or hangs, and is started"),
    Sentence.RECOVERED: ("INFO", "it answers again; `seconds=` says after how long"),
    Sentence.FAILED: ("ALERT", "starting it does not help: `reason=` says why"),
    Sentence.BUSY: ("INFO", "it does not answer, and runs or waits for the CPU: it is left alone"),
    Sentence.OTHER_FILES: ("INFO", "somebody had it load something else than the revision's files"),
    Sentence.STILL_OTHER_FILES: ("ALERT", "telling it to read them does not help; it serves on"),
    Sentence.OWN_FILES: ("INFO", "that is over"),
    Sentence.NOT_READ: ("INFO", "it could not be told: `detail=` says why; it is tried again"),
    Sentence.PUT_BACK: ("INFO", "a hand had changed them; then it is started"),
    Sentence.NOT_PUT_BACK: ("ALERT", "it stays stopped until a push, a restart or a release"),
    Sentence.NOT_DONE: ("INFO", "systemd refused what was asked of it: `detail=` says why"),
    Sentence.HELD: ("NOTIF", "an operator holds it: `by=`, `until=`, `why=`"),
    Sentence.RELEASED: ("NOTIF", "a hold is over, by somebody's word or in its time"),
    Sentence.UNWATCHED: ("NOTIF", "the document says so"),
    Sentence.WATCHED: ("NOTIF", "the document says so"),
    Sentence.CHECK_FAILED: ("ALERT", "a health check failed twice; what it found follows"),
    Sentence.CHECK_WARNS: ("ALERT", "the same, for what is not as it should be and serves"),
    Sentence.CHECK_PASSES: ("INFO", "that is over"),
}
