"""How much waits before a message of some rank, over many streams, without asking each of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from flowbridge.machines.admission import Rank

_BLOCK_KEYS_MAX: Final = 64  # twice the square root of the streams of a session, about

Key: TypeAlias = "tuple[Rank, int]"
"""The rank of a stream and its number: no two are the same."""


class _Block:
    """Streams whose ranks are next to each other, and how much waits on all of them."""

    __slots__ = ("keys", "total")

    def __init__(self, keys: list[Key], total: int) -> None:
        self.keys = keys
        self.total = total


def _last(block: _Block) -> Key:
    return block.keys[-1]


class Queued:
    """Sums of the bytes that wait, by rank.

    Streams on which nothing waits cost nothing. With n that wait, a change and a question take O(sqrt n) steps.
    """

    __slots__ = ("_blocks", "_bytes", "_ranks")

    def __init__(self) -> None:
        self._blocks: list[_Block] = []  # their keys rise from the first to the last, and none is empty
        self._bytes: dict[int, int] = {}  # of each stream on which something waits
        self._ranks: dict[int, Rank] = {}

    def put(self, number: int, rank: Rank, size_bytes: int) -> None:
        """So much waits on a stream of this rank now; 0 forgets it."""
        before, had = self._bytes.get(number, 0), self._ranks.get(number)
        if had is not None and size_bytes > 0 and had == rank:
            self._blocks[self._find((rank, number))].total += size_bytes - before
            self._bytes[number] = size_bytes
            return
        if had is not None:
            self._remove((had, number), before)
            del self._bytes[number], self._ranks[number]
        if size_bytes > 0:
            self._add((rank, number), size_bytes)
            self._bytes[number], self._ranks[number] = size_bytes, rank

    def before(self, number: int, rank: Rank) -> int:
        """What goes before bytes of this rank on a stream: all of it, and of others what is not behind that rank."""
        total = 0
        for block in self._blocks:
            if block.keys[-1][0] > rank:
                until = bisect_right(block.keys, rank, key=_rank_of)
                total += sum([self._bytes[key[1]] for key in block.keys[:until]])
                break
            total += block.total
        own = self._ranks.get(number)
        return total + self._bytes[number] if own is not None and own > rank else total

    def _find(self, key: Key) -> int:
        """Where the block is that has this key, or that it would be in; there is one."""
        return min(bisect_left(self._blocks, key, key=_last), len(self._blocks) - 1)

    def _add(self, key: Key, size_bytes: int) -> None:
        if not self._blocks:
            self._blocks.append(_Block([key], size_bytes))
            return
        at = self._find(key)
        block = self._blocks[at]
        insort(block.keys, key)
        block.total += size_bytes
        if len(block.keys) > _BLOCK_KEYS_MAX:
            half = len(block.keys) // 2
            # The one that came is not among the bytes yet.
            moved = sum([size_bytes if one == key else self._bytes[one[1]] for one in block.keys[half:]])
            self._blocks.insert(at + 1, _Block(block.keys[half:], moved))
            del block.keys[half:]
            block.total -= moved

    def _remove(self, key: Key, size_bytes: int) -> None:
        at = self._find(key)
        block = self._blocks[at]
        del block.keys[bisect_left(block.keys, key)]
        block.total -= size_bytes
        if not block.keys:
            del self._blocks[at]

    def __len__(self) -> int:
        return len(self._bytes)

    def __repr__(self) -> str:
        return f"<Queued {sum(block.total for block in self._blocks)} bytes on {len(self)} streams>"


def _rank_of(key: Key) -> Rank:
    return key[0]
