"""A route whose messages travel each on a QUIC stream of its own, beside the session stream of the route.

The session stream goes on carrying all else, in order and over every connection: what messages refer to, which of them
were given up, which were settled, the counts and the end. A message whose connection is lost is sent again whole while
its deadline lasts. One that finds no room for a stream, is large, or refers to what the peer may not have yet goes over
the session stream, with its number as the others.

Rules.
1. The consumer's end settles each number once and says so; who gives one up asks it, and does not count by itself.
2. The end of the stream is told once everything is settled.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from flowbridge.codec.framing import FrameReader, prefix
from flowbridge.codec.route_frames import (
    GONE,
    SETTLED,
    SINGLE,
    read_gone,
    read_settled,
    read_single,
    write_gone,
    write_settled,
    write_single,
)
from flowbridge.envelope import NO_DEADLINE
from flowbridge.errors import CodecError, RemoteProtocolError, ResourceError
from flowbridge.limits import (
    LANES,
    SETTLED_MAX,
    SINGLE_BYTES_MAX,
    SINGLES_KEPT_BYTES_MAX,
    SINGLES_UNSENT_BYTES_MAX,
    STREAM_BYTES_HIGH,
)
from flowbridge.machines.singles import SinglesIn, SinglesOut
from flowbridge.transports.quic.course import urgency_of
from flowbridge.transports.stream_link import StreamFarLink, StreamNearLink

if TYPE_CHECKING:
    from flowbridge.codec.payload import Prepared
    from flowbridge.codec.route_frames import TrailReader
    from flowbridge.contracts import Clock
    from flowbridge.envelope import Envelope
    from flowbridge.machines.admission import Rank
    from flowbridge.time.far import Times
    from flowbridge.transports.framed import FramedLink
    from flowbridge.transports.quic.course import RouteCourse
    from flowbridge.transports.quic.single_streams import SingleStreams
    from flowbridge.transports.quic.stream import SessionStream

_EARLY_BYTES_MAX: Final = 2 * (STREAM_BYTES_HIGH + SINGLES_KEPT_BYTES_MAX)
_DUE_MIN: Final = 64


class _Single:
    """A message that is not settled. `data` is its frame while it may have to be sent again, `quic` where it was."""

    __slots__ = ("data", "quic", "rank", "size_bytes")

    def __init__(self, rank: Rank, size_bytes: int) -> None:
        self.rank = rank
        self.size_bytes = size_bytes
        self.data: bytes | None = None
        self.quic = -1


class SingleNearLink(StreamNearLink):
    """The producer's half; see `route_link.NearLink` and `stream.Aside`."""

    def __init__(
        self,
        link: FramedLink,
        stream: SessionStream,
        times: Times,
        course: RouteCourse,
        clock: Clock,
        *,
        is_newest: bool,
    ) -> None:
        """With `is_newest` few wait here to be sent, so that a newer one can take their place in the queue before."""
        super().__init__(link, times, course)
        self._stream = stream
        self._now_ns = clock.now_ns
        self._loop = asyncio.get_running_loop()
        self._is_newest = is_newest
        self._out = [SinglesOut[_Single]() for _ in range(LANES)]
        self._in_order_until = -1  # of the session stream: what singles refer to ends there
        self._kept_bytes = 0
        self._unsent: deque[_Single] = deque()
        self._due: list[tuple[int, int, int]] = []  # deadline, lane and number
        self._timer: asyncio.TimerHandle | None = None
        stream.aside = self

    # --- out --------------------------------------------------------------------------------------------------------

    def _is_held_up(self, envelope: Envelope) -> bool:
        if not self._out[envelope.priority].has_room or self._kept_bytes > SINGLES_KEPT_BYTES_MAX:
            return True
        if not self._is_newest:
            return False
        return self._stream.singles is None or self._waiting_bytes() > SINGLES_UNSENT_BYTES_MAX

    def _waiting_bytes(self) -> int:
        singles = self._stream.singles
        self._forget_sent()
        beside = 0 if singles is None else sum(singles.backlog(one.quic) for one in self._unsent if one.quic >= 0)
        return beside + self._stream.waiting_bytes

    def _forget_sent(self) -> None:
        singles, unsent = self._stream.singles, self._unsent
        while unsent and (singles is None or unsent[0].quic < 0 or not singles.backlog(unsent[0].quic)):
            unsent.popleft()

    def _write(self, told: Envelope, envelope: Envelope, tag: int, *, has_controls: bool) -> None:
        lane, out, stream = int(envelope.priority), self._out[envelope.priority], self._stream
        if has_controls or self._in_order_until < 0:
            self._in_order_until = stream.out.end
        prepared: Prepared = envelope.payload
        header, body = write_single(out.next, told, prepared.codec, tag), prepared.to_bytes()
        size_bytes = len(body) if type(body) is bytes else memoryview(body).nbytes
        single = _Single((urgency_of(envelope), envelope.deadline_ns), envelope.size_bytes)
        if stream.out.acked >= self._in_order_until and len(header) + size_bytes + 16 <= SINGLE_BYTES_MAX:
            single.data = prefix(SINGLE, len(header), size_bytes) + header + body
            self._kept_bytes += len(single.data)
            if self._send(stream.singles, single):
                self._await_deadline(lane, out.add(single), envelope.deadline_ns)
                return
        out.add(single)
        self._keep_not(single)
        self._link.send(SINGLE, header, body)
        if self._course is not None:
            self._course.wrote(envelope)

    def _send(self, singles: SingleStreams | None, single: _Single) -> bool:
        """Send it on a stream of its own, or once there is a connection; False when there is no stream for it."""
        assert single.data is not None, "what was given up is not sent"
        if singles is not None:
            quic = singles.send(self._stream.number, single.data, single.rank)
            if quic is None:
                return False
            single.quic = quic
            self._unsent.append(single)
        return True

    def push_end(self) -> bool:
        """Say that nothing more will come, once everything is settled: the end must not overtake."""
        return not any(out.open for out in self._out) and super().push_end()

    # --- what is not wanted any more --------------------------------------------------------------------------------

    def _await_deadline(self, lane: int, number: int, deadline_ns: int) -> None:
        if deadline_ns >= NO_DEADLINE:
            return
        due = self._due
        if len(due) > _DUE_MIN + 2 * sum(len(out.open) for out in self._out):
            due[:] = [one for one in due if one[2] in self._out[one[1]].open]
            heapq.heapify(due)
        heapq.heappush(due, (deadline_ns, lane, number))
        if self._timer is None or due[0][2] == number:
            self._wait()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        left_s = max(0, self._due[0][0] - self._now_ns()) / 1e9
        self._timer = self._loop.call_later(left_s, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now_ns, due = self._now_ns(), self._due
        while due and due[0][0] <= now_ns:
            _, lane, number = heapq.heappop(due)
            single = self._out[lane].open.get(number)
            if single is not None and single.data is not None:
                self._give_up(lane, number, single, is_stale=False)
        if due:
            self._wait()
        self._tell()

    def _give_up(self, lane: int, number: int, single: _Single, *, is_stale: bool) -> None:
        """Ask the consumer's end to settle it as gone, unless it has come."""
        singles = self._stream.singles
        if single.quic >= 0 and singles is not None:
            singles.give_up(single.quic)
        self._keep_not(single)
        with suppress(ResourceError):
            self._link.send(GONE, write_gone(lane, number, single.size_bytes, is_stale))

    def _keep_not(self, single: _Single) -> None:
        if single.data is not None:
            self._kept_bytes -= len(single.data)
            single.data = None
        if single.quic >= 0:
            if (singles := self._stream.singles) is not None:
                singles.done(single.quic)
            single.quic = -1

    # --- connections ------------------------------------------------------------------------------------------------

    def attached(self, singles: SingleStreams) -> None:
        """Send again what may not have come and is still wanted."""
        now_ns = self._now_ns()
        for lane, out in enumerate(self._out):
            kept = [(number, single) for number, single in out.open.items() if single.data is not None]
            for number, single in kept:
                is_stale = self._is_newest and number != kept[-1][0]
                if is_stale or single.rank[1] <= now_ns:
                    self._give_up(lane, number, single, is_stale=is_stale)
                elif not self._send(singles, single):
                    data = single.data or b""
                    self._keep_not(single)
                    with suppress(ResourceError):
                        self._link.stream.write(data)
        self._tell()

    def detached(self) -> None:
        """What is not settled may not have come."""
        self._unsent.clear()
        for out in self._out:
            for single in out.open.values():
                single.quic = -1

    def before(self, rank: Rank) -> int:
        """The bytes of messages that go before what has this rank."""
        self._forget_sent()
        singles = self._stream.singles
        if singles is None:
            return 0
        return sum([singles.backlog(one.quic) for one in self._unsent if one.quic >= 0 and one.rank <= rank])

    def arrived(self, data: bytes) -> None:
        """Nothing comes from a consumer but reports. Raises: RemoteProtocolError."""
        raise RemoteProtocolError(f"{self._link.peer}: a message of {len(data)} bytes from the consumer of a route")

    # --- in ---------------------------------------------------------------------------------------------------------

    def frame(self, kind: int, header: bytes, body: bytes) -> None:
        """A frame came from the consumer's end. Raises: RemoteProtocolError."""
        if kind != SETTLED:
            super().frame(kind, header, body)
            return
        try:
            if body:
                raise RemoteProtocolError(f"frame {kind:#x} has a body of {len(body)} bytes, and no use for one")
            for lane, number in read_settled(header):
                self._keep_not(self._out[lane].settled(number))
        except (CodecError, RemoteProtocolError) as error:
            raise RemoteProtocolError(f"{self._link.peer}: {error}") from error
        self._tell()

    def lost(self, error: Exception | None) -> None:
        """The consumer's end is gone."""
        self._leave()
        super().lost(error)

    def close(self) -> None:
        """Close this half; what is unsent is lost."""
        self._leave()
        super().close()

    def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due.clear()
        self._stream.aside = None


class SingleFarLink(StreamFarLink):
    """The consumer's half; see `route_link.FarLink` and `stream.Aside`."""

    def __init__(
        self, link: FramedLink, stream: SessionStream, trails: TrailReader, times: Times, *, is_newest: bool
    ) -> None:
        """With `is_newest` what is overtaken is dropped; else what overtakes waits for its turn."""
        super().__init__(link, trails, times)
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._is_newest = is_newest
        self._in: list[SinglesIn[Envelope]] = [SinglesIn(is_newest=is_newest) for _ in range(LANES)]
        self._settled: list[tuple[int, int]] = []  # what the producer's end does not know
        self._tells = False  # `_tell_settled` is due
        stream.aside = self

    def attached(self, singles: SingleStreams) -> None:
        """Nothing is sent here."""

    def detached(self) -> None:
        """Nothing is sent here."""

    def before(self, rank: Rank) -> int:
        """Nothing is sent here."""
        del rank
        return 0

    def arrived(self, data: bytes) -> None:
        """A message came. Raises: RemoteProtocolError."""
        if self._early_bytes > _EARLY_BYTES_MAX:
            raise RemoteProtocolError(f"{self._link.peer}: more than {_EARLY_BYTES_MAX} bytes before they are taken")
        reader = FrameReader(body_bytes_max=SINGLE_BYTES_MAX)
        frames = reader.feed(data)
        if len(frames) != 1 or reader.held_bytes or reader.failure is not None or frames[0][0] != SINGLE:
            raise RemoteProtocolError(f"{self._link.peer}: {len(data)} bytes on a stream of their own are no message")
        self.frame(*frames[0])

    def frame(self, kind: int, header: bytes, body: bytes) -> None:
        """A frame came from the producer's end. Raises: RemoteProtocolError."""
        if self._early is not None or kind not in (SINGLE, GONE):
            super().frame(kind, header, body)
            return
        try:
            if kind == SINGLE:
                self._came(header, body)
            else:
                self._gone(header, body)
        except (CodecError, RemoteProtocolError) as error:
            raise RemoteProtocolError(f"{self._link.peer}: {error}") from error

    def _came(self, header: bytes, body: bytes) -> None:
        number, item = read_single(header)
        envelope = item.envelope
        lane = int(envelope.priority)
        if not self._in[lane].is_fresh(number):
            return  # it was sent again, or given up
        self._must_go_on(SINGLE)
        if self._far is not None:
            self._far.arrived(envelope)
        ready = self._in[lane].came(number, self._records.message(envelope, item.codec, item.tag, body))
        self._settle(lane, number)
        if ready is None:
            self.on_missed(lane, envelope.size_bytes, True)
        elif ready:
            self.on_messages(ready)

    def _gone(self, header: bytes, body: bytes) -> None:
        lane, number, size_bytes, is_stale = read_gone(header)
        if body or (is_stale and not self._is_newest):
            raise RemoteProtocolError(f"frame {GONE:#x} has a body, or gives up a message that no newer one replaces")
        if not self._in[lane].is_fresh(number):
            return
        self._must_go_on(GONE)
        ready = self._in[lane].gone(number)
        self._settle(lane, number)
        self.on_missed(lane, size_bytes, is_stale)
        if ready:
            self.on_messages(ready)

    def _must_go_on(self, kind: int) -> None:
        if self._ended:
            raise RemoteProtocolError(f"frame {kind:#x} after the end")

    def _settle(self, lane: int, number: int) -> None:
        self._settled.append((lane, number))
        if not self._tells:
            self._tells = True
            self._loop.call_soon(self._tell_settled)

    def _tell_settled(self) -> None:
        self._tells = False
        if self._room.is_lacking:
            self._room.ask()
            return
        settled, self._settled = self._settled, []
        with suppress(ResourceError):
            for at in range(0, len(settled), SETTLED_MAX):
                self._link.send(SETTLED, write_settled(settled[at : at + SETTLED_MAX]))

    def _report_owed(self) -> None:
        super()._report_owed()
        if self._settled:
            self._tell_settled()

    def close(self) -> None:
        """Close this half."""
        self._stream.aside = None
        super().close()
