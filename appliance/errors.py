"""What a person is told when a tool cannot go on."""


class ApplianceError(Exception):
    """Something outside the VM failed: `what` says it in one sentence, `hint` what to do next."""

    def __init__(self, what: str, hint: str = "") -> None:
        self.what = what
        self.hint = hint
        super().__init__(f"{what} ({hint})" if hint else what)
