"""Two engines over a bad link: what was written arrives, once, in order and whole."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quic_link import ENGINES, Link, Weather, settings_of

from flowbridge.transports.quic.engine import Closed, StreamData

if TYPE_CHECKING:
    from flowbridge.transports.quic.engine import Engine
    from flowbridge.transports.quic.settings import EngineName

WEATHERS = st.builds(
    Weather,
    delay=st.floats(0.0001, 0.1),
    jitter=st.floats(0.0, 0.05),
    loss=st.floats(0.0, 0.25),
    repeat=st.floats(0.0, 0.3),
    rate=st.one_of(st.none(), st.floats(50_000, 5_000_000)),
)
SIZES = st.lists(st.integers(0, 40_000), min_size=1, max_size=5)


@pytest.mark.parametrize("engine", ENGINES)
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(
    weather=WEATHERS,
    seed=st.integers(0, 2**32),
    sizes=SIZES,
    urgencies=st.lists(st.integers(0, 4), min_size=5, max_size=5),
    window=st.integers(16 * 1024, 128 * 1024),
    datagram=st.integers(1_200, 16_300),
    congestion=st.sampled_from(["reno", "cubic", "fb-bdp"]),
    from_server=st.booleans(),
    greed=st.integers(500, 40_000),
)
def test_every_stream_arrives_whole_whatever_the_link_does(
    weather: Weather,
    seed: int,
    sizes: list[int],
    urgencies: list[int],
    window: int,
    datagram: int,
    congestion: str,
    from_server: bool,
    greed: int,
    engine: EngineName,
) -> None:
    changes = {
        "stream_window_bytes": window,
        "connection_window_bytes": 2 * window,
        "datagram_bytes": datagram,
        "congestion": congestion if engine == "aioquic" else "cubic",
        "engine": engine,
        "handshake_ns": 60 * 10**9,
        "idle_ns": 600 * 10**9,
    }
    if engine == "qh3":  # whose handshake fails now and then when a quarter of it is lost: 1 in 40 in a minute
        weather = replace(weather, loss=min(weather.loss, 0.1))
    link = Link(settings_of("client", **changes), settings_of("server", **changes), weather=weather, seed=seed)
    link.connect()
    assert link.server is not None
    writer: Engine = link.server if from_server else link.client
    reader: Engine = link.client if from_server else link.server
    side = "client" if from_server else "server"
    chance = random.Random(seed)
    contents: dict[int, bytes] = {}
    for size, urgency in zip(sizes, urgencies, strict=False):
        stream = writer.open(unidirectional=chance.random() < 0.5, urgency=urgency)
        assert stream is not None
        contents[stream] = chance.randbytes(size)
        writer.write(stream, contents[stream][: size // 2])
        writer.write(stream, contents[stream][size // 2 :], fin=True)
    owed: dict[int, int] = {}
    seen = 0
    while not all(link.ended(side, stream) for stream in contents):
        link.step(link.now + 0.01)
        assert link.now < 3_000
        for event in link.of(side)[seen:]:
            if isinstance(event, StreamData):
                owed[event.stream] = owed.get(event.stream, 0) + len(event.data)
                assert sum(owed.values()) <= 2 * window or not reader.caps.receive_backpressure
        seen = len(link.of(side))
        for stream, size in owed.items():
            reader.consume(stream, min(size, greed))
            owed[stream] -= min(size, greed)
    assert {stream: link.data(side, stream) for stream in contents} == contents
    assert not link.has(Closed, "client")
    assert not link.has(Closed, "server")
