"""The errors that Lamina raises on purpose. Each message is one line: what is wrong, and what would be right."""


class LaminaError(Exception):
    """Work that failed for a reason the user can act on (the command exits with 1)."""


class InputError(LaminaError, ValueError):
    """A wrong call: a name, a shape or an option that cannot be right (the command exits with 2)."""
