"""One direction of a stream that outlives connections: what is sent is kept until the peer has it.

Both ends count bytes from the beginning of the stream, and its end as one more. A count names a position, so that a
repeated or a lost acknowledgement does no harm (RSocket's resume positions; the offsets of RFC 9000, section 2.2).
After a new connection the sender goes back to what the receiver has, and everything behind it is sent again.
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

from flowbridge.errors import RemoteProtocolError

Piece: TypeAlias = "bytes | memoryview"


class Outgoing:
    """The sender's half. `end` counts what was written, `sent` what was taken, `acked` what the peer has."""

    __slots__ = ("_kept", "_kept_from", "_reached", "_unsent", "acked", "end", "is_finished", "sent")

    def __init__(self) -> None:
        self.acked = 0
        self.sent = 0
        self.end = 0
        self.is_finished = False  # nothing will be written any more
        self._kept: deque[Piece] = deque()  # up to `sent`, and without what is acknowledged
        self._unsent: deque[Piece] = deque()  # from `sent` to `end`
        self._kept_from = 0
        self._reached = 0  # the furthest that `sent` ever was: the peer cannot have more

    @property
    def unsent_bytes(self) -> int:
        """What was not taken on this connection."""
        return max(0, self.end - self.sent)

    @property
    def kept_bytes(self) -> int:
        """What was taken, and the peer may not have."""
        return min(self.sent, self.end) - self._kept_from

    @property
    def is_acknowledged(self) -> bool:
        """Whether the peer has everything, the end included."""
        return self.is_finished and self.acked > self.end

    @property
    def owes_end(self) -> bool:
        """Whether the end is all that is to be sent."""
        return self.is_finished and self.sent == self.end

    def write(self, data: bytes) -> None:
        """Add bytes behind what was written."""
        if data:
            self._unsent.append(data)
            self.end += len(data)

    def wrote(self, data: bytes) -> None:
        """Add bytes that are sent at once; only when nothing is unsent."""
        self._kept.append(data)
        self.end += len(data)
        self._went(self.end)

    def finish(self) -> None:
        """Nothing follows. Idempotent."""
        self.is_finished = True

    def take(self, size_bytes: int) -> Piece:
        """The next unsent bytes, at most so many; empty when there are none."""
        if not self._unsent or size_bytes <= 0:
            return b""
        data = self._unsent.popleft()
        if len(data) > size_bytes:
            data = memoryview(data)  # a large one is cut often, and must not be copied as often
            self._unsent.appendleft(data[size_bytes:])
            data = data[:size_bytes]
        self._kept.append(data)
        self._went(self.sent + len(data))
        if self.acked > self._kept_from:
            self._drop()
        return data

    def take_end(self) -> None:
        """The end is being sent, which counts as one."""
        self._went(self.end + 1)

    def _went(self, sent: int) -> None:
        self.sent = sent
        self._reached = max(self._reached, sent)

    def check(self, count: int) -> None:
        """Whether the peer can have so much. Raises: RemoteProtocolError when it was never sent."""
        if count > self._reached:
            raise RemoteProtocolError(f"the peer has {count} bytes of a stream, of which {self._reached} were sent")

    def acknowledge(self, count: int) -> None:
        """The peer has so much. An old count changes nothing. Raises: RemoteProtocolError when it cannot have it."""
        self.check(count)
        if count > self.end:
            self.give_up()
            self.sent = self.acked = count
        elif count > self.acked:
            self.acked = count
            self._drop()

    def _drop(self) -> None:
        """Forget what is acknowledged and has been taken: it may have been taken again behind that."""
        drop = min(self.acked, self.sent) - self._kept_from
        self._kept_from += max(drop, 0)
        while drop > 0:
            data = self._kept.popleft()
            if len(data) > drop:
                self._kept.appendleft(memoryview(data)[drop:])
                return
            drop -= len(data)

    def rewind(self, count: int) -> int:
        """A new connection: the peer had so much when it asked for it, and all the rest is unsent.

        Returns from where it is sent, which is never behind what the peer has. Raises: RemoteProtocolError.
        """
        self.acknowledge(count)
        while self._kept:
            self._unsent.appendleft(self._kept.pop())
        if self.acked <= self.end:
            self.sent = self._kept_from
        return self.sent

    def give_up(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._unsent.clear()
        self.sent = self._kept_from = self.acked = self.end

    def __repr__(self) -> str:
        return f"<Outgoing {self.acked} acked, {self.sent} sent of {self.end}{', the end' if self.is_finished else ''}>"


class Incoming:
    """The receiver's half: what was handed on, and whether the end was."""

    __slots__ = ("_again", "is_ended", "received")

    def __init__(self) -> None:
        self.received = 0
        self.is_ended = False
        self._again = 0  # bytes to come that were handed on already

    def restart(self, count: int) -> None:
        """A new connection, on which the sender goes on from there. Raises: RemoteProtocolError when that is a gap."""
        if count > self.count:
            raise RemoteProtocolError(f"the peer goes on at byte {count} of a stream, of which {self.count} are here")
        self._again = self.count - count

    def fresh(self, data: bytes) -> bytes:
        """What of the next bytes is new."""
        if not self._again:
            return data
        again = min(self._again, len(data))
        self._again -= again
        return data[again:] if again < len(data) else b""

    @property
    def count(self) -> int:
        """What the sender may forget: all bytes that were handed on, and the end as one more."""
        return self.received + self.is_ended

    def __repr__(self) -> str:
        return f"<Incoming {self.received}{' and the end' if self.is_ended else ''}>"
