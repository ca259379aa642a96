"""Acknowledgements that go with what is sent anyway."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from aioquic.tls import Epoch
from quic_link import CLIENT, Link


def _packets(link: Link) -> tuple[int, int]:
    assert link.server is not None
    return link.client.stats().packets_sent, link.server.stats().packets_sent


def _ask(link: Link, stream: int, number: int) -> None:
    """One byte there, and one back as soon as it comes."""
    assert link.server is not None
    link.client.write(stream, b"?")
    assert link.run(lambda: len(link.data("server", stream)) == number)
    link.server.write(stream, b"!")
    assert link.run(lambda: len(link.data("client", stream)) == number)


def test_a_request_and_its_reply_are_a_packet_each_where_the_way_is_long() -> None:
    link = Link().connect()
    stream = link.client.open()
    assert stream is not None
    _ask(link, stream, 1)
    link.run(seconds=1.0)
    before = _packets(link)
    for number in range(2, 22):
        _ask(link, stream, number)
    client, server = (now - was for now, was in zip(_packets(link), before, strict=True))
    assert (client, server) == (20, 20)


def test_an_acknowledgement_waits_for_its_time_where_much_is_written() -> None:
    link = Link().connect()
    assert link.server is not None
    stream = link.client.open()
    assert stream is not None
    _ask(link, stream, 1)
    link.run(seconds=1.0)
    link.server.write(stream, b"!")
    link.flush()
    link.client.write(stream, b"?")
    for data, _ in link.client.transmit(link.now):
        link.server.receive(data, CLIENT, link.now)
    link.server.write(stream, b"!")  # a moment after the last one
    assert link.server.transmit(link.now)
    ack_at = link.server.connection._spaces[Epoch.ONE_RTT].ack_at
    assert ack_at is not None
    assert ack_at > link.now
