"""Messages of one lane that travel each on its own: numbers for them, and what becomes of those that overtake.

Each has a number, rising by one. The receiver settles every number exactly once, whether the message came or the sender
gave it up, and tells which; so both ends agree on what became of it, however often it was sent.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from flowbridge.errors import RemoteProtocolError
from flowbridge.limits import SINGLES_WINDOW

T = TypeVar("T")


class SinglesOut(Generic[T]):
    """The sender's half. `open` are those that the receiver has not settled, by rising number."""

    __slots__ = ("next", "open")

    def __init__(self) -> None:
        self.next = 0
        self.open: dict[int, T] = {}

    @property
    def has_room(self) -> bool:
        """Whether another number may be used: the receiver remembers so many from the first that it has not settled."""
        return not self.open or self.next - next(iter(self.open)) < SINGLES_WINDOW

    def add(self, entry: T) -> int:
        """The number of another message; only while there is room."""
        number = self.next
        self.next = number + 1
        self.open[number] = entry
        return number

    def settled(self, number: int) -> T:
        """The receiver has settled one. Raises: RemoteProtocolError when it was never sent, or is settled."""
        entry = self.open.pop(number, None)
        if entry is None:
            raise RemoteProtocolError(f"message {number} was settled by the peer, and is not on its way")
        return entry

    def __repr__(self) -> str:
        return f"<SinglesOut {len(self.open)} open, next {self.next}>"


_GONE: Final = object()


class SinglesIn(Generic[T]):
    """The receiver's half. With `is_newest` what is older than what came before is stale; else all wait for their turn.

    Whatever it is: what is handed on is in the order of the numbers.
    """

    __slots__ = ("_ahead", "_is_newest", "_newest", "floor")

    def __init__(self, *, is_newest: bool) -> None:
        self.floor = 0
        """Everything below is settled."""
        self._is_newest = is_newest
        self._newest = -1
        self._ahead: dict[int, object] = {}  # settled numbers above `floor`, and what waits there for its turn

    def is_fresh(self, number: int) -> bool:
        """Whether a number is not settled. Raises: RemoteProtocolError when the sender may not use it yet."""
        if number >= self.floor + SINGLES_WINDOW:
            raise RemoteProtocolError(f"message {number} comes while {self.floor} and {SINGLES_WINDOW} behind it may")
        return number >= self.floor and number not in self._ahead

    def came(self, number: int, item: T) -> list[T] | None:
        """A fresh one came: what is to be handed on now, in order. None when it is stale and to be dropped."""
        if not self._is_newest:
            return self._settle(number, item)
        self._settle(number, _GONE)
        if number < self._newest:
            return None
        self._newest = number
        return [item]

    def gone(self, number: int) -> list[T]:
        """A fresh one will not come: what waited for it."""
        return self._settle(number, _GONE)

    def _settle(self, number: int, item: object) -> list[T]:
        ahead = self._ahead
        ahead[number] = item
        ready: list[T] = []
        while self.floor in ahead:
            item = ahead.pop(self.floor)
            self.floor += 1
            if item is not _GONE:
                ready.append(item)  # type: ignore[arg-type]  # a mark or a message
        return ready

    @property
    def held(self) -> int:
        """How many wait for their turn."""
        return sum(item is not _GONE for item in self._ahead.values())

    def __repr__(self) -> str:
        return f"<SinglesIn {self.floor} settled, {len(self._ahead)} ahead>"
