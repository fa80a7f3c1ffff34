"""Who may run the models: one job at a time, and a long one lets a quick one in between its pieces.

The hooks that read and change a model lie on the model itself, and the precision of products is one setting for the
whole process, so two jobs may not compute at once. A long job that gives way does so where it tells of its progress,
between forward passes; whoever goes in between has entered and left every context of its own when the turn comes back.
The turn goes back to who gave way and to nobody else, so that many quick jobs cannot keep a long one out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_EVERY_S = 0.1


class Turns:
    """The turn, for two threads: at most one of them ever gives way."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = self._lent = False
        self._asking = 0

    @contextmanager
    def taken(self, check: Callable[[], None]) -> Iterator[None]:
        """Wait for the turn and hold it inside. `check` is called while waiting; what it raises ends that."""
        with self._changed:
            self._asking += 1
            try:
                while self._taken:
                    check()
                    self._changed.wait(LOOK_EVERY_S)
            finally:
                self._asking -= 1
            self._taken = True
        try:
            yield
        finally:
            with self._changed:
                self._taken, self._lent = self._lent, False
                self._changed.notify_all()

    def give_way(self) -> None:
        """Lend the turn, which the caller holds, to who waits for it, and go on once it is back."""
        with self._changed:
            if self._asking:
                self._taken, self._lent = False, True
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._lent)
