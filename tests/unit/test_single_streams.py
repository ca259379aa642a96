"""Streams of one message each, by hand: what a peer may keep here, and how many are sent at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from flowbridge.codec.codes import Code
from flowbridge.codec.session_frames import whole
from flowbridge.codec.session_words import Single
from flowbridge.envelope import NO_DEADLINE
from flowbridge.errors import RemoteProtocolError
from flowbridge.limits import SINGLE_BYTES_MAX, SINGLES_MAX
from flowbridge.transports.quic.single_streams import SingleStreams

if TYPE_CHECKING:
    from collections.abc import Callable


class Engine:
    """What such streams use of an engine."""

    def __init__(self) -> None:
        self.next = 2
        self.sent: dict[int, bytes] = {}
        self.deadlines: dict[int, float | None] = {}
        self.resets: list[tuple[int, int]] = []
        self.consumed = 0

    def open(self, *, unidirectional: bool, urgency: int) -> int:
        assert unidirectional
        del urgency
        self.next += 4
        return self.next

    def write(self, stream: int, data: bytes, fin: bool) -> int:
        assert fin
        self.sent[stream] = data
        return 0

    def prioritize(self, stream: int, urgency: int, deadline: float | None) -> None:
        del urgency
        self.deadlines[stream] = deadline

    def reset(self, stream: int, code: int) -> None:
        self.resets.append((stream, code))

    def consume(self, stream: int, size_bytes: int) -> None:
        del stream
        self.consumed += size_bytes


def with_streams(check: Callable[[SingleStreams, Engine], None]) -> None:
    async def run() -> None:
        engine: Any = Engine()
        check(SingleStreams(engine, lambda: None), engine)

    asyncio.run(run())


def test_a_message_comes_once_it_is_whole_however_it_is_cut() -> None:
    def check(streams: SingleStreams, engine: Engine) -> None:
        data = whole(Single(7)) + b"message"
        for byte in data:
            assert streams.arrived(6, bytes((byte,)), False) is None
        assert streams.arrived(6, b"", True) == (7, b"message")
        assert streams.arrived(10, data, True) == (7, b"message")
        assert engine.consumed == 2 * len(data)

    with_streams(check)


def test_no_more_is_kept_of_what_is_not_whole_than_may_be_sent_at_once() -> None:
    def check(streams: SingleStreams, engine: Engine) -> None:
        data = whole(Single(7)) + bytes(SINGLE_BYTES_MAX)
        for number in range(SINGLES_MAX):
            streams.arrived(4 * number, data, False)
        with pytest.raises(RemoteProtocolError, match="not whole") as caught:
            streams.arrived(4 * SINGLES_MAX, data, False)
        assert caught.value.code == Code.LIMIT

    with_streams(check)


def test_what_was_given_up_by_the_peer_is_not_kept() -> None:
    def check(streams: SingleStreams, engine: Engine) -> None:
        data = whole(Single(7)) + bytes(SINGLE_BYTES_MAX)
        for number in range(3 * SINGLES_MAX):
            streams.arrived(4 * number, data, False)
            streams.drop(4 * number)

    with_streams(check)


def test_so_many_are_sent_until_some_are_done() -> None:
    def check(streams: SingleStreams, engine: Engine) -> None:
        sent = [streams.send(7, b"x", (2, 5 * 10**9)) for _ in range(SINGLES_MAX)]
        assert None not in sent
        assert streams.send(7, b"x", (2, NO_DEADLINE)) is None
        assert sent[0] is not None
        streams.done(sent[0])
        last = streams.send(7, b"y", (2, NO_DEADLINE))
        assert last is not None
        assert engine.sent[last] == whole(Single(7)) + b"y"
        assert engine.deadlines == dict.fromkeys([one for one in sent if one is not None], 5.0)

    with_streams(check)


def test_resets_stay_below_what_a_peer_puts_up_with() -> None:
    def check(streams: SingleStreams, engine: Engine) -> None:
        for number in range(1_000):
            streams.give_up(number)
        assert 50 <= len(engine.resets) <= 150
        assert {code for _, code in engine.resets} == {Code.EXPIRED_IN_FLIGHT}

    with_streams(check)
