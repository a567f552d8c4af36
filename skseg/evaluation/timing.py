"""Seconds spent in the parts of a loop."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the time of each part of a loop.

    Attributes:
        seconds: Seconds by part, in the order of their first run.

    Example:
        >>> watch = Stopwatch()
        >>> for _ in range(3):
        ...     with watch.time("loading"):
        ...         pass
        >>> list(watch.seconds)
        ['loading']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Add the time of the block to a part."""
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start
