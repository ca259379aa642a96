"""Every private name of qh3 that we touch, and what it does where it is not as it should be."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import inspect
from collections import deque
from typing import Any

import pytest
from quic_link import SERVER as SERVER_ADDRESS
from quic_link import Link, settings_of

from flowbridge.errors import LocalProtocolError
from flowbridge.transports.quic.engine import Closed, Connected, StreamsLeft
from flowbridge.transports.quic.engines import make_acceptor, make_client

pytest.importorskip("qh3", reason="qh3 is not installed")

from qh3 import tls
from qh3.quic import connection as qh3_connection
from qh3.quic.tls_bridge import QuicTlsBridge

from flowbridge.transports.quic.qh3.connection import CheckedContext, ServerContext


def _link(client: str = "qh3", server: str = "qh3", **changes: Any) -> Link:
    return Link(settings_of("client", engine=client), settings_of("server", engine=server, **changes))


CONNECTION: dict[str, type] = {
    "_close_event": type(None),
    "_configuration": object,
    "_core": object,
    "_events": deque,
    "_handshake_complete": bool,
    "_handshake_confirmed": bool,
    "_is_client": bool,
    "_remote_max_datagram_frame_size": int,
}
CORE = (
    "active_path",
    "bytes_in_flight",
    "can_send_stream",
    "congestion_window",
    "get_send_buffer_size",
    "latest_rtt",
    "loss_total",
    "poll_transmit",
    "pto_count",
    "received_authenticated_packet",
    "smoothed_rtt",
    "state",
    "stream_limits",
)


@pytest.mark.parametrize("name", CONNECTION)
def test_a_connection_has(name: str) -> None:
    connection = _link().connect().client.connection
    assert isinstance(getattr(connection, name), CONNECTION[name])


@pytest.mark.parametrize("name", CORE)
def test_a_core_has(name: str) -> None:
    connection: Any = _link().connect().client.connection
    assert hasattr(connection._core, name)


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        (qh3_connection.QuicConnection, "_create_tls", ["self", "remote_source_cid"]),
        (qh3_connection.QuicConnection, "_call_core", ["self", "operation", "args"]),
        (qh3_connection.QuicConnection, "_open_stream", ["self", "is_unidirectional"]),
        (tls.Context, "_process_certificate", ["self", "certificate"]),
        (QuicTlsBridge, "serialize_transport_parameters", ["self"]),
    ],
)
def test_what_is_overridden_takes(owner: type, name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(owner, name)).parameters) == parameters


def test_both_sides_judge_by_contexts_of_ours() -> None:
    link = _link().connect()
    assert link.server is not None
    assert isinstance(link.client.connection.tls, CheckedContext)
    assert isinstance(link.server.connection.tls, ServerContext)


def test_the_limits_of_streams_are_those_allowed_and_those_opened() -> None:
    link = _link().connect()
    connection: Any = link.client.connection
    core: Any = connection._core
    assert core.stream_limits == (100, 103, 0, 0)
    link.client.open()
    link.client.open(unidirectional=True)
    link.client.open(unidirectional=True)
    assert core.stream_limits == (100, 103, 1, 2)


@pytest.mark.parametrize(("unidirectional", "most"), [(False, 100), (True, 103)])
def test_a_stream_above_the_limit_waits_for_one_that_is_over(unidirectional: bool, most: int) -> None:
    link = _link().connect()
    assert link.server is not None
    streams = [link.client.open(unidirectional=unidirectional) for _ in range(most)]
    assert None not in streams
    assert link.client.open(unidirectional=unidirectional) is None
    assert not link.has(StreamsLeft, "client")
    first = streams[0]
    assert first is not None
    link.client.write(first, b"x", fin=True)
    link.run(lambda: link.ended("server", first), seconds=1)
    if not unidirectional:
        assert not link.has(StreamsLeft, "client")
        link.server.write(first, b"y", fin=True)
    assert link.run(lambda: link.has(StreamsLeft, "client"), seconds=1)
    assert link.client.open(unidirectional=unidirectional) == 4 * most + first
    assert link.client.open(unidirectional=unidirectional) is None


def test_a_datagram_one_byte_over_what_fits_would_break_the_connection() -> None:
    """So the guard before it is ours; qh3 keeps the datagram and fails for ever."""
    link = _link().connect()
    link.client.connection.send_datagram_frame(bytes(1_232))
    assert link.client.transmit(link.now) == ()
    assert any(isinstance(event, Closed) for event in link.client.events())


@pytest.mark.parametrize(("client", "server"), [("qh3", "aioquic"), ("aioquic", "qh3")])
def test_the_engines_speak_with_each_other(client: str, server: str) -> None:
    link = _link(client, server).connect()
    assert link.server is not None
    (seen,) = [event.identity for event in link.server_events if isinstance(event, Connected)]
    assert (seen.node if seen is not None else None) == ("client" if server == "aioquic" else None)
    for writer, reader in ((link.client, "server"), (link.server, "client")):
        stream = writer.open()
        assert stream is not None
        writer.write(stream, bytes(300_000), fin=True)
        (link.server if reader == "server" else link.client).consume(stream, 300_000)
        assert link.run(lambda stream=stream, reader=reader: link.ended(reader, stream), seconds=20)  # type: ignore[misc]
        assert len(link.data(reader, stream)) == 300_000


def test_an_unpadded_first_packet_ends_no_handshake() -> None:
    """aioquic fills its first datagram with zeros behind the packet, which qh3 does not count (see `connection`)."""
    link = _link("aioquic", "qh3").connect()
    assert link.server is not None
    assert link.server.faults == 0


def test_a_server_is_told_what_it_may_not_ask() -> None:
    for policy in ("require", "ask"):
        with pytest.raises(LocalProtocolError, match="cannot ask clients for certificates"):
            make_acceptor(settings_of("server", engine="qh3", client_certificates=policy))
    with pytest.raises(LocalProtocolError, match="qh3 has congestion cubic, not reno"):
        make_client(settings_of("client", engine="qh3", congestion="reno"), SERVER_ADDRESS, 0.0)


def test_its_caps_say_what_it_cannot_do() -> None:
    link = _link().connect()
    assert link.server is not None
    for engine in (link.client, link.server):
        caps = engine.caps
        assert (caps.name, caps.receive_backpressure, caps.priorities) == ("qh3", False, False)
        assert caps.congestion == ("cubic",)
    assert not link.server.caps.client_certificates
