"""How often an engine asks whether a silent peer is there again."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from quic_link import CLIENT, SERVER, Link, Weather

from flowbridge.limits import QUIC_IDLE_NS, QUIC_PROBE_NS
from flowbridge.transports.quic.engine import Closed

if TYPE_CHECKING:
    from flowbridge.transports.quic.engine import Address

pytestmark = pytest.mark.usefixtures("quic_engine")

PROBE_S = QUIC_PROBE_NS / 1e9
FULL = bytes(300_000)
"""More than the window takes."""


def cut(link: Link, side: Address) -> list[float]:
    """Let nothing through; returns when one side tries, once for each moment."""
    tried: list[float] = []

    def lose(_: bytes, source: Address) -> None:
        if source == side and (not tried or link.now - tried[-1] > 0.01):
            tried.append(link.now)

    link.filter = lose
    return tried


def gaps(times: list[float]) -> list[float]:
    return [later - one for one, later in pairwise(times)]


@pytest.mark.parametrize("writes_all_the_time", [False, True])
@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("cut_s", [1.0, 4.0, 12.0])
def test_a_link_that_is_back_is_noticed_at_once_though_the_window_is_full(
    cut_s: float, side: str, writes_all_the_time: bool
) -> None:
    link = Link(weather=Weather(delay=0.01)).connect()
    stream = link.client.open()
    assert stream is not None
    link.client.write(stream, b"?")
    assert link.run(lambda: bool(link.data("server", stream)))
    assert link.server is not None
    sender, other = (link.client, "server") if side == "client" else (link.server, "client")
    sender.write(stream, bytes(50_000))
    link.run(seconds=1.0)
    came = len(link.data(other, stream))
    tried = cut(link, CLIENT if side == "client" else SERVER)
    sender.write(stream, FULL)
    for _ in range(round(cut_s / 0.2)):
        if writes_all_the_time:
            sender.write(stream, b"more")
        link.run(seconds=0.2)
    # The first of qh3 are those of the RFC, twice as long each; nothing is sent for that long only once.
    assert max(gaps(tried)) <= PROBE_S + 0.01
    assert len(tried) <= 2 * cut_s / PROBE_S + 6
    link.filter = lambda data, _: data
    assert link.run(lambda: len(link.data(other, stream)) > came, seconds=PROBE_S + 0.05)
    assert link.run(lambda: len(link.data(other, stream)) >= came + len(FULL), seconds=10)


def test_probes_are_never_closer_than_the_round_trip() -> None:
    link = Link(weather=Weather(delay=0.5)).connect()
    stream = link.client.open()
    assert stream is not None
    link.client.write(stream, bytes(1_000))
    link.run(seconds=5.0)
    tried = cut(link, CLIENT)
    link.client.write(stream, bytes(1_000))
    link.run(seconds=20.0)
    assert len(tried) > 5
    assert min(gaps(tried)[2:]) > 1.0


def test_who_dials_nobody_waits_twice_as_long_each_time() -> None:
    link = Link()
    tried = cut(link, CLIENT)
    link.run(seconds=20.0)
    waits = gaps(tried)
    assert 3 <= len(waits) <= 8
    assert all(later >= 1.9 * one for one, later in pairwise(waits))


def test_probes_keep_no_connection_alive() -> None:
    link = Link().connect()
    stream = link.client.open()
    assert stream is not None
    tried = cut(link, CLIENT)
    link.client.write(stream, FULL)
    assert link.run(lambda: link.has(Closed, "client"), seconds=QUIC_IDLE_NS / 1e9 + 1)
    assert link.closed("client").is_timeout
    after = len(tried)
    link.run(seconds=5.0)
    assert len(tried) == after


def test_a_round_trip_that_became_longer_than_the_probes_is_learned() -> None:
    link = Link(weather=Weather(delay=0.01)).connect()
    stream = link.client.open()
    assert stream is not None
    link.client.write(stream, b"?")
    link.run(seconds=1.0)
    link.weather.delay = 0.5
    for _ in range(10):
        link.client.write(stream, b"?")
        link.run(seconds=1.0)
    assert link.client.stats().rtt > 0.5
    before = link.client.stats().packets_sent
    link.client.write(stream, b"?")
    link.run(seconds=3.0)
    assert link.client.stats().packets_sent - before <= 4, "what is on its way is not sent again"
