"""A peer with a good certificate and bad intentions: whatever it sends, nothing is raised and little is kept."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aioquic.quic.packet import QuicPacketType
from aioquic.tls import Epoch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quic_link import ENGINES, Link, settings_of

from flowbridge.limits import QUIC_STREAMS_MAX
from flowbridge.transports.quic.engine import Closed

if TYPE_CHECKING:
    from flowbridge.transports.quic.settings import EngineName

VARINTS = st.one_of(
    st.integers(0, 63).map(lambda n: bytes((n,))),
    st.integers(0, 2**14 - 1).map(lambda n: (n | 0x4000).to_bytes(2, "big")),
    st.integers(0, 2**62 - 1).map(lambda n: (n | 0xC000000000000000).to_bytes(8, "big")),
)
FRAMES = st.tuples(
    st.integers(0, 0x31).map(lambda n: bytes((n,))), st.lists(VARINTS, max_size=6), st.binary(max_size=40)
)
PAYLOADS = st.lists(FRAMES, min_size=1, max_size=6).map(
    lambda frames: b"".join(kind + b"".join(numbers) + rest for kind, numbers, rest in frames)[:900]
)
WINDOW = 64 * 1024


def _say(link: Link, payload: bytes) -> None:
    """Let the client's next packet hold nothing but these bytes."""
    connection = link.client.connection

    def write(builder: Any, *_: Any, **_named: Any) -> None:
        builder.start_packet(QuicPacketType.ONE_RTT, connection._cryptos[Epoch.ONE_RTT])
        builder.start_frame(payload[0], capacity=len(payload)).push_bytes(payload[1:])

    connection._write_application = write  # type: ignore[method-assign]
    link.flush()
    del connection._write_application


@pytest.mark.parametrize("engine", ENGINES)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(payloads=st.lists(PAYLOADS, min_size=1, max_size=8))
def test_frames_of_any_content_end_in_a_close_or_in_nothing(payloads: list[bytes], engine: EngineName) -> None:
    small = {"stream_window_bytes": WINDOW, "connection_window_bytes": 2 * WINDOW}
    link = Link(settings_of("client"), settings_of("server", engine=engine, **small)).connect()
    link.run(seconds=0.2)
    server = link.server
    assert server is not None
    for payload in payloads:
        if link.has(Closed, "client"):
            break
        _say(link, payload)
        link.run(seconds=0.05)
    link.run(seconds=0.2)
    assert server.faults == 0
    if engine == "aioquic":
        streams = server.connection.streams.values()
        assert sum(len(stream.receiver._buffer) for stream in streams) <= 2 * WINDOW
        assert len(streams) <= 2 * QUIC_STREAMS_MAX
    for event in link.server_events:
        if isinstance(event, Closed) and not event.is_remote:
            assert 0 < event.code < 0x200
