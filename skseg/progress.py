"""What a user sees while something runs: progress bars on a terminal, and messages."""

import functools
import multiprocessing
from collections.abc import Iterable, Iterator
from typing import TypeVar

from pytorch_lightning.utilities import rank_zero_info
from rich import get_console, progress
from rich.markup import escape

Item = TypeVar("Item")


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield items under a progress bar that disappears at the end.

    Args:
        items: The items.
        description: What is done with them, in a word or two.
        total: Their number, if `items` has no length.

    Example:
        >>> list(track([1, 2, 3], "counting"))
        [1, 2, 3]
    """
    disable = not get_console().is_terminal  # a file would get empty lines
    text = escape(description)  # which rich would read as markup
    yield from progress.track(items, text, total, transient=True, disable=disable)


@functools.cache
def say_once(message: str) -> None:
    """Print a message on stderr, once in all processes of a run.

    Args:
        message: One line.

    Example:
        >>> say_once("images have an alpha channel, which is not used")
    """
    if multiprocessing.parent_process() is None:  # not once for each worker of a loader
        rank_zero_info(message)
