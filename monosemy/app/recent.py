"""A bounded cache: what was used last stays, what was used longest ago goes. Safe for threads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """Values by key, whose sizes sum up to no more than `most`; each counts `size(value)`, by default 1."""

    def __init__(self, most: int, size: Callable[[V], int] = lambda _: 1) -> None:
        self._most, self._size = most, size
        self._kept: OrderedDict[Hashable, V] = OrderedDict()
        self._lock = Lock()
        self.total = 0

    def get(self, key: Hashable) -> V | None:
        """The value, or None where there is none any more."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: Hashable, value: V) -> V:
        """Keep the value and give it back; one larger than all the room is not kept."""
        with self._lock:
            if key in self._kept:
                self.total -= self._size(self._kept.pop(key))
            if self._size(value) <= self._most:
                self._kept[key] = value
                self.total += self._size(value)
            while self.total > self._most:
                self.total -= self._size(self._kept.popitem(last=False)[1])
        return value

    def __len__(self) -> int:
        return len(self._kept)
