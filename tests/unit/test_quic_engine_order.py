"""Which stream is served first."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING

from aioquic.quic.connection import QuicConnection
from quic_link import Link, Weather, settings_of

from flowbridge.transports.quic.engine import StreamData

if TYPE_CHECKING:
    from collections.abc import Iterable

SLOW = Weather(delay=0.005, rate=125_000.0)


def _link() -> Link:
    return Link(settings_of("client", datagram_bytes=1_200), weather=SLOW).connect()


def _open(link: Link, urgency: int, deadline: float | None = None, size: int = 30_000) -> int:
    stream = link.client.open(unidirectional=True, urgency=urgency)
    assert stream is not None
    if deadline is not None:
        link.client.prioritize(stream, urgency, deadline)
    link.client.write(stream, bytes(size), fin=True)
    return stream


def _finished(link: Link, streams: Iterable[int]) -> list[int]:
    wanted = set(streams)
    assert link.run(lambda: all(link.ended("server", stream) for stream in wanted), seconds=60)
    return [e.stream for e in link.server_events if isinstance(e, StreamData) and e.fin and e.stream in wanted]


def _served(link: Link) -> list[int]:
    return [e.stream for e in link.server_events if isinstance(e, StreamData)]


def test_the_more_urgent_stream_is_sent_first_whatever_was_opened_first() -> None:
    link = _link()
    streams = [_open(link, urgency) for urgency in (3, 1, 2, 0)]
    assert _finished(link, streams) == [streams[3], streams[1], streams[2], streams[0]]


def test_within_one_urgency_the_earliest_deadline_is_first_and_none_is_last() -> None:
    link = _link()
    streams = [_open(link, 2, deadline) for deadline in (None, 9.0, 7.0, 8.0)]
    assert _finished(link, streams) == [streams[2], streams[3], streams[1], streams[0]]


def test_equal_streams_are_served_in_turn() -> None:
    link = _link()
    streams = [_open(link, 2) for _ in range(4)]
    _finished(link, streams)
    served = _served(link)[:40]
    for start in range(0, 36, 4):
        assert len(set(served[start : start + 4])) >= 3  # a packet's end may hold the begin of the next stream


def test_an_urgent_message_overtakes_bulk_that_waits() -> None:
    link = _link()
    for _ in range(64):
        _open(link, 4, size=5_000)
    link.run(seconds=0.5)
    before = len(_served(link))
    urgent = _open(link, 0, size=100)
    _finished(link, [urgent])
    assert _served(link)[before:].index(urgent) < 70  # what was in the queue of the link, not of the streams


def test_the_least_urgent_streams_have_a_twentieth_though_others_wait() -> None:
    link = _link()
    bulk = _open(link, 4, size=200_000)
    urgent = _open(link, 0, size=200_000)
    _finished(link, [urgent])
    share = len(link.data("server", bulk)) / (200_000 + len(link.data("server", bulk)))
    assert 0.03 < share < 0.08


def test_a_floor_is_not_given_to_a_stream_that_cannot_use_it() -> None:
    link = Link(
        settings_of("client", datagram_bytes=1_200),
        settings_of("server", stream_window_bytes=16 * 1024),
        weather=SLOW,
    ).connect()
    blocked = [_open(link, 4, size=60_000) for _ in range(2)]
    link.run(seconds=3)
    assert [len(link.data("server", stream)) for stream in blocked] == [16 * 1024] * 2
    streams = [_open(link, 0, size=16_000) for _ in range(8)]
    before = link.now
    _finished(link, streams)
    assert link.now - before < 8 * 16_000 / 125_000 * 1.2
    assert link.server is not None
    link.server.consume(blocked[1], 16 * 1024)
    more = [_open(link, 0, size=16_000) for _ in range(8)]
    _finished(link, more)
    assert len(link.data("server", blocked[1])) > 16 * 1024


def test_a_stream_without_window_does_not_hold_up_the_others() -> None:
    link = Link(server=settings_of("server", stream_window_bytes=16 * 1024), weather=SLOW).connect()
    blocked = _open(link, 0, size=100_000)
    other = _open(link, 3, size=10_000)
    assert _finished(link, [other]) == [other]
    assert len(link.data("server", blocked)) == 16 * 1024


def test_a_change_of_urgency_counts_from_the_next_packet() -> None:
    link = _link()
    first, second = _open(link, 1), _open(link, 2)
    link.client.prioritize(second, 0)
    assert _finished(link, [first, second]) == [second, first]


def test_streams_that_came_from_the_peer_are_in_the_order_too() -> None:
    link = _link()
    assert link.server is not None
    asked = [link.client.open() for _ in range(3)]
    for stream in asked:
        assert stream is not None
        link.client.write(stream, b"?")
    link.run(seconds=1)
    for stream, urgency in zip(asked, (3, 1, 2), strict=True):
        assert stream is not None
        link.server.prioritize(stream, urgency)
        link.server.write(stream, bytes(20_000), fin=True)
    assert link.run(lambda: all(link.ended("client", s) for s in asked if s is not None))
    done = [e.stream for e in link.client_events if isinstance(e, StreamData) and e.fin]
    assert done == [asked[1], asked[2], asked[0]]


def test_the_ranks_of_streams_that_are_gone_are_forgotten() -> None:
    link = _link()
    for _ in range(50):
        _finished(link, [_open(link, 3, 1.0, size=100)])
    link.run(seconds=1)
    assert len(link.client.connection._schedule._ranks) <= 1
    assert isinstance(link.client.connection, QuicConnection)
