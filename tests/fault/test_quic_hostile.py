"""Peers with a good certificate that break the rules: each ends in its code and disturbs nobody else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from quic_hostile import LIMITS, Evil, Scene, attacked, frame

from flowbridge.codec.codes import Code
from flowbridge.codec.framing import prefix
from flowbridge.codec.session_frames import grease, whole
from flowbridge.codec.session_words import (
    ACCEPT,
    ACK,
    HELLO,
    OPEN,
    PING,
    Accept,
    Ack,
    Auth,
    Goaway,
    Open,
    Ping,
    Pong,
    Single,
    StreamKind,
)
from flowbridge.limits import GREETING_S, SINGLE_BYTES_MAX
from flowbridge.transports.quic.engine import Closed
from flowbridge.transports.quic.session_state import SessionState

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


# --- greetings ------------------------------------------------------------------------------------------------------


async def no_greeting(evil: Evil, scene: Scene) -> None:
    began = asyncio.get_running_loop().time()
    await evil.closed()
    assert GREETING_S <= asyncio.get_running_loop().time() - began <= GREETING_S + 1


async def late_greeting(evil: Evil, scene: Scene) -> None:
    await asyncio.sleep(GREETING_S + 0.2)
    assert await evil.closed()
    evil.wire.engine.write(0, whole(evil.hello()))


async def greeting_byte_by_byte(evil: Evil, scene: Scene) -> None:
    evil.open()
    for byte in whole(evil.hello()):
        evil.control(bytes((byte,)))
        await asyncio.sleep(0.5)


async def greets_twice(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.control(whole(evil.hello(epoch=2)))


async def wrong_version(evil: Evil, scene: Scene) -> None:
    evil.open()
    evil.control(frame(HELLO, [2, 0], "something else"))


async def greeting_of_another_node(evil: Evil, scene: Scene) -> None:
    evil.open()
    evil.control(whole(evil.hello(node="edge")))


async def session_of_another_node(evil: Evil, scene: Scene) -> None:
    """It knows the identifier of the honest session, and its own name."""
    honest = scene.session
    evil.open()
    evil.control(whole(evil.hello(session=honest.identifier, epoch=honest.epoch + 1, incarnation=1)))


async def unknown_session(evil: Evil, scene: Scene) -> None:
    evil.open()
    evil.control(whole(evil.hello(epoch=9)))


async def stale_epoch(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    again = await Evil().connect()
    again.open()
    again.control(whole(again.hello(epoch=1)))
    closed = await again.closed()
    assert closed.code == Code.SUPERSEDED
    assert scene.core.session_of("evil").epoch == 1
    evil.control(whole(Goaway(Code.UNEXPECTED, 0, 0)), frame(0x0, 1))  # the first ends nothing


async def impossible_counts(evil: Evil, scene: Scene) -> None:
    """It has what was never sent, on a stream that is and on one that never was."""
    await evil.greet()
    evil.stream(0, rest=b"some")
    await evil.until(lambda: bool(evil.data(4)))
    again = await Evil().connect()
    again.open()
    again.control(whole(again.hello(epoch=2, streams=((0, 1000),))))
    assert (await again.closed()).code == Code.UNEXPECTED
    assert scene.core.echoes["evil", 0].lost != []
    assert not any(one is scene.core.ended[0][0] for one in scene.core.server.sessions)
    raise Over(await evil.closed())


async def counts_of_a_stream_that_was_never_opened(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.control(whole(Ack(((1, 5),))))


async def ping_as_greeting(evil: Evil, scene: Scene) -> None:
    evil.open()
    evil.control(whole(Ping(1, 1, ())))


async def open_before_greeting(evil: Evil, scene: Scene) -> None:
    evil.open()
    evil.stream(0)


async def proof_of_identity(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.control(whole(Auth("token")))


# --- streams --------------------------------------------------------------------------------------------------------


async def open_of_our_own_number(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.stream(1)


async def reopened_as_another(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.stream(0)
    await asyncio.sleep(0.1)
    evil.write(evil.open(), whole(Open(0, StreamKind.BUS, "another", b"", 0)))


async def opened_twice_at_once(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.stream(0)
    evil.stream(0)


async def accept_of_what_nobody_opened(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.write(evil.open(), whole(Accept(0, 0)))


async def unidirectional(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.write(evil.open(unidirectional=True), whole(Open(0, StreamKind.ROUTE, "", b"", 0)))


async def unidirectional_too_large(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.write(evil.open(unidirectional=True), whole(Single(0)) + bytes(SINGLE_BYTES_MAX + 16))


async def unidirectional_that_ends_within_its_first_frame(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.write(evil.open(unidirectional=True), whole(Single(0))[:-1], fin=True)


async def unidirectional_that_are_reset(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    for _ in range(1_000):
        number = evil.open(unidirectional=True)
        evil.write(number, whole(Single(0)))
        evil.wire.engine.reset(number, 5)


async def end_within_first_frame(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.write(evil.open(), whole(Open(0, StreamKind.ROUTE, "x", b"", 0))[:-1], fin=True)


async def first_frame_byte_by_byte(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    number = evil.open()
    for byte in whole(Open(0, StreamKind.ROUTE, "x" * 200, b"", 0)):
        if any(isinstance(event, Closed) for event in evil.events):
            return
        evil.write(number, bytes((byte,)))
        await asyncio.sleep(0.3)


async def control_byte_by_byte(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    began = asyncio.get_running_loop().time()
    for byte in grease(7, bytes(4000)):
        if any(isinstance(event, Closed) for event in evil.events):
            break
        evil.control(bytes((byte,)))
        await asyncio.sleep(0.3)
    assert 9 < asyncio.get_running_loop().time() - began < 14


async def gap(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.stream(0, from_bytes=10)


async def too_many_streams(evil: Evil, scene: Scene) -> None:
    await evil.greet(limits=LIMITS._replace(streams_max=16))
    for number in range(17):
        evil.stream(2 * number)


async def long_label(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.write(evil.open(), frame(OPEN, 0, 3, "x" * 257, b"", 0))


async def long_key(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.write(evil.open(), frame(OPEN, 0, 3, "", bytes(33), 0))


async def first_frame_with_a_body(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.write(evil.open(), frame(OPEN, 0, 3, "", b"", 0, body=b"x"))


async def huge_first_frame(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.write(evil.open(), prefix(OPEN, 1 << 40, 0))


async def negative_number(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.write(evil.open(), frame(ACCEPT, -1, 0))


# --- the control stream ---------------------------------------------------------------------------------------------


async def ack_of_what_was_never_sent(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    quic = evil.stream(0, rest=b"some")
    await evil.until(lambda: evil.data(quic).endswith(b"some"))
    evil.control(whole(Ack(((0, 10**6),))))


async def pong_of_no_ping(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.control(whole(Pong(10**6, 1, 1, 1, ())))


async def unknown_even_frame(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.control(frame(0x40))


async def control_ends(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.write(0, b"", fin=True)


async def control_is_reset(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.wire.engine.reset(0, 1)
    evil.wire.touched()


async def huge_control_frame(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.control(prefix(PING, 40_000, 0))


async def huge_skipped_frame(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.control(prefix(0x41, 0, 1 << 30))


async def integer_that_is_too_long(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.control(b"\x40\x08")


async def bomb_of_lists(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    header = b"\x81" * 4000 + b"\x80"
    evil.control(prefix(PING, len(header), 0) + header)


async def acks_out_of_order(evil: Evil, scene: Scene) -> None:
    await evil.greet()
    evil.control(frame(ACK, [[4, 1], [2, 1]]))


class Over(Exception):
    """The attack has looked at its end itself."""

    def __init__(self, closed: Closed) -> None:
        self.closed = closed


ENDS: list[tuple[Callable[[Evil, Scene], Coroutine[Any, Any, None]], Code]] = [
    (no_greeting, Code.FRAME),
    (late_greeting, Code.FRAME),
    (greeting_byte_by_byte, Code.FRAME),
    (greets_twice, Code.UNEXPECTED),
    (wrong_version, Code.VERSION),
    (greeting_of_another_node, Code.FORBIDDEN),
    (session_of_another_node, Code.STATE_LOST),
    (unknown_session, Code.STATE_LOST),
    (stale_epoch, Code.UNEXPECTED),
    (impossible_counts, Code.DRAINED),
    (counts_of_a_stream_that_was_never_opened, Code.UNEXPECTED),
    (ping_as_greeting, Code.UNEXPECTED),
    (open_before_greeting, Code.UNEXPECTED),
    (proof_of_identity, Code.UNEXPECTED),
    (open_of_our_own_number, Code.UNEXPECTED),
    (reopened_as_another, Code.UNEXPECTED),
    (opened_twice_at_once, Code.UNEXPECTED),
    (accept_of_what_nobody_opened, Code.UNEXPECTED),
    (unidirectional, Code.UNEXPECTED),
    (unidirectional_too_large, Code.LIMIT),
    (unidirectional_that_ends_within_its_first_frame, Code.FRAME),
    (unidirectional_that_are_reset, Code.LIMIT),
    (end_within_first_frame, Code.FRAME),
    (first_frame_byte_by_byte, Code.FRAME),
    (control_byte_by_byte, Code.FRAME),
    (gap, Code.GAP),
    (too_many_streams, Code.LIMIT),
    (long_label, Code.CBOR),
    (long_key, Code.CBOR),
    (first_frame_with_a_body, Code.FRAME),
    (huge_first_frame, Code.FRAME),
    (negative_number, Code.CBOR),
    (ack_of_what_was_never_sent, Code.UNEXPECTED),
    (pong_of_no_ping, Code.UNEXPECTED),
    (unknown_even_frame, Code.UNEXPECTED),
    (control_ends, Code.UNEXPECTED),
    (control_is_reset, Code.UNEXPECTED),
    (huge_control_frame, Code.FRAME),
    (huge_skipped_frame, Code.FRAME),
    (integer_that_is_too_long, Code.FRAME),
    (bomb_of_lists, Code.CBOR),
    (acks_out_of_order, Code.CBOR),
]


@pytest.mark.parametrize(("attack", "code"), ENDS, ids=[attack.__name__ for attack, _ in ENDS])
def test_who_breaks_the_rules_is_closed_with_its_code(
    attack: Callable[[Evil, Scene], Coroutine[Any, Any, None]], code: Code
) -> None:
    async def run(evil: Evil, scene: Scene) -> None:
        try:
            await attack(evil, scene)
            closed = await evil.closed()
        except Over as over:
            closed = over.closed
        assert (Code(closed.code), closed.by_application, closed.is_remote) == (code, True, True), closed
        await asyncio.sleep(0.1)
        alive = [one for one in scene.core.server.sessions if one.peer.startswith("evil")]
        assert all(one.state is SessionState.APART for one in alive), "its session is over, or waits"

    attacked(run)
