"""The books of whole paths, what payloads cost, and the box that collects what an operator sends."""

from __future__ import annotations

import asyncio
from array import array
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flowbridge.envelope import NO_DEADLINE, Envelope, Trail
from flowbridge.errors import OperatorError
from flowbridge.limits import OUTBOX_ITEMS_MAX, PATHS_MAX
from flowbridge.plan import Artifact, ArtifactKind, Origin, PluginManifest
from flowbridge.runtime.context import Context, Outbox
from flowbridge.runtime.path import PathBook
from flowbridge.runtime.sizing import sizer_of
from flowbridge.testing.clock import ManualClock
from flowbridge.time.histogram import PENDING_MAX
from flowbridge.transports.bus import LocalEventBus


def ended(book: PathBook, trail: Trail | None, *, now_ns: int = 50, deadline_ns: int = NO_DEADLINE) -> None:
    book.ended([Envelope(None, deadline_ns=deadline_ns, origin_ns=10, trail=trail)], [now_ns])


def test_a_path_counts_what_ended_on_it_and_how_long_it_took() -> None:
    book = PathBook({"a": 1_000, "b": None})
    first, second = Trail("a").step("c"), Trail("b").step("c")
    book.ended(
        [Envelope(None, origin_ns=10, trail=trail) for trail in (first, second, second, first)], [40, 35, 31, 42]
    )
    reports = book.reports()
    assert [(report.nodes, report.deadline_ns) for report in reports] == [(("a", "c"), 1_000), (("b", "c"), None)]
    assert [(report.delivered, report.missed, report.latency.sum) for report in reports] == [(2, 0, 62), (2, 0, 46)]


@pytest.mark.parametrize(("now_ns", "missed"), [(99, 0), (100, 1), (101, 1)])
def test_a_message_that_ends_at_its_deadline_or_later_is_missed(now_ns: int, missed: int) -> None:
    book = PathBook({})
    ended(book, Trail("a"), now_ns=now_ns, deadline_ns=100)
    assert [(report.delivered, report.missed) for report in book.reports()] == [(1, missed)]


def test_a_message_that_was_lost_on_the_way_is_missed_where_it_was_lost() -> None:
    book = PathBook({"a": 5})
    trail = Trail("a")
    book.lost(Envelope(None, trail=trail.step("b")))
    book.lost(Envelope(None))
    ended(book, None)
    assert [(r.nodes, r.delivered, r.missed, r.deadline_ns) for r in book.reports()] == [(("a", "b"), 0, 1, 5)]


def test_beyond_the_limit_paths_are_counted_as_one() -> None:
    book = PathBook({})
    root = Trail("a")
    for number in range(PATHS_MAX + 3):
        ended(book, root.step(str(number)))
    reports = book.reports()
    assert len(reports) == PATHS_MAX + 1
    assert (reports[-1].nodes, reports[-1].delivered) == (("(others)",), 3)
    ended(book, root.step("0"))
    assert book.reports()[0].delivered == 2


def test_latencies_do_not_pile_up_however_paths_alternate() -> None:
    book = PathBook({})
    trails = [Trail("a"), Trail("b")]
    envelopes = [Envelope(None, trail=trail) for trail in trails * 50]
    for _ in range(2 * PENDING_MAX // 50):
        book.ended(envelopes, [1] * len(envelopes))
    assert all(len(report.latency.pending) < PENDING_MAX for report in book.reports())


# --- sizes --------------------------------------------------------------------------------------------------------

BATCH = pa.RecordBatch.from_pydict({"a": pa.array([1, 2, 3], pa.int64())})


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (b"12345", 5),
        (bytearray(7), 7),
        (memoryview(array("q", [1, 2, 3, 4])), 32),
        (np.zeros((3, 2), np.int32), 24),
        (BATCH, 24),
        (BATCH.slice(1, 1), 24),
        (pa.array([1.0]), 8),
        (5, (5).__sizeof__()),
        ([1, 2], [1, 2].__sizeof__()),
        (None, None.__sizeof__()),
        (int, type.__sizeof__(int)),
        (Trail("a"), Trail("a").__sizeof__()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_payload_costs_its_buffers_or_else_itself(value: Any, wanted: int) -> None:
    kind: type[object] = value.__class__
    assert sizer_of(kind)(value) == wanted


# --- context and outbox -------------------------------------------------------------------------------------------


def test_the_time_that_remains_is_that_of_the_message_being_handled() -> None:
    clock = ManualClock()
    artifact = Artifact(kind=ArtifactKind.PYTHON_OPERATOR, ref="x")
    manifest = PluginManifest(node="n", artifact=artifact, origin=Origin.INTERNAL)
    context = Context(manifest, clock, LocalEventBus(clock), ".", None)
    assert context.remaining_ns() == NO_DEADLINE
    context.envelope = Envelope(None)
    assert context.remaining_ns() == NO_DEADLINE
    context.envelope = Envelope(None, deadline_ns=clock.now_ns() + 30)
    assert context.remaining_ns() == 30
    context.envelope = Envelope(None, deadline_ns=clock.now_ns() - 5)
    assert context.remaining_ns() == -5


def test_an_outbox_keeps_the_order_and_sends_nothing_by_itself() -> None:
    sent: list[tuple[Any, str]] = []

    async def send_now(value: Any, port: str) -> None:
        sent.append((value, port))

    outbox = Outbox("n", send_now)
    outbox.emit(1, deadline_ns=7, priority=3)
    outbox.emit_new(2, "late", origin_ns=9)
    first, second = outbox.entries
    assert (first.value, first.port, first.deadline_ns, first.priority, first.new) == (1, "out", 7, 3, False)
    assert (second.value, second.port, second.origin_ns, second.new) == (2, "late", 9, True)
    assert sent == []
    asyncio.run(outbox.send(3, "x"))
    assert sent == [(3, "x")]


def test_an_outbox_that_is_never_emptied_is_an_error_and_not_a_leak() -> None:
    async def send_now(value: Any, port: str) -> None:
        raise AssertionError

    outbox = Outbox("n", send_now)
    for number in range(OUTBOX_ITEMS_MAX):
        outbox.emit(number)
    with pytest.raises(OperatorError, match=f"node n: emitted more than {OUTBOX_ITEMS_MAX} messages in one call"):
        outbox.emit(-1)
    assert outbox.entries == []
