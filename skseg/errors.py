"""The one exception that stands for a user's mistake."""

_WORKER_MARK = "Original Traceback"


class UserError(ValueError):
    """A mistake in what the user gave: a file, a key, a value.

    The message alone must say what is wrong, where, and what would have been right; the command
    line prints it without a stack trace.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader re-raises a worker's exception with the worker's traceback in the message.
        if _WORKER_MARK in message:
            message = message.rsplit(f"{type(self).__name__}: ", 1)[-1].strip()
        super().__init__(message)
