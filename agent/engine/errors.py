"""Why the engine did not do what it was asked: one tree, with fields for the one who answers.

What is wrong with a document is `agent.document.document.InvalidDocument`; how a transaction
that was begun ended is an `Outcome`. These are the requests that were never begun.
"""


class EngineError(Exception):
    """A request that was not begun; nothing has changed."""

    retryable = False


class StaleGeneration(EngineError):
    """The document is older than what has been seen."""

    def __init__(self, generation: int, seen: int) -> None:
        super().__init__(f"generation {generation} is older than {seen}, which has been seen")
        self.generation = generation
        self.seen = seen


class GenerationConflict(EngineError):
    """Another document has already had this generation."""

    def __init__(self, generation: int, digest: str, seen: str) -> None:
        super().__init__(f"generation {generation} has been pushed with other content")
        self.generation = generation
        self.digest = digest
        self.seen = seen


class PreconditionFailed(EngineError):
    """`If-Match` names another document than the one that runs."""

    def __init__(self, wanted: str, digest: str) -> None:
        super().__init__(f"the document that runs has digest {digest}, not {wanted}")
        self.wanted = wanted
        self.digest = digest


class NoSuchRevision(EngineError):
    """That revision never was, or is no longer kept."""

    def __init__(self, revision: int | None) -> None:
        super().__init__(
            "there is no earlier revision" if revision is None else f"no revision {revision}"
        )
        self.revision = revision


class NotProvisional(EngineError):
    """The revision to confirm does not wait for it."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"revision {revision} does not wait to be confirmed")
        self.revision = revision


class AwaitingConfirm(EngineError):
    """A provisional revision has to be confirmed or rolled back first."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"revision {revision} waits to be confirmed or rolled back")
        self.revision = revision


class NothingApplied(EngineError):
    """There is no document yet."""

    def __init__(self) -> None:
        super().__init__("no document has been applied yet")


class Busy(EngineError):
    """Another change is under way; try again after `retry_after` seconds."""

    retryable = True

    def __init__(self, retry_after: float = 1.0) -> None:
        super().__init__("another change is under way")
        self.retry_after = retry_after


class UnreadableState(EngineError):
    """What is stored cannot be read: it is left as it is, for somebody to look at."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
