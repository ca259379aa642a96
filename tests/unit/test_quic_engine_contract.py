"""Every private name of aioquic that we touch: an upgrade that changes one fails here, by name."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import inspect
from collections import deque
from typing import Any

import pytest
from aioquic import tls
from aioquic.quic import connection as aioquic_connection
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import Limit, QuicConnection, QuicConnectionAdapter, QuicConnectionState
from aioquic.quic.recovery import QuicPacketNumberWindow, QuicPacketRecovery
from aioquic.quic.stream import QuicStream
from quic_link import Link, settings_of

from flowbridge.transports.quic.aio.connection import BoundedConnection
from flowbridge.transports.quic.aio.order import StreamOrder
from flowbridge.transports.quic.aio.received import NUMBERS, ReceivedNumbers
from flowbridge.transports.quic.aio.tls import CheckedContext
from flowbridge.transports.quic.engine import Closed, Connected

CONNECTION: dict[str, type] = {
    "_ack_delay": float,
    "_close_event": type(None),
    "_configuration": QuicConfiguration,
    "_crypto_buffers": dict,
    "_QuicConnection__frame_handlers": dict,
    "_close_at": float,
    "_datagrams_pending": deque,
    "_events": deque,
    "_handshake_complete": bool,
    "_handshake_confirmed": bool,
    "_host_cids": list,
    "_is_client": bool,
    "_local_max_data": Limit,
    "_local_max_streams_bidi": Limit,
    "_local_max_streams_uni": Limit,
    "_logger": QuicConnectionAdapter,
    "_loss": QuicPacketRecovery,
    "_max_datagram_size": int,
    "_network_paths": list,
    "_packet_number": int,
    "_peer_cid": aioquic_connection.QuicConnectionId,
    "_ping_pending": list,
    "_remote_max_datagram_frame_size": int,
    "_remote_max_streams_bidi": int,
    "_remote_max_streams_uni": int,
    "_spaces": dict,
    "_state": QuicConnectionState,
    "_streams": dict,
    "_streams_queue": list,
}
RECOVERY: dict[str, type] = {
    "_cc": object,
    "_pto_count": int,
    "_rtt_initialized": bool,
    "_rtt_min": float,
    "_rtt_smoothed": float,
}
STREAM: dict[str, type] = {
    "is_blocked": bool,
    "max_stream_data_local": int,
    "max_stream_data_local_sent": int,
    "max_stream_data_remote": int,
}
SENDER: dict[str, Any] = {
    "_buffer_fin": type(None),
    "_buffer_stop": int,
    "_reset_error_code": type(None),
    "buffer_is_empty": bool,
    "highest_offset": int,
    "is_finished": bool,
}
OVERRIDDEN: dict[str, tuple[str, ...]] = {
    "_initialize": ("self", "peer_cid"),
    "_confirm_handshake": ("self",),
    "_replenish_connection_ids": ("self",),
    "_unblock_streams": ("self", "is_unidirectional"),
    "datagrams_to_send": ("self", "now"),
    "get_timer": ("self",),
    "handle_timer": ("self", "now"),
    "_write_connection_limits": ("self", "builder", "space"),
    "_write_stream_limits": ("self", "builder", "space", "stream"),
}
CALLED: dict[str, tuple[str, ...]] = {
    "_payload_received": ("self", "context", "plain", "crypto_frame_required"),
    "_get_or_create_stream_for_send": ("self", "stream_id"),
    "_on_connection_limit_delivery": ("self", "delivery", "limit"),
    "_on_max_stream_data_delivery": ("self", "delivery", "stream"),
    "_send_probe": ("self",),
    "_stream_can_receive": ("self", "stream_id"),
    "_stream_can_send": ("self", "stream_id"),
    "_stream_is_discarded": ("self", "stream_id"),
    "_stream_limit": ("self", "stream_id"),
}
CONTEXT: dict[str, tuple[str, ...]] = {
    "_server_handle_certificate": ("self", "input_buf"),
    "_set_peer_certificate": ("self", "certificate"),
}


def _connected() -> QuicConnection:
    return Link().connect().client.connection


def test_it_is_the_version_that_was_read() -> None:
    from importlib.metadata import version

    assert version("aioquic") == "1.7.2"


@pytest.mark.parametrize("name", CONNECTION)
def test_a_connection_has(name: str) -> None:
    assert isinstance(getattr(_connected(), name), CONNECTION[name])


@pytest.mark.parametrize("name", RECOVERY)
def test_loss_recovery_has(name: str) -> None:
    assert isinstance(getattr(_connected()._loss, name), RECOVERY[name])


@pytest.mark.parametrize("name", STREAM)
def test_a_stream_has(name: str) -> None:
    assert isinstance(getattr(QuicStream(stream_id=0), name), STREAM[name])


@pytest.mark.parametrize("name", SENDER)
def test_the_sending_side_of_a_stream_has(name: str) -> None:
    assert isinstance(getattr(QuicStream(stream_id=0).sender, name), SENDER[name])


@pytest.mark.parametrize("name", ["highest_offset", "is_finished", "stop_pending"])
def test_the_receiving_side_of_a_stream_has(name: str) -> None:
    assert isinstance(getattr(QuicStream(stream_id=0).receiver, name), int)


@pytest.mark.parametrize("name", ["sent", "used", "value", "frame_type"])
def test_a_limit_has(name: str) -> None:
    assert isinstance(getattr(_connected()._local_max_data, name), int)


@pytest.mark.parametrize("name", [*OVERRIDDEN, *CALLED])
def test_a_method_of_a_connection_takes(name: str) -> None:
    found = inspect.signature(getattr(QuicConnection, name))
    assert tuple(found.parameters) == {**OVERRIDDEN, **CALLED}[name]


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_ours_is_called_instead_of(name: str) -> None:
    assert name in vars(BoundedConnection)


@pytest.mark.parametrize("name", CONTEXT)
def test_a_method_of_the_handshake_takes(name: str) -> None:
    assert tuple(inspect.signature(getattr(tls.Context, name)).parameters) == CONTEXT[name]
    assert name in vars(CheckedContext)


@pytest.mark.parametrize("name", ["_peer_certificate", "_peer_certificate_chain", "_request_client_certificate"])
def test_the_handshake_has(name: str) -> None:
    assert hasattr(tls.Context(is_client=True), name)


def test_the_list_of_streams_goes_through_ours() -> None:
    """aioquic assigns the list anew for each packet, and appends and extends it."""
    link = Link().connect()
    stream = link.client.open()
    assert stream is not None
    link.client.write(stream, bytes(5_000))
    link.client.transmit(link.now)
    assert type(link.client.connection._streams_queue) is StreamOrder
    source = inspect.getsource(QuicConnection._write_application)
    assert source.count("self._streams_queue") == 4
    assert "self._streams_queue.extend(sent)" in source
    assert "self._streams.pop(stream.stream_id)" in source


def test_a_connection_id_has_a_number_and_a_token() -> None:
    (first, *_) = _connected()._host_cids
    assert isinstance(first.cid, bytes)
    assert isinstance(first.sequence_number, int)
    assert hasattr(first, "stateless_reset_token")


def test_a_path_has_an_address_and_may_have_an_id_of_the_peer() -> None:
    (path,) = _connected()._network_paths
    assert path.addr == ("10.0.0.1", 4433)
    assert path.peer_cid is None


def test_losses_are_counted_where_the_controller_hears_of_them() -> None:
    link = Link().connect()
    stream = link.client.open()
    assert stream is not None
    lost = 0

    def lose_some(data: bytes, source: object) -> bytes | None:
        nonlocal lost
        if source == ("10.0.0.2", 5555) and len(data) > 1_000 and lost < 3:
            lost += 1
            return None
        return data

    link.filter = lose_some
    link.client.write(stream, bytes(30_000), fin=True)
    assert link.run(lambda: link.ended("server", stream))
    assert link.client.stats().packets_lost == 3


def test_a_handshake_is_judged_though_aioquic_would_let_it_pass() -> None:
    """The check hangs on one method of the handshake: if aioquic stopped calling it, anybody would be let in."""
    from quic_certs import make_ca, make_node

    foreign = make_node(make_ca("test", serial=2), "client", ("10.0.0.2",))
    link = Link(settings_of("client", certificate=foreign.certificate, key=foreign.key))
    assert link.run(lambda: link.has(Closed, "server"), seconds=10)
    assert not link.has(Connected, "server")


def test_packet_numbers_that_came_are_asked_of_ours() -> None:
    asked = {name for name, value in vars(QuicPacketNumberWindow).items() if inspect.isfunction(value)}
    assert asked == {"__init__", "add", "__contains__"}
    assert QuicPacketNumberWindow()._size == NUMBERS
    spaces = _connected()._spaces
    kinds: set[type[object]] = {type(space.received_packets) for space in spaces.values()}
    assert kinds == {ReceivedNumbers}
    handshake = spaces[tls.Epoch.HANDSHAKE]
    assert handshake.largest_received_packet in handshake.received_packets
