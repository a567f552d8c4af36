"""Stop a run on a signal: Ctrl-C, SIGTERM, SIGHUP, and SIGUSR1 and SIGUSR2 of job schedulers."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
"""The signals after which a run saves a checkpoint and ends."""


class StopSignals:
    """Remember a signal until training can save a checkpoint.

    Lightning's own handlers end a run without a checkpoint (Ctrl-C), or block if several processes
    get the signal (SIGTERM).
    """

    def __init__(self) -> None:
        self._arrived: signal.Signals | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals inside the context; only the main thread can."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self.install()
        try:
            yield
        finally:
            if _in_main_thread():
                for number, handler in before.items():
                    if handler is not None:  # one that no Python code installed
                        signal.signal(number, handler)

    def install(self) -> None:
        """Handle the signals from now on, also those that Lightning has taken over."""
        if _in_main_thread():
            for number in SIGNALS:
                signal.signal(number, self._on_signal)

    def arrived(self, trainer: pl.Trainer) -> signal.Signals | None:
        """Return the signal that a process of the run got; all processes must ask.

        Args:
            trainer: The trainer of the run.
        """
        if not trainer.strategy.reduce_boolean_decision(self._arrived is not None, all=False):
            return None
        return self._arrived or signal.SIGTERM  # another process knows which one

    def _on_signal(self, number: int, _: object) -> None:
        if self._arrived is not None and number == signal.SIGINT:
            # The second Ctrl-C ends the process at once. Files are written whole or not at all.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        self._arrived = signal.Signals(number)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
