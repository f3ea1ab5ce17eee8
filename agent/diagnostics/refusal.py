"""Why a diagnostic is not run."""


class DiagnosticRefused(Exception):
    """What is wrong with a request; `path` is a JSON pointer into it."""

    retryable = False

    def __init__(self, path: str, message: str, hint: str = "") -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message
        self.hint = hint
