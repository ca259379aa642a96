"""What bounds a connection's memory: windows by consumption, stream limits, watermarks."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import Any

import pytest
from quic_link import Link, settings_of

from flowbridge.errors import LocalProtocolError
from flowbridge.transports.quic.engine import (
    WRITE_BYTES_HIGH,
    WRITE_BYTES_LOW,
    Closed,
    StreamData,
    StreamReset,
    StreamRoom,
    StreamsLeft,
    StreamStopped,
)

pytestmark = pytest.mark.usefixtures("quic_engine")
backpressure = pytest.mark.aioquic("qh3 opens its windows by what arrived, not by what was consumed")
stream_limits = pytest.mark.aioquic("qh3 lets a peer have 100 and 103 streams, whatever the settings say")

WINDOW = 64 * 1024
SMALL: dict[str, Any] = {"stream_window_bytes": WINDOW, "connection_window_bytes": 4 * WINDOW}


def _small() -> Link:
    return Link(server=settings_of("server", **SMALL)).connect()


def _opened(link: Link, *, unidirectional: bool = True) -> int:
    stream = link.client.open(unidirectional=unidirectional)
    assert stream is not None
    return stream


def _server(link: Link) -> Any:
    assert link.server is not None
    return link.server


@backpressure
def test_a_reader_that_stalls_is_sent_one_window() -> None:
    link = _small()
    stream = _opened(link)
    link.client.write(stream, bytes(10 * WINDOW))
    link.run(seconds=20)
    assert len(link.data("server", stream)) == WINDOW
    _server(link).consume(stream, WINDOW)
    link.run(lambda: len(link.data("server", stream)) == 2 * WINDOW, seconds=5)
    assert len(link.data("server", stream)) == 2 * WINDOW


@backpressure
def test_consuming_less_than_a_quarter_raises_no_limit() -> None:
    link = _small()
    stream = _opened(link)
    link.client.write(stream, bytes(10 * WINDOW))
    link.run(seconds=5)
    _server(link).consume(stream, WINDOW // 4 - 1)
    link.run(seconds=5)
    assert len(link.data("server", stream)) == WINDOW
    _server(link).consume(stream, 1)
    link.run(seconds=5)
    assert len(link.data("server", stream)) == WINDOW + WINDOW // 4


@backpressure
def test_all_streams_together_are_held_at_the_window_of_the_connection() -> None:
    link = _small()
    streams = [_opened(link) for _ in range(10)]
    for stream in streams:
        link.client.write(stream, bytes(2 * WINDOW))
    link.run(seconds=20)
    assert sum(len(link.data("server", stream)) for stream in streams) == 4 * WINDOW


@backpressure
def test_more_than_was_delivered_cannot_be_consumed() -> None:
    link = _small()
    stream = _opened(link)
    link.client.write(stream, bytes(100))
    link.run(seconds=1)
    _server(link).consume(stream, 10 * WINDOW)
    link.client.write(stream, bytes(10 * WINDOW))
    link.run(seconds=5)
    assert len(link.data("server", stream)) <= WINDOW + 100


@backpressure
@pytest.mark.parametrize("how", ["reset", "stop", "complete"])
def test_what_nobody_will_read_is_credited_to_the_connection(how: str) -> None:
    """Sixteen streams of half a window each would fill the connection's window twice."""
    link = _small()
    for _ in range(16):
        stream = _opened(link)
        link.client.write(stream, bytes(WINDOW // 2), fin=how == "complete")
        link.run(seconds=1)
        assert len(link.data("server", stream)) == WINDOW // 2
        if how == "reset":
            link.client.reset(stream, 7)
        else:
            _server(link).stop(stream, 7)
        link.run(seconds=1)
    assert _server(link).connection.inflow.unconsumed_bytes == 0
    resets = [event for event in link.server_events if isinstance(event, StreamReset)]
    assert len(resets) == (16 if how == "reset" else 0)


def test_bytes_that_were_lost_with_a_reset_are_credited_too() -> None:
    """The stream's first packet is lost for good: nothing of it can be delivered."""
    link = _small()
    for _ in range(16):
        stream = _opened(link)
        first = True

        def lose_first(data: bytes, _: Any) -> bytes | None:
            nonlocal first
            lost, first = first and len(data) > 1000, first and len(data) <= 1000
            return None if lost else data

        link.filter = lose_first
        link.client.write(stream, bytes(WINDOW // 2))
        link.flush()
        link.client.reset(stream, 7)
        link.run(seconds=1)
    assert not link.has(Closed, "server")
    link.filter = lambda data, _: data
    stream = _opened(link)
    link.client.write(stream, bytes(WINDOW))
    assert link.run(lambda: len(link.data("server", stream)) == WINDOW, seconds=5)


def test_data_of_a_stopped_stream_is_consumed_unseen() -> None:
    link = _small()
    stream = _opened(link, unidirectional=False)
    link.client.write(stream, bytes(100))
    link.run(seconds=1)
    _server(link).stop(stream, 0x402)
    link.client.write(stream, bytes(1000))  # leaves before the peer's wish arrives
    link.run(seconds=1)
    assert len(link.data("server", stream)) == 100
    assert StreamStopped(stream, 0x402) in link.client_events
    assert link.client.write(stream, b"more") == 0
    assert not link.has(StreamReset, "server")


def test_a_stop_is_told_once_though_its_frame_comes_again(quic_engine: str) -> None:
    link = Link().connect()
    stream = _opened(link)
    link.client.write(stream, b"x")
    link.run(seconds=1)
    connection = _server(link).connection
    receiver = None if quic_engine == "qh3" else connection._streams[stream].receiver
    _server(link).stop(stream, 3)
    if receiver is None:
        for _ in range(3):
            link.flush()
            connection.stop_stream(stream, 3)
        link.run(seconds=1)
    else:
        link.run(seconds=1)
        for _ in range(3):
            receiver.stop_pending = True
            link.run(seconds=0.1)
    assert [e for e in link.client_events if isinstance(e, StreamStopped)] == [StreamStopped(stream, 3)]


def test_a_byte_at_the_edge_of_the_window_costs_a_window_at_most(quic_engine: str) -> None:
    """Fourteen such packets made aioquic grant and allocate gigabytes, doubling its window for each."""
    link = Link(settings_of("client", engine="aioquic"), settings_of("server", **SMALL)).connect()
    stream = _opened(link)
    attacker = link.client.connection
    attacker._remote_max_data = 1 << 60
    state = attacker._streams[stream]
    state.max_stream_data_remote = 1 << 60
    edge = WINDOW
    for _ in range(14):
        sender = state.sender
        sender._buffer_start = sender._buffer_stop = sender.highest_offset = edge - 1
        sender._buffer.clear()
        link.client.write(stream, b"x")
        link.run(seconds=0.2)
        edge *= 2
    if quic_engine == "aioquic":
        streams = _server(link).connection._streams
        assert sum(len(entry.receiver._buffer) for entry in streams.values()) <= WINDOW
    closed = link.closed("server")
    assert (closed.code, closed.by_application, closed.is_remote) == (0x3, False, False)  # FLOW_CONTROL_ERROR


@stream_limits
def test_streams_beyond_the_limit_of_the_peer_wait_for_it() -> None:
    link = Link(server=settings_of("server", unidirectional_streams=2, bidirectional_streams=1)).connect()
    link.client_events.clear()
    first, second = _opened(link), _opened(link)
    assert link.client.open(unidirectional=True) is None
    assert link.client.open() == 0
    assert link.client.open() is None
    link.client.write(first, b"one", fin=True)
    link.client.write(second, b"two", fin=True)
    link.run(seconds=1)
    assert not link.has(StreamsLeft, "client")  # received is not consumed
    _server(link).consume(first, 3)
    assert link.run(lambda: link.has(StreamsLeft, "client"), seconds=1)
    assert link.client.open(unidirectional=True) == 10


@stream_limits
def test_streams_that_nobody_consumes_are_not_replaced_by_new_ones() -> None:
    link = Link(server=settings_of("server", unidirectional_streams=4)).connect()
    opened = 0
    for _ in range(50):
        stream = link.client.open(unidirectional=True)
        if stream is not None:
            opened += 1
            link.client.write(stream, b"x", fin=True)
        link.run(seconds=0.1)
    assert opened == 4


def test_no_stream_is_opened_before_the_handshake_and_then_it_is_said() -> None:
    link = Link()
    assert link.client.open() is None
    link.connect()
    assert StreamsLeft() in link.client_events
    assert link.client.open() == 0


def test_a_writer_above_the_high_mark_is_told_below_the_low_one() -> None:
    link = Link().connect()
    stream = _opened(link)
    written = 0
    while link.client.write(stream, bytes(32 * 1024)) <= WRITE_BYTES_HIGH:
        written += 1
    assert written == WRITE_BYTES_HIGH // (32 * 1024)
    assert link.run(lambda: link.has(StreamRoom, "client"), seconds=5)
    assert 0 < link.client.backlog(stream) < WRITE_BYTES_LOW
    link.run(seconds=5)
    assert [e for e in link.client_events if isinstance(e, StreamRoom)] == [StreamRoom(stream)]


def test_a_reset_stream_takes_no_bytes_and_has_no_backlog() -> None:
    link = Link().connect()
    stream = _opened(link)
    link.client.write(stream, bytes(2 * WRITE_BYTES_HIGH))
    link.client.reset(stream, 5)
    assert link.client.backlog(stream) == 0
    assert link.client.write(stream, b"x") == 0
    link.run(seconds=5)
    assert not link.has(StreamRoom, "client")
    assert link.client.write(stream, b"x") == 0  # also when it is long forgotten


def test_misuse_of_a_stream_is_named() -> None:
    link = Link().connect()
    stream = _opened(link)
    link.client.write(stream, b"x", fin=True)
    with pytest.raises(LocalProtocolError, match=f"stream {stream} was written to after its end"):
        link.client.write(stream, b"y")
    with pytest.raises(LocalProtocolError, match="stream 400 is not one"):
        link.client.write(400, b"y")
    with pytest.raises(LocalProtocolError, match="urgency is 0 to 4, not 5"):
        link.client.open(urgency=5)


def test_a_view_of_wide_items_is_written_as_its_bytes() -> None:
    link = Link().connect()
    stream = _opened(link)
    wide = memoryview(bytes(range(16))).cast("I")
    link.client.write(stream, wide, fin=True)
    link.client_events.clear()
    assert link.run(lambda: link.ended("server", stream))
    assert link.data("server", stream) == bytes(range(16))


def test_an_end_without_bytes_arrives() -> None:
    link = Link().connect()
    stream = _opened(link)
    link.client.write(stream, b"", fin=True)
    assert link.run(lambda: StreamData(stream, b"", True) in link.server_events)
