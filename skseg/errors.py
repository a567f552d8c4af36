"""The one exception that stands for a user's mistake, and how a command ends on one."""

import errno
import functools
import sys
from collections.abc import Callable

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


# What an unwritable or full disk raises.
_OF_THE_DISK = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS),
    *(errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
)


def exits_on_mistakes(
    main: Callable[[list[str] | None], int],
) -> Callable[[list[str] | None], int]:
    """Make a command end on a user's mistake with one line on stderr and exit code 2."""

    @functools.wraps(main)
    def command(args: list[str] | None = None) -> int:
        try:
            return main(args)
        except UserError as error:
            message = str(error)
        except OSError as error:
            if error.errno not in _OF_THE_DISK:
                raise
            message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"error: {message}", file=sys.stderr)
        return 2

    return command
