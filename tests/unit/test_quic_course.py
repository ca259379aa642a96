"""What a message is on a path that many routes share: its urgency, and whether it is sent at all."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from flowbridge.codec.payload import PayloadWriter
from flowbridge.envelope import NO_DEADLINE, Envelope, Priority
from flowbridge.testing.clock import ManualClock
from flowbridge.transports.quic.course import RouteCourse, urgency_of
from flowbridge.transports.quic.stream import Before

if TYPE_CHECKING:
    from flowbridge.machines.admission import Rank

MS = 10**6


def prepared(payload: object, priority: int = Priority.NORMAL, deadline_ns: int = NO_DEADLINE) -> Envelope:
    return Envelope(PayloadWriter().prepare(payload), priority, deadline_ns)


class Stream:
    """A stream as a course sees it."""

    def __init__(self, before: Before | None) -> None:
        self.asked: list[Rank] = []
        self.pressed: list[Rank] = []
        self._before = before

    def before(self, rank: Rank) -> Before | None:
        self.asked.append(rank)
        return self._before

    def press(self, rank: Rank) -> None:
        self.pressed.append(rank)


@pytest.mark.parametrize(
    ("priority", "plain", "bulk"),
    [(Priority.REALTIME, 1, 1), (Priority.HIGH, 1, 1), (Priority.NORMAL, 2, 4), (Priority.BEST_EFFORT, 3, 4)],
)
def test_urgency_comes_from_the_priority_and_arrow_data_is_bulk_unless_that_is_high(
    priority: Priority, plain: int, bulk: int
) -> None:
    batch: Any = pa.record_batch({"x": pa.array([1, 2], pa.int64())})
    for payload in (b"bytes", {"a": 1}, "text"):
        assert urgency_of(prepared(payload, priority)) == plain
    for arrow in (batch, pa.Table.from_batches([batch])):
        assert urgency_of(prepared(arrow, priority)) == bulk


def test_what_has_no_deadline_or_no_known_path_always_goes() -> None:
    clock = ManualClock(1_000 * MS)
    busy, apart = Stream(Before(10**9, 1, 0, MS, MS)), Stream(None)
    assert RouteCourse(busy, clock).admits(prepared(b"x"))
    assert not busy.asked
    assert RouteCourse(apart, clock).admits(prepared(b"x", deadline_ns=1_001 * MS))
    assert apart.asked == [(2, 1_001 * MS)]


def test_the_way_to_the_peer_is_taken_off_what_is_left() -> None:
    clock = ManualClock(1_000 * MS)
    payload = bytes(20_000 - 64)  # with its frame 20 ms of a path of 1 MB a second

    def admits(left_ms: int, way_ms: int, queued_bytes: int, free_bytes: int = 0) -> bool:
        stream = Stream(Before(queued_bytes, 20_000, free_bytes, 20 * MS, way_ms * MS))
        return RouteCourse(stream, clock).admits(prepared(payload, deadline_ns=(1_000 + left_ms) * MS))

    assert admits(100, 0, 60_000)
    assert not admits(100, 1, 60_000)
    assert admits(110, 10, 60_000)
    assert not admits(10, 10, 1)
    assert admits(10, 10, 0)
    assert admits(10, 10, 10_000, free_bytes=30_000), "what leaves at once takes nobody's place"
    assert not admits(10, 10, 10_001, free_bytes=30_000)


def test_what_was_written_lends_its_rank_to_the_stream() -> None:
    stream = Stream(None)
    course = RouteCourse(stream, ManualClock())
    course.wrote(prepared(b"x", Priority.HIGH, 5 * MS))
    course.wrote(prepared(b"x"))
    assert stream.pressed == [(1, 5 * MS), (2, NO_DEADLINE)]
