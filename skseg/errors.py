"""The one exception that stands for a user's mistake, and how a command ends on one."""

import errno
import functools
import sys
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches

_WORKER_MARK = "Original Traceback"
_MOST_NEAR = 3
_MOST_LISTED = 20


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


def near_names(name: str, known: Iterable[str]) -> str:
    """Say which known names are near a wrong one, or list them if they are few.

    Returns:
        The end of an error message, empty if there is nothing to say.

    Example:
        >>> near_names("cityscape", ["camvid", "cityscapes"])
        "; did you mean 'cityscapes'?"
        >>> near_names("kitti", ["camvid", "cityscapes"])
        '; there are camvid, cityscapes'
    """
    names = list(known)
    near = get_close_matches(name.lower(), names, n=_MOST_NEAR)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return f"; there are {', '.join(names)}" if 0 < len(names) <= _MOST_LISTED else ""


def check_values(
    values: Mapping[str, object], rules: Mapping[str, tuple[bool, str]], where: str = ""
) -> None:
    """Raise on the first value that breaks its rule.

    Args:
        values: Values by parameter name.
        rules: By parameter name, whether its value is valid, and what it must be.
        where: Beginning of the message, such as a file's name and a colon.

    Raises:
        UserError: A value is not valid; the message names the parameter.

    Example:
        >>> check_values({"flip": 1.5}, {"flip": (False, "a probability from 0 to 1")})
        Traceback (most recent call last):
        skseg.errors.UserError: flip must be a probability from 0 to 1, not 1.5
    """
    for name, (is_valid, expected) in rules.items():
        if not is_valid:
            raise UserError(f"{where}{name} must be {expected}, not {values[name]!r}")


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
