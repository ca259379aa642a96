"""No bytes of a peer do more than end its own link; what one end writes the other reads as it was."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbridge import registry
from flowbridge.codec import bus_frames as frames
from flowbridge.codec.bus_errors import error_in, error_out
from flowbridge.codec.bus_items import UINT_MAX, envelope_out
from flowbridge.codec.bus_payload import decode as decode_payload
from flowbridge.codec.bus_payload import encode as encode_payload
from flowbridge.codec.bus_usual import usual_in
from flowbridge.codec.framing import prefix
from flowbridge.envelope import NO_DEADLINE, Envelope, Priority, TraceContext
from flowbridge.errors import DecodeError, FlowbridgeError, RemoteProtocolError
from flowbridge.plan import Policy, Qos
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.conformance.message import message, take_all
from flowbridge.testing.quiet import quiet
from flowbridge.transports.bus_server import BusServer
from flowbridge.transports.uds.bus import UdsEventBus, serve_client

UINT = st.integers(0, UINT_MAX)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
KINDS = sorted(frames.TO_SERVER | frames.TO_CLIENT)
ALL = frames.TO_SERVER | frames.TO_CLIENT
TRACE = TraceContext("00-" + "ab" * 16 + "-" + "cd" * 8 + "-01", "k=v")
ENVELOPES = st.builds(
    Envelope,
    st.just(b""),
    st.sampled_from(Priority),
    st.one_of(st.just(NO_DEADLINE), UINT),
    UINT,
    UINT,
    UINT,
    UINT,
    st.none(),
    st.one_of(st.none(), st.just(TRACE)),
    st.one_of(st.none(), st.dictionaries(TEXT, st.one_of(TEXT, st.integers(-(2**63), 2**63 - 1)), max_size=30)),
)


def seen(envelope: Envelope) -> tuple[object, ...]:
    return tuple(getattr(envelope, name) for name in Envelope.__slots__ if name not in ("payload", "trail"))


@given(ENVELOPES, UINT, TEXT)
def test_an_envelope_crosses_as_it_was_in_deterministic_form(envelope: Envelope, call: int, topic: str) -> None:
    fields = envelope_out(envelope, 1)
    headers = {
        frames.PUB: (frames.pub(call, frames.NOWAIT, topic, fields), 3),
        frames.REQ: (frames.req(call, topic, fields), 2),
        frames.RESP: (frames.resp(call, fields), 1),
        frames.REPLY: (frames.reply(call, envelope, fields), 5),
        frames.DELIVER: (frames.deliver(call, fields), 1),
    }
    for kind, (header, at) in headers.items():
        values = frames.decode(kind, header, b"body", ALL)
        got, codec = frames.envelope_in(values, at)
        assert (seen(got), codec, values[0]) == (seen(envelope), 1, call)
        assert cbor2.dumps(values, canonical=True) == header


@given(st.sampled_from(Policy), st.integers(1, 1000), st.one_of(st.none(), st.sampled_from(Priority)))
def test_a_qos_crosses_as_it_was(policy: Policy, items: int, priority: Priority | None) -> None:
    qos = Qos(policy=policy, capacity_items=items, high_items=items, low_items=items // 2, priority=priority)
    values = frames.decode(frames.CONFIGURE, frames.mixed("a.b", frames.qos_out(qos)), b"", ALL)
    assert frames.qos_in(values[1]) == qos


@given(st.data())
def test_a_usual_header_is_read_as_a_general_decoder_reads_it(data: st.DataObject) -> None:
    number = st.one_of(st.integers(0, 300), st.integers(0, 2**34))
    time_ns = st.one_of(st.just(0), st.just(7 * 10**14), UINT)
    headers = st.one_of(st.none(), st.just({"topic": "_reply.7"}), st.dictionaries(TEXT, TEXT, max_size=2))
    envelope = Envelope(b"", data.draw(st.sampled_from(Priority)), data.draw(st.one_of(st.just(7 * 10**14), UINT)))
    envelope.origin_ns, envelope.sent_ns = data.draw(time_ns), data.draw(time_ns)
    envelope.seq, envelope.headers = data.draw(number), data.draw(headers)
    fields = envelope_out(envelope, data.draw(st.integers(0, 30)))
    kind = data.draw(st.sampled_from([frames.REQ, frames.RESP, frames.DELIVER]))
    call = data.draw(number)
    header = bytearray(frames.req(call, data.draw(TEXT), fields) if kind == frames.REQ else frames.resp(call, fields))
    for _ in range(data.draw(st.integers(0, 2))):  # one that is not as it was written, or none
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(header[: len(header) - data.draw(st.sampled_from([0, 0, 0, 1, 9]))])
    found = usual_in(cut, has_topic=kind == frames.REQ)
    if found is not None:
        assert found == frames.general_in(kind, cut, b"")
    else:
        with suppress(RemoteProtocolError):
            frames.general_in(kind, cut, b"")


@pytest.mark.parametrize("origin_ns", [0, 7 * 10**14])
@pytest.mark.parametrize("seq", [3, 200, 300, 70_000])
def test_what_comes_most_often_is_read_by_hand(origin_ns: int, seq: int) -> None:
    reply = Envelope(b"", Priority.HIGH, 8 * 10**14, origin_ns, 7 * 10**14, headers={"topic": f"_reply.{seq}"}, seq=seq)
    assert usual_in(frames.resp(seq, envelope_out(reply, 0)), has_topic=False) is not None
    assert usual_in(frames.req(seq, "t", envelope_out(Envelope(b"", deadline_ns=8 * 10**14), 0)), has_topic=True)


@given(st.sampled_from(KINDS), st.binary(max_size=80), st.binary(max_size=2))
def test_any_header_is_read_or_refused(kind: int, header: bytes, body: bytes) -> None:
    try:
        values = frames.decode(kind, header, body, ALL)
    except RemoteProtocolError:
        return
    assert header.startswith(cbor2.dumps(values, canonical=True)[:1])


@given(st.sampled_from(KINDS), st.recursive(st.one_of(st.none(), st.booleans(), UINT, TEXT, st.binary()), st.lists))
def test_any_value_is_read_or_refused(kind: int, value: object) -> None:
    try:
        values = frames.decode(kind, cbor2.dumps(value), b"", ALL)
    except RemoteProtocolError:
        return
    assert type(values) is list


@given(st.sampled_from(KINDS), st.binary(min_size=1, max_size=20))
def test_bytes_behind_a_header_are_refused(kind: int, more: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        frames.decode(kind, frames.ack(3, 4) + more, b"", ALL)


@given(st.integers(0, 3), st.binary(max_size=60))
def test_any_payload_is_read_or_refused(codec: int, data: bytes) -> None:
    try:
        decode_payload(codec, data)
    except DecodeError:
        return


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), UINT, TEXT, st.binary()),
        lambda one: st.lists(one) | st.dictionaries(TEXT, one),
    )
)
def test_a_payload_crosses_as_it_was(value: object) -> None:
    codec, data = encode_payload(value)
    assert decode_payload(codec, data) == value


@given(st.lists(st.one_of(UINT, TEXT, st.none()), min_size=5, max_size=5))
def test_any_error_is_read_or_refused(values: list[Any]) -> None:
    try:
        error_in(frames.decode(frames.ERROR, frames.mixed(1, *values), b"", ALL))
    except RemoteProtocolError:
        return


@given(TEXT)
def test_a_foreign_exception_crosses_as_the_root(text: str) -> None:
    error = error_in(frames.decode(frames.ERROR, error_out(1, ValueError(text)), b"", ALL))
    assert type(error) is FlowbridgeError


def conversation() -> list[bytes]:
    """What a client may say, each frame as bytes."""
    fields = envelope_out(message(1), 0)

    def frame(kind: int, header: bytes, body: bytes = b"") -> bytes:
        return prefix(kind, len(header), len(body)) + header + body

    return [
        frame(frames.HELLO, frames.numbers(frames.VERSION)),
        frame(frames.SUB, frames.mixed(0, 0, "t.>", None, "edge", frames.qos_out(Qos()))),
        frame(frames.CONFIGURE, frames.mixed("t.x", frames.qos_out(Qos()))),
        frame(frames.PUB, frames.pub(1, frames.PUBLISH, "t.a", fields), b"1"),
        frame(frames.PUB, frames.pub(2, frames.NOWAIT, "t.b", fields), b"2"),
        frame(frames.SETTLE, frames.settle(0, frames.DELIVERED, 0, (0, 1))),
        frame(frames.REQ, frames.req(3, "t.c", fields), b"3"),
        frame(frames.CANCEL, frames.numbers(3)),
        frame(frames.REPLY, frames.reply(4, message(1), fields), b"4"),
        frame(frames.SETTLE, frames.settle(0, frames.DROPPED, 0, (1, 2))),
        frame(frames.UNSUB, frames.numbers(5, 0)),
    ]


async def _after(said: bytes) -> None:
    """Say it to a server; another client must not notice, and the books of the host balance when it is over."""
    clock = ManualClock()
    transport = registry.transport("inproc", clock)
    host = await transport.open_bus()
    server = BusServer(host, clock)
    ours, theirs = socket.socketpair()
    good, its = socket.socketpair()
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    try:
        serve_client(server, theirs)
        serve_client(server, its)
        client = await UdsEventBus.connect(good, clock)
        async with client.subscribe("other") as subscription:
            ours.sendall(said)
            await quiet()
            await client.publish("other", message(7))
            assert await take_all(subscription) == [7]
        ours.close()
        await quiet()
        assert server.peers == 1
        await client.aclose()
        for edge, books in host.books().items():
            assert books.balances, edge
            assert not books.in_flight, edge
        assert not failures
    finally:
        ours.close()
        await server.aclose()
        await transport.aclose()
    assert not failures


def test_the_conversation_itself_is_in_order() -> None:
    asyncio.run(_after(b"".join(conversation())))


@given(st.data())
def test_a_mutated_conversation_ends_only_its_own_link(data: st.DataObject) -> None:
    said = conversation()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(said) - 1))
        match data.draw(st.integers(0, 3)):
            case 0:
                said.insert(at, data.draw(st.binary(max_size=10)))
            case 1:
                said[at], said[0] = said[0], said[at]
            case 2:
                said.append(said[at])
            case _:
                frame = bytearray(said[at] or b"\0")
                frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
                said[at] = bytes(frame)
    asyncio.run(_after(b"".join(said)))


@given(st.data())
def test_a_client_is_only_broken_by_what_its_host_sends(data: st.DataObject) -> None:
    fields = envelope_out(message(1), 0)
    choices = [
        (frames.HELLO_ACK, frames.mixed(1, True), b""),
        (frames.SUB_ACK, frames.mixed(0, "e", frames.qos_out(Qos())), b""),
        (frames.DELIVER, frames.deliver(0, fields), b"1"),
        (frames.BOOKS, frames.mixed(0, 1, 1, 0, 0, {"abort": 2}), b""),
        (frames.OFFER, frames.mixed(0, "t", None, True), b""),
        (frames.LIMIT, frames.numbers(0, 1, 1, 1, 1), b""),
        (frames.RETRACT, frames.numbers(0), b""),
        (frames.ACK, frames.ack(1, 1), b""),
        (frames.RESP, frames.resp(1, fields), b"1"),
        (frames.ERROR, error_out(1, DecodeError("no")), b""),
    ]
    picked = data.draw(st.lists(st.sampled_from(choices), min_size=1, max_size=8))
    said = bytearray(b"".join(prefix(kind, len(header), len(body)) + header + body for kind, header, body in picked))
    if data.draw(st.booleans()):
        said[data.draw(st.integers(0, len(said) - 1))] = data.draw(st.integers(0, 255))

    async def run() -> None:
        failures: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        ours, theirs = socket.socketpair()
        meeting = asyncio.create_task(UdsEventBus.connect(ours, ManualClock()))
        await quiet()
        greeting = prefix(frames.HELLO_ACK, 3, 0) + frames.mixed(1, True)
        theirs.sendall(greeting)
        client = await meeting
        calls: list[asyncio.Task[Any]] = [
            asyncio.create_task(client.subscribe("t").__aenter__()),
            asyncio.create_task(client.publish("t", message(1))),
        ]
        await quiet()
        theirs.sendall(said)
        await quiet()
        theirs.close()
        await quiet()
        outcomes: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
        assert all(not isinstance(one, Exception) or isinstance(one, FlowbridgeError) for one in outcomes)
        await client.aclose()
        assert all(books.balances for books in client.books().values())
        assert not failures

    asyncio.run(run())
