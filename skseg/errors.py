"""The one exception for a user's mistake, and the words that help to correct it."""

import errno
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

_WORKER_MARK = "Original Traceback"
_MOST_NEAR = 3
_MOST_LISTED = 20
# Errors of a path or a disk that the user can correct: no access, no space, not a folder.
_CORRECTABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS),
    *(errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
)


class UserError(ValueError):
    """An invalid file, key or value that the user gave.

    The message alone must say what is wrong, where, and what would be valid: commands print it
    without a stack trace. Write parameters in backticks, as in "`window` must be positive". A
    command replaces them by its flags: "--window must be positive". Name a part of a value as
    `sk.stages`, and a parameter that several parts have as `schedule.name`.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader re-raises a worker's exception with the worker's traceback in the message.
        if _WORKER_MARK in message:
            message = message.rsplit(f"{type(self).__name__}: ", 1)[-1].strip()
        super().__init__(message)


def near_names(name: str, known: Iterable[str]) -> str:
    """Suggest the known names that begin with a wrong one or are near it; list all if they are few.

    Args:
        name: The wrong name.
        known: The valid names.

    Returns:
        The end of an error message; empty if no name is near and there are many.

    Example:
        >>> near_names("cityscape", ["camvid", "cityscapes"])
        "; did you mean 'cityscapes'?"
        >>> near_names("kitti", ["camvid", "cityscapes"])
        '; there are camvid, cityscapes'
        >>> near_names("city", ["camvid", "cityscapes"])
        "; did you mean 'cityscapes'?"
    """
    names = list(known)
    begun = [n for n in names if n.startswith(name)] if name else []
    near = [*begun, *get_close_matches(name.lower(), set(names).difference(begun), n=_MOST_NEAR)]
    near = near[:_MOST_NEAR]
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
        skseg.errors.UserError: `flip` must be a probability from 0 to 1, got 1.5
    """
    for name, (is_valid, expected) in rules.items():
        if not is_valid:
            raise UserError(f"{where}`{name}` must be {expected}, got {values[name]!r}")


def check_class_names(names: Sequence[str]) -> None:
    r"""Raise on a class name that is no text in one line, and on one that two classes have.

    Any other text is a valid name.

    Args:
        names: The names of the classes.

    Raises:
        UserError: A name is empty, has characters that cannot be printed (line breaks, tabs and
            other control characters, or halves of a surrogate pair), or occurs twice.

    Example:
        >>> check_class_names(["road", "[/]", "$5", "Straße", "道路"])
        >>> check_class_names(["road", "side\nwalk"])
        Traceback (most recent call last):
        skseg.errors.UserError: class name 'side\nwalk' has characters that cannot be printed
    """
    for name in names:
        if not name.strip():
            raise UserError(f"class name {name!r} is empty")
        if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name):
            raise UserError(f"class name {name!r} has characters that cannot be printed")
        if names.count(name) > 1:
            raise UserError(f"class name {name!r} occurs twice")


def mistake_message(error: Exception) -> str | None:
    """Return what to print for an error that the user can correct, None for any other error.

    Args:
        error: What a command raised.

    Example:
        >>> mistake_message(UserError("no such file: a.png"))
        'no such file: a.png'
        >>> mistake_message(PermissionError(13, "Permission denied", "runs"))
        'runs: Permission denied'
        >>> mistake_message(KeyError("x")) is None
        True
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _CORRECTABLE:
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return None
