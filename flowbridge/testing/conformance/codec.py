"""Clauses of Codec: headers survive, and nothing but a header is read as one."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from flowbridge.envelope import NO_DEADLINE, Envelope, Priority, TraceContext
from flowbridge.errors import DecodeError, EncodeError
from flowbridge.limits import HEADER_BYTES_MAX
from flowbridge.testing.conformance.clause import clause
from flowbridge.testing.conformance.expect import ClauseFailed, equal, holds, raises
from flowbridge.testing.conformance.message import MS

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from flowbridge.contracts import BytesLike, Codec

    CodecMaker: TypeAlias = "Callable[[], Codec]"

NOW_NS: Final = 5_000_000_000_000
FAR_NS: Final = 77_000_000_123
"""The clock of the other machine at the same moment."""
ROUNDING_NS: Final = 1_000
"""A remaining time may travel in whole microseconds, rounded down."""
CASES: Final = 300


def _word(random: Random) -> str:
    letters = "abcxyzABC019_-\u00e4\u4e2d"
    return "".join(random.choice(letters) for _ in range(random.randint(1, 12)))


def _envelope(random: Random, *, now_ns: int = NOW_NS) -> Envelope:
    """Any envelope that a header can carry."""
    numbers = (0, 1, 23, 24, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**53)
    deadline_ns = random.choice((NO_DEADLINE, now_ns + random.randint(1, 10**12), now_ns + 1, now_ns + MS, now_ns))
    trace = None
    if random.random() < 0.5:
        ids = f"{random.getrandbits(128) | 1:032x}-{random.getrandbits(64) | 1:016x}"
        trace = TraceContext(f"00-{ids}-0{random.randint(0, 1)}", random.choice(("", "vendor=value", "a=1,b=2")))
    headers: dict[str, str | int] | None = None
    if random.random() < 0.7:
        values = (_word(random), "", 0, -1, 2**31, -(2**40), random.randint(-1000, 1000))
        headers = {_word(random): random.choice(values) for _ in range(random.randint(1, 5))}
    return Envelope(
        b"",
        random.choice(tuple(Priority)),
        deadline_ns,
        random.choice((0, now_ns - random.randint(0, 10**10))),
        now_ns - random.randint(0, 10**9),
        random.choice(numbers),
        random.choice(numbers),
        None,
        trace,
        headers,
    )


def _samples(seed: int) -> list[tuple[str, Envelope]]:
    random = Random(seed)  # noqa: S311 - a test, not a secret
    return [(".".join(_word(random) for _ in range(random.randint(1, 4))), _envelope(random)) for _ in range(CASES)]


def _refused(codec: Codec, header: BytesLike, what: str) -> bool:
    """Whether bytes are refused; any error but DecodeError fails the clause."""
    try:
        codec.decode(header, now_ns=NOW_NS)
    except DecodeError:
        return True
    except Exception as error:
        raise ClauseFailed(f"{what}: {type(error).__name__}: {error}; only DecodeError may be raised") from error
    return False


@clause("codec")
async def any_envelope_survives(maker: CodecMaker) -> None:
    """Topic, priority, sequence number, size, trace and headers of any envelope come back as they were."""
    codec = maker()
    holds(codec.name, "a codec has a name")
    for number, (topic, sent) in enumerate(_samples(1)):
        found, got = codec.decode(codec.encode(sent, topic=topic, now_ns=NOW_NS), now_ns=NOW_NS)
        what = f"seed 1, case {number}"
        equal(found, topic, f"{what}: topic")
        equal((got.priority, got.seq, got.size_bytes), (sent.priority, sent.seq, sent.size_bytes), f"{what}: numbers")
        equal(got.trace, sent.trace, f"{what}: trace")
        equal(dict(got.headers or {}), dict(sent.headers or {}), f"{what}: headers")


@clause("codec")
async def reads_every_kind_of_bytes(maker: CodecMaker) -> None:
    """bytes, bytearray and memoryview are read alike, and what was read does not change with the buffer."""
    codec = maker()
    for topic, sent in _samples(2)[:20]:
        header = codec.encode(sent, topic=topic, now_ns=NOW_NS)
        buffer = bytearray(header)
        for form in (header, buffer, memoryview(header), memoryview(buffer)):
            found, got = codec.decode(form, now_ns=NOW_NS)
            equal((found, got.seq), (topic, sent.seq), type(form).__name__)
        found, got = codec.decode(memoryview(buffer), now_ns=NOW_NS)
        buffer[:] = bytes(len(buffer))
        equal((found, dict(got.headers or {})), (topic, dict(sent.headers or {})), "after the buffer was used again")


@clause("codec")
async def a_deadline_arrives_as_what_is_left(maker: CodecMaker) -> None:
    """A deadline is re-anchored to the reader's clock: what is left is what was left, never more, at most 1 us less."""
    codec = maker()
    for number, (topic, sent) in enumerate(_samples(3)):
        _, got = codec.decode(codec.encode(sent, topic=topic, now_ns=NOW_NS), now_ns=FAR_NS)
        what = f"seed 3, case {number}"
        if sent.deadline_ns == NO_DEADLINE:
            equal(got.deadline_ns, NO_DEADLINE, f"{what}: no deadline")
            continue
        before, after = sent.deadline_ns - NOW_NS, got.deadline_ns - FAR_NS
        holds(after <= before, f"{what}: {before} ns were left, and {after} ns after the journey")
        holds(after > before - ROUNDING_NS, f"{what}: {before} ns were left, and only {after} ns after the journey")


@clause("codec")
async def what_is_late_stays_late(maker: CodecMaker) -> None:
    """A message whose deadline has passed arrives late."""
    codec = maker()
    for late_ns in (0, 1, MS, 10**12):
        sent = Envelope(b"", deadline_ns=NOW_NS - late_ns)
        _, got = codec.decode(codec.encode(sent, topic="t", now_ns=NOW_NS), now_ns=FAR_NS)
        holds(got.deadline_ns <= FAR_NS, f"late by {late_ns} ns, and {got.deadline_ns - FAR_NS} ns left on arrival")


@clause("codec")
async def equal_envelopes_give_equal_bytes(maker: CodecMaker) -> None:
    """The same message at the same moment gives the same bytes, from any codec object and in any order of headers."""
    first, second = maker(), maker()
    for topic, sent in _samples(4)[:50]:
        header = first.encode(sent, topic=topic, now_ns=NOW_NS)
        equal(first.encode(sent, topic=topic, now_ns=NOW_NS), header, "encoded again")
        if sent.headers:
            sent.headers = dict(reversed(list(sent.headers.items())))
        equal(second.encode(sent, topic=topic, now_ns=NOW_NS), header, "encoded by another, headers reversed")


@clause("codec")
async def truncation_is_refused(maker: CodecMaker) -> None:
    """Every proper beginning of a header is refused."""
    codec = maker()
    for topic, sent in _samples(5)[:25]:
        header = codec.encode(sent, topic=topic, now_ns=NOW_NS)
        for length in range(len(header)):
            holds(_refused(codec, header[:length], f"cut at {length}"), f"{header.hex()} cut at {length} was accepted")


@clause("codec")
async def trailing_bytes_are_refused(maker: CodecMaker) -> None:
    """A header with anything behind it is refused."""
    codec = maker()
    for topic, sent in _samples(6)[:25]:
        header = codec.encode(sent, topic=topic, now_ns=NOW_NS)
        for tail in (b"\x00", b"\xff", b"\xf6", b" ", header):
            holds(_refused(codec, header + tail, "a tail"), f"{header.hex()} followed by {tail.hex()} was accepted")


@clause("codec")
async def garbage_is_refused(maker: CodecMaker) -> None:
    """Any bytes give a well-formed header or DecodeError, and nothing else."""
    codec = maker()
    random = Random(7)  # noqa: S311 - a test, not a secret
    for _ in range(1500):
        noise = random.randbytes(random.randint(0, 60))
        _refused(codec, noise, f"noise {noise.hex()}")
    for topic, sent in _samples(7)[:60]:
        header = codec.encode(sent, topic=topic, now_ns=NOW_NS)
        for _ in range(20):
            damaged = bytearray(header)
            damaged[random.randrange(len(damaged))] ^= random.randint(1, 255)
            if not _refused(codec, damaged, f"damaged {damaged.hex()}"):
                found, got = codec.decode(damaged, now_ns=NOW_NS)
                # One bit may turn one header into another; that one is as well formed as any.
                holds(found, f"damaged {damaged.hex()}: no topic")
                holds(0 <= got.priority <= max(Priority), f"damaged {damaged.hex()}: priority {got.priority}")


@clause("codec")
async def oversize_is_refused_on_both_sides(maker: CodecMaker) -> None:
    """A header above `HEADER_BYTES_MAX` is EncodeError when written and DecodeError when read."""
    codec = maker()
    with raises(EncodeError, "a header that is too long"):
        codec.encode(Envelope(b"", headers={"k": "v" * HEADER_BYTES_MAX}), topic="t", now_ns=NOW_NS)
    holds(_refused(codec, bytes(HEADER_BYTES_MAX + 1), "too long"), "bytes beyond the limit were accepted")
    longest = Envelope(b"", headers={"k": "v" * (HEADER_BYTES_MAX - 500)})
    _, got = codec.decode(codec.encode(longest, topic="t", now_ns=NOW_NS), now_ns=NOW_NS)
    equal(dict(got.headers or {}), longest.headers, "headers below the limit")
