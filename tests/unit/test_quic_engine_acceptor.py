"""The server's side of a socket: how many may come, and what strangers are answered."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any, cast

import pytest
from quic_link import CLIENT, SERVER, Link, Weather, settings_of

from flowbridge.transports.quic.aio.reset import ResetTokens, is_reset, reset_packet
from flowbridge.transports.quic.engine import Closed, Connected, StreamData
from flowbridge.transports.quic.engines import make_acceptor, make_client

if TYPE_CHECKING:
    from flowbridge.transports.quic.aio.acceptor import AioquicAcceptor
    from flowbridge.transports.quic.aio.engine import AioquicEngine
    from flowbridge.transports.quic.engine import Address

pytestmark = pytest.mark.usefixtures("quic_engine")
only_first_token = pytest.mark.aioquic("qh3 chooses the tokens of all but the first connection id itself")

KEY = b"k" * 32


def _acceptor(**changes: Any) -> AioquicAcceptor:
    return cast("AioquicAcceptor", make_acceptor(settings_of("server", **changes)))


def _initial(now: float = 0.0) -> bytes:
    """The first datagram of a client that has not been seen."""
    return make_client(settings_of("client"), SERVER, now).transmit(now)[0][0]


def _host(number: int) -> Address:
    return f"10.1.{number // 250}.{number % 250 + 1}", 4000


def test_handshakes_above_the_half_open_limit_have_to_come_again_with_a_token() -> None:
    acceptor = _acceptor(half_open=2)
    assert acceptor.receive(_initial(), _host(1), 0.0) is not None
    assert acceptor.receive(_initial(), _host(2), 0.0) is not None
    assert acceptor.receive(_initial(), _host(3), 0.0) is None
    ((packet, address),) = acceptor.transmit(0.0)
    assert address == _host(3)
    assert packet[0] & 0xF0 == 0xF0  # a Retry of version 1
    assert (acceptor.connections, acceptor.counts.retried) == (2, 1)


def test_a_client_that_is_asked_for_a_token_connects() -> None:
    link = Link(server=settings_of("server", half_open=0)).connect()
    assert link.acceptor.counts.retried >= 1
    assert link.acceptor.counts.accepted == 1
    stream = link.client.open()
    assert stream is not None
    link.client.write(stream, b"x", fin=True)
    assert link.run(lambda: link.ended("server", stream))


@pytest.mark.parametrize("wrong", ["address", "time"])
def test_a_token_of_another_address_or_of_long_ago_is_refused(wrong: str) -> None:
    acceptor = _acceptor(half_open=0)
    client = make_client(settings_of("client"), SERVER, 0.0)
    acceptor.receive(client.transmit(0.0)[0][0], CLIENT, 0.0)
    ((retry, _),) = acceptor.transmit(0.0)
    client.receive(retry, SERVER, 0.0)
    second = client.transmit(0.0)[0][0]
    address, now = (("10.9.9.9", 1), 0.0) if wrong == "address" else (CLIENT, 31.0)
    assert acceptor.receive(second, address, now) is None
    ((answer, _),) = acceptor.transmit(now)
    client.receive(answer, SERVER, now)
    (closed,) = [event for event in client.events() if isinstance(event, Closed)]
    assert (closed.code, closed.is_remote, closed.reason) == (0xB, True, "INVALID_TOKEN")
    assert acceptor.receive(second, CLIENT, 29.0) is not None


def test_connections_beyond_the_cap_are_refused_with_a_code() -> None:
    acceptor = _acceptor(connections=3, connections_per_host=3, half_open=3)
    engines = [acceptor.receive(_initial(), _host(n), 0.0) for n in range(3)]
    client = make_client(settings_of("client"), SERVER, 0.0)
    first = client.transmit(0.0)[0][0]
    acceptor.receive(first, _host(3), 0.0)
    ((retry, _),) = acceptor.transmit(0.0)
    client.receive(retry, SERVER, 0.0)
    second = client.transmit(0.0)[0][0]
    assert acceptor.receive(second, _host(3), 0.0) is None
    ((answer, _),) = acceptor.transmit(0.0)
    client.receive(answer, SERVER, 0.0)
    (closed,) = [event for event in client.events() if isinstance(event, Closed)]
    assert (closed.code, closed.is_remote, closed.reason) == (0x2, True, "CONNECTION_REFUSED")
    assert engines[0] is not None
    acceptor.forget(engines[0])
    assert acceptor.connections == 2
    assert acceptor.receive(second, _host(3), 0.0) is not None


def test_one_host_has_no_more_than_its_share() -> None:
    acceptor = _acceptor(connections_per_host=2)
    address: list[Address] = [("10.1.1.1", port) for port in range(3)]
    engines = [acceptor.receive(_initial(), where, 0.0) for where in address]
    assert [engine is not None for engine in engines] == [True, True, False]
    assert acceptor.counts.refused == 1
    assert acceptor.receive(_initial(), ("10.1.1.2", 1), 0.0) is not None
    assert engines[0] is not None
    acceptor.forget(engines[0])
    acceptor.forget(engines[0])
    assert acceptor.receive(_initial(), ("10.1.1.1", 9), 0.0) is not None
    assert acceptor.receive(_initial(), ("10.1.1.1", 10), 0.0) is None


def test_handshakes_beyond_the_rate_are_ignored_for_a_while() -> None:
    acceptor = _acceptor(handshakes_per_second=3)
    took = [acceptor.receive(_initial(), _host(n), 100.0) is not None for n in range(5)]
    assert took == [True] * 3 + [False] * 2
    assert acceptor.transmit(100.0) == []
    assert acceptor.receive(_initial(), _host(9), 100.4) is not None


def test_a_handshake_that_stops_half_way_is_over_in_time() -> None:
    link = Link()
    link.filter = lambda data, source: None if source == CLIENT and link.server is not None else data
    assert link.run(lambda: link.has(Closed, "server"), seconds=10)
    closed = link.closed("server")
    assert (closed.is_timeout, closed.is_remote, closed.reason) == (True, False, "the handshake took longer than 5 s")
    assert 5.0 <= link.now - 1000.0 < 5.1
    assert link.server is not None
    link.acceptor.forget(link.server)
    assert link.acceptor.connections == 0
    assert (link.acceptor._by_id, link.acceptor._hosts, link.acceptor._half_open) == ({}, {}, set())


def test_a_handshake_that_is_complete_needs_no_hurry() -> None:
    link = Link().connect()
    link.run(seconds=8)
    assert not link.has(Closed, "server")


def test_an_initial_that_does_not_decrypt_leaves_nothing_behind() -> None:
    acceptor = _acceptor()
    damaged = bytearray(_initial())
    damaged[200] ^= 1
    assert acceptor.receive(bytes(damaged), CLIENT, 0.0) is None
    assert acceptor.connections == 0
    assert acceptor.counts.dropped == 1


def test_other_versions_are_told_ours() -> None:
    acceptor = _acceptor()
    unknown = b"\xc0" + (0x1A2A3A4A).to_bytes(4, "big") + b"\x08" + b"d" * 8 + b"\x04" + b"s" * 4 + bytes(1200)
    assert acceptor.receive(unknown, CLIENT, 0.0) is None
    ((answer, address),) = acceptor.transmit(0.0)
    assert address == CLIENT
    assert answer[1:5] == bytes(4)
    assert answer[5:19] == b"\x04" + b"s" * 4 + b"\x08" + b"d" * 8
    assert (1).to_bytes(4, "big") in answer[18:]
    assert acceptor.receive(answer + bytes(1200), CLIENT, 0.0) is None
    assert acceptor.receive(unknown[:1199], CLIENT, 0.0) is None
    assert acceptor.transmit(0.0) == []


def test_what_strangers_send_never_raises_and_never_stays() -> None:
    acceptor = _acceptor()
    chance = random.Random(4)
    for _ in range(3_000):
        size = chance.choice((0, 1, 5, 6, 7, 20, 43, 1200, 1300))
        data = bytearray(chance.randbytes(size))
        if size > 6 and chance.random() < 0.7:
            data[0] |= 0xC0
            data[1:5] = chance.choice((b"\0\0\0\1", b"\x6b\x33\x43\xcf", b"\0\0\0\0", b"\0\0\0\2"))
            data[5] = chance.choice((0, 8, 20, 21, 255))
        assert acceptor.receive(bytes(data), CLIENT, 0.0) is None
        assert acceptor.transmit(0.0) is not None
    assert acceptor.connections == 0


# --- stateless reset --------------------------------------------------------------------------------------------------


def _restart(link: Link, key: bytes | None = KEY) -> None:
    """The server's process is another one now; it knows nothing but perhaps its key."""
    link.acceptor = _acceptor(reset_key=key)
    link.server = None


def test_a_client_learns_with_one_packet_that_the_server_was_restarted() -> None:
    link = Link(server=settings_of("server", reset_key=KEY)).connect()
    link.run(seconds=1)
    _restart(link)
    before = link.now
    link.client.ping()
    assert link.run(lambda: link.has(Closed, "client"), seconds=1)
    closed = link.closed("client")
    assert (closed.code, closed.is_reset, closed.is_remote, closed.is_timeout) == (0, True, True, False)
    assert link.now - before == pytest.approx(2 * link.weather.delay)


def test_a_reset_with_another_key_is_nothing_to_a_client() -> None:
    link = Link(server=settings_of("server", reset_key=KEY)).connect()
    link.run(seconds=1)
    _restart(link, b"x" * 32)
    link.client.ping()
    link.run(seconds=1)
    assert link.acceptor.counts.resets > 0
    assert not link.has(Closed, "client")


def test_a_forged_reset_and_one_from_elsewhere_are_ignored() -> None:
    link = Link(server=settings_of("server", reset_key=KEY)).connect()
    link.run(seconds=1)
    assert link.server is not None
    token = ResetTokens(KEY).token(link.server.connection_id)
    for forged in (os.urandom(42), b"\x40" + os.urandom(20), b"\xc0" + os.urandom(20) + token, b"\x40" + token, b""):
        link.client.receive(forged, SERVER, link.now)
    link.client.receive(b"\x40" + os.urandom(25) + token, ("10.6.6.6", 4433), link.now)
    assert link.client.events() == []
    link.client.receive(b"\x40" + os.urandom(25) + token, SERVER, link.now)
    (closed,) = link.client.events()
    assert isinstance(closed, Closed)
    assert closed.is_reset


@only_first_token
def test_every_connection_id_a_server_gives_out_has_the_token_of_its_key() -> None:
    link = Link(server=settings_of("server", reset_key=KEY)).connect()
    link.run(seconds=1)
    tokens = ResetTokens(KEY)
    connection = link.client.connection
    known = [connection._peer_cid, *connection._peer_cid_available]
    assert len(known) == 8
    assert all(entry.stateless_reset_token == tokens.token(entry.cid) for entry in known)


def _changed() -> Link:
    """A client that uses the second connection id of its server."""
    link = Link(server=settings_of("server", reset_key=KEY)).connect()
    link.run(seconds=1)
    link.client.connection.change_connection_id()
    stream = link.client.open()
    assert stream is not None
    link.client.write(stream, b"x", fin=True)
    assert link.run(lambda: link.ended("server", stream))
    link.run(seconds=1)
    return link


def test_a_change_of_connection_id_is_followed() -> None:
    assert not _changed().has(Closed, "client")


@only_first_token
def test_a_changed_connection_id_is_reset_by_its_own_token() -> None:
    link = _changed()
    _restart(link)
    link.client.ping()
    assert link.run(lambda: link.has(Closed, "client"), seconds=1)
    assert link.closed("client").is_reset


def test_unknown_short_packets_are_answered_a_hundred_times_a_second() -> None:
    acceptor = _acceptor(reset_key=KEY)
    for _ in range(300):
        acceptor.receive(b"\x40" + os.urandom(60), CLIENT, 50.0)
    assert len(acceptor.transmit(50.0)) == 100
    for _ in range(300):
        acceptor.receive(b"\x40" + os.urandom(60), CLIENT, 50.5)
    assert len(acceptor.transmit(50.5)) == 50
    assert acceptor.counts.resets == 150


@pytest.mark.parametrize(("answered", "size"), [(21, None), (22, 21), (43, 42), (44, 42), (1200, 42)])
def test_a_reset_is_shorter_than_what_it_answers(answered: int, size: int | None) -> None:
    packet = reset_packet(b"t" * 16, answered)
    assert (None if packet is None else len(packet)) == size
    if packet is not None:
        assert packet[0] & 0xC0 == 0x40
        assert is_reset(packet, [None, b"", b"u" * 16, b"t" * 16])
        assert not is_reset(packet, [None, b"", b"u" * 16])


def test_a_client_that_moves_keeps_its_connection() -> None:
    """Its packets come from another port; the server follows by the connection id."""
    link = Link().connect()
    link.run(seconds=1)
    moved: Address = ("10.0.0.2", 6666)
    stream = link.client.open()
    assert stream is not None
    link.client.write(stream, b"x", fin=True)
    server = link.server
    assert server is not None
    for _ in range(4):  # one that is careful first asks whether it is really there
        for data, _ in link.client.transmit(link.now):
            assert link.acceptor.receive(data, moved, link.now) is server
        sent = server.transmit(link.now)
        for data, _ in sent:
            link.client.receive(data, SERVER, link.now)
        link.now += 0.03
        for engine in (link.client, server):
            engine.on_timer(link.now)
    assert server.peer_address == moved
    server.ping()
    assert {target for _, target in server.transmit(link.now)} == {moved}
    assert StreamData(stream, b"x", True) in server.events()


def test_many_clients_are_told_apart() -> None:
    acceptor = _acceptor()
    clients = {_host(n): make_client(settings_of("client"), SERVER, 0.0) for n in range(20)}
    engines: dict[Address, AioquicEngine] = {}
    now = 0.0
    for _ in range(6):
        now += 0.01
        for address, client in clients.items():
            for data, _ in client.transmit(now):
                engine = acceptor.receive(data, address, now)
                assert engines.setdefault(address, cast("AioquicEngine", engine)) is engine
        for engine in engines.values():
            for data, address in engine.transmit(now):
                clients[address].receive(data, SERVER, now)
    assert len(set(engines.values())) == acceptor.connections == 20
    assert all(any(isinstance(e, Connected) for e in engine.events()) for engine in engines.values())


def test_a_handshake_survives_a_bad_link() -> None:
    for seed in range(5):
        Link(weather=Weather(loss=0.3, repeat=0.1, jitter=0.01), seed=seed).connect()
