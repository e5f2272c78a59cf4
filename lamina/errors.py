"""The errors that Lamina raises on purpose. Each message is one line: what is wrong, and what would be right."""


class LaminaError(Exception):
    """Work that failed for a reason the user can act on (the command exits with 1)."""


class InputError(LaminaError, ValueError):
    """A wrong call: a name, a shape or an option that cannot be right (the command exits with 2)."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not blank, or the error's type where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def reason(error: OSError) -> str:
    """What the system says, without the error's number and path: "No space left on device"."""
    return error.strerror or first_line(error)
