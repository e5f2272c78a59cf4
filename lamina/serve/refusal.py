"""What is said to a client whose request is not served."""

from lamina.errors import LaminaError


class Refusal(LaminaError):
    """`status` is HTTP's; `retry` the seconds after which another try makes sense, None where none does."""

    def __init__(self, status: int, message: str, retry: float | None = None):
        super().__init__(message)
        self.status = status
        self.retry = retry
