"""The frames of a bus link: what one process tells another about its event bus (grammar in ``bus.cddl``).

The header of each frame is one CBOR array of fixed positions (RFC 8949) in deterministic form; the payload of an
envelope is the body, beside it. On one machine both ends share its monotonic clock, so times are absolute nanoseconds
and a deadline crosses exactly. Between machines the same positions hold what `time.far` says; an ERROR then tells a
missed deadline as 0 and by how much it was missed.

Frame types have the numbers of the fabric's other links where those have one. All are even: none may be skipped.

    0x02 HELLO      version                                             client to server
    0x04 HELLO_ACK  version, whether the server tells its table         server to client
    0x0e ERROR      call, code, text, word, deadline_ns, now_ns         to client: how a call failed
    0x10 SUB        call, sub, pattern, group, edge, qos                to server
    0x12 UNSUB      call, sub                                           to server; answered by ACK
    0x14 SUB_ACK    call, edge, qos                                     to client: the name and the queue it got
    0x16 CANCEL     call                                                to server: withdraw it; no answer
    0x18 CONFIGURE  pattern, qos                                        to server; no answer
    0x1a OFFER      number, pattern, group, waits                       to client: somebody subscribed
    0x1c RETRACT    number                                              to client: somebody left
    0x1e LIMIT      number, then the limit of each lane                 to client: credit of a subscription
    0x20 PUB        call, mode, topic, envelope                         to server
    0x22 REQ        call, topic, envelope                               to server; its deadline is how long it waits
    0x24 RESP       call, envelope                                      to client: the reply to a request
    0x26 REPLY      call, deadline_ns, origin_ns, priority, headers, envelope   to server: of the request, and the reply
    0x28 DELIVER    sub, envelope                                       to client
    0x2a REFUSE     as REPLY up to its envelope, sent_ns, code, text, retry_after_ms    to server
    0x30 SETTLE     sub, outcome, expired, then pairs of first and count    to server: what became of messages
    0x32 ACK        call, value                                         to client: it is done
    0x34 BOOKS      sub, expired, late, transport, refused, dropped     to client: what the server's end has counted
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import cbor2

from flowbridge.codec.arrays import NOT_AGREED, read_plain
from flowbridge.codec.bus_items import INT_MIN, SMALL, UINT_MAX, headers_out, priority_out, uint, word
from flowbridge.codec.bus_usual import usual_in
from flowbridge.envelope import NO_DEADLINE, Envelope, Priority, TraceContext
from flowbridge.errors import EncodeError, RemoteProtocolError
from flowbridge.limits import LANES, QUEUE_BYTES_MAX, QUEUE_ITEMS_MAX
from flowbridge.plan import Policy, Qos

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

VERSION: Final = 1
HELLO: Final = 0x02
HELLO_ACK: Final = 0x04
ERROR: Final = 0x0E
SUB: Final = 0x10
UNSUB: Final = 0x12
SUB_ACK: Final = 0x14
CANCEL: Final = 0x16
CONFIGURE: Final = 0x18
OFFER: Final = 0x1A
RETRACT: Final = 0x1C
LIMIT: Final = 0x1E
PUB: Final = 0x20
REQ: Final = 0x22
RESP: Final = 0x24
REPLY: Final = 0x26
DELIVER: Final = 0x28
REFUSE: Final = 0x2A
SETTLE: Final = 0x30
ACK: Final = 0x32
BOOKS: Final = 0x34

TO_SERVER: Final = frozenset({HELLO, SUB, UNSUB, CANCEL, CONFIGURE, PUB, REQ, REPLY, REFUSE, SETTLE})
TO_CLIENT: Final = frozenset(
    {HELLO_ACK, ERROR, SUB_ACK, OFFER, RETRACT, LIMIT, RESP, DELIVER, ACK, BOOKS},
)

# How PUB publishes.
PUBLISH: Final = 0
BROADCAST: Final = 1
NOWAIT: Final = 2

# What became of delivered messages.
DELIVERED: Final = 0  # settled; `expired` of them were too late to be used
TRANSPORT: Final = 1  # late when they arrived
DROPPED: Final = 2  # by the policy of the queue
ABORTED: Final = 3  # queued when the subscription was closed

_DEPTH_MAX: Final = 3  # the pair with the end mark, the array, a map or a list in it
_PRIORITIES: Final[dict[int, Priority]] = {int(priority): priority for priority in Priority}
_POLICIES: Final[dict[int, Policy]] = dict(enumerate(Policy))
_POLICY_NUMBERS: Final = {policy: number for number, policy in _POLICIES.items()}
_TEXT_MAX: Final = 1024
REQUEST_POSITIONS: Final = 5
"""Of a REPLY in front of its envelope: the call, and the request. REFUSE begins with the same."""
SENT_NS: Final = 3
"""Which position of an envelope."""
_QOS_POSITIONS: Final = 7

# Python keys the hash of text with a secret of the process, so no peer can forge what stands behind its header.
_END: Final = hash("the end of a header") & UINT_MAX | 1 << 62
_END_BYTES: Final = cbor2.dumps(_END)

# --- out ------------------------------------------------------------------------------------------------------------

_ARRAYS: Final = tuple(bytes((0x80 | count,)) for count in range(24))


def pub(call: int, mode: int, topic: str, envelope: bytes) -> bytes:
    """PUB; `envelope` from `envelope_out`, as in all that follow."""
    return b"\x8d" + uint(call) + SMALL[mode] + word(topic) + envelope


def req(call: int, topic: str, envelope: bytes) -> bytes:
    """REQ."""
    return b"\x8c" + uint(call) + word(topic) + envelope


def resp(call: int, envelope: bytes) -> bytes:
    """RESP."""
    return b"\x8b" + uint(call) + envelope


def reply(call: int, request: Envelope, envelope: bytes) -> bytes:
    """REPLY: of the request only what a bus has to know again."""
    return b"".join(
        (
            b"\x8f",
            uint(call),
            uint(max(0, request.deadline_ns)),
            uint(request.origin_ns),
            priority_out(request),
            headers_out(request.headers),
            envelope,
        )
    )


def refuse(call: int, request: Envelope, code: int, told: str, retry_after_ms: int | None) -> bytes:
    """REFUSE. Raises: EncodeError."""
    headers = dict(request.headers) if request.headers else None
    times = (max(0, request.deadline_ns), request.origin_ns)
    return mixed(call, *times, int(request.priority), headers, request.sent_ns, code, told, retry_after_ms)


def deliver(sub: int, envelope: bytes) -> bytes:
    """DELIVER."""
    return b"\x8b" + uint(sub) + envelope


def ack(call: int, value: int = 0) -> bytes:
    """ACK."""
    return b"\x82" + uint(call) + uint(value)


def settle(sub: int, outcome: int, expired: int, pairs: Sequence[int]) -> bytes:
    """SETTLE: pairs of the first of some sequence numbers that follow each other, and how many."""
    return numbers(sub, outcome, expired, *pairs)


def numbers(*values: int) -> bytes:
    """A header of numbers alone."""
    count = len(values)
    head = _ARRAYS[count] if count < 24 else b"\x98" + bytes((count,)) if count < 256 else None
    if head is None:
        head = b"\x99" + count.to_bytes(2, "big")
    return head + b"".join([uint(value) for value in values])


def mixed(*values: object) -> bytes:
    """A header of anything, for frames that are rare. Raises: EncodeError."""
    try:
        return cbor2.dumps(values, canonical=True)
    except (cbor2.CBOREncodeError, ValueError) as error:
        raise EncodeError(f"a frame cannot be written: {error}") from error


def qos_out(qos: Qos | None) -> tuple[int | None, ...] | None:
    """A QoS as positions."""
    if qos is None:
        return None
    return (
        _POLICY_NUMBERS[qos.policy],
        qos.capacity_items,
        qos.capacity_bytes,
        qos.high_items,
        qos.low_items,
        None if qos.priority is None else int(qos.priority),
        qos.deadline_ns,
    )


# --- in -------------------------------------------------------------------------------------------------------------


def _shown(value: object) -> str:
    """A value of a peer, cut short."""
    return repr(value)[:48]


def _bad(name: str, value: object, wanted: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"position {name} is {_shown(value)}, not {wanted}")


def _is_uint(value: object) -> bool:
    return type(value) is int and 0 <= value <= UINT_MAX


def _is_uint_or_null(value: object) -> bool:
    return value is None or (type(value) is int and 0 <= value <= UINT_MAX)


def _is_text(value: object) -> bool:
    return type(value) is str and len(value) <= _TEXT_MAX


def _is_text_or_null(value: object) -> bool:
    return value is None or _is_text(value)


def _is_flag(value: object) -> bool:
    return type(value) is bool


def _is_mode(value: object) -> bool:
    return type(value) is int and 0 <= value <= NOWAIT


def _is_outcome(value: object) -> bool:
    return type(value) is int and 0 <= value <= ABORTED


def _is_priority(value: object) -> bool:
    return type(value) is int and 0 <= value < LANES


def _is_headers(value: Any) -> bool:
    if value is None:
        return True
    if type(value) is not dict:
        return False
    for key, one in cast("dict[object, object]", value).items():
        if type(key) is not str or not (type(one) is str or (type(one) is int and INT_MIN <= one <= UINT_MAX)):
            return False
    return True


def _is_counts(value: object) -> bool:
    return type(value) is dict and all(
        type(key) is str and _is_uint(one) for key, one in cast(dict[object, object], value).items()
    )


def _is_qos(value: object) -> bool:
    """Positions of a QoS that a queue can be made of."""
    if type(value) is not list:
        return False
    items = cast(list[object], value)
    if len(items) != _QOS_POSITIONS or not all(map(_is_uint, items[:5])) or not all(map(_is_uint_or_null, items[5:])):
        return False
    policy, capacity_items, capacity_bytes, high, low, priority, _ = cast(list[int], items)
    return (
        policy < len(_POLICIES)
        and 1 <= capacity_items <= QUEUE_ITEMS_MAX
        and 1 <= capacity_bytes <= QUEUE_BYTES_MAX
        and low <= high <= QUEUE_ITEMS_MAX
        and (cast("int | None", priority) is None or priority < LANES)
    )


def _is_qos_or_null(value: object) -> bool:
    return value is None or _is_qos(value)


_ENVELOPE: Final = (
    ("seq", _is_uint),
    ("deadline_ns", _is_uint_or_null),
    ("origin_ns", _is_uint),
    ("sent_ns", _is_uint),
    ("priority", _is_priority),
    ("size_bytes", _is_uint),
    ("codec", _is_uint),
    ("traceparent", _is_text_or_null),
    ("tracestate", _is_text_or_null),
    ("headers", _is_headers),
)
_CALL: Final = ("call", _is_uint)
_SUB: Final = ("sub", _is_uint)
_FIELDS: Final[dict[int, tuple[tuple[str, Callable[[object], bool]], ...]]] = {
    HELLO: (("version", _is_uint),),
    HELLO_ACK: (("version", _is_uint), ("tells", _is_flag)),
    ERROR: (
        *(_CALL, ("code", _is_uint), ("text", _is_text), ("word", _is_text)),
        *(("deadline_ns", _is_uint), ("now_ns", _is_uint)),
    ),
    SUB: (
        *(_CALL, _SUB, ("pattern", _is_text), ("group", _is_text_or_null)),
        *(("edge", _is_text), ("qos", _is_qos_or_null)),
    ),
    UNSUB: (_CALL, _SUB),
    SUB_ACK: (_CALL, ("edge", _is_text), ("qos", _is_qos)),
    CANCEL: (_CALL,),
    CONFIGURE: (("pattern", _is_text), ("qos", _is_qos)),
    OFFER: (("number", _is_uint), ("pattern", _is_text), ("group", _is_text_or_null), ("waits", _is_flag)),
    RETRACT: (("number", _is_uint),),
    LIMIT: (("number", _is_uint), *((f"lane{lane}", _is_uint) for lane in range(LANES))),
    PUB: (_CALL, ("mode", _is_mode), ("topic", _is_text), *_ENVELOPE),
    REQ: (_CALL, ("topic", _is_text), *_ENVELOPE),
    RESP: (_CALL, *_ENVELOPE),
    REPLY: (
        *(_CALL, ("request_deadline_ns", _is_uint), ("request_origin_ns", _is_uint)),
        *(("request_priority", _is_priority), ("request_headers", _is_headers), *_ENVELOPE),
    ),
    REFUSE: (
        *(_CALL, ("request_deadline_ns", _is_uint), ("request_origin_ns", _is_uint)),
        *(("request_priority", _is_priority), ("request_headers", _is_headers), ("sent_ns", _is_uint)),
        *(("code", _is_uint), ("text", _is_text), ("retry_after_ms", _is_uint_or_null)),
    ),
    DELIVER: (_SUB, *_ENVELOPE),
    SETTLE: (_SUB, ("outcome", _is_outcome), ("expired", _is_uint)),  # and pairs
    ACK: (_CALL, ("value", _is_uint)),
    BOOKS: (
        *(_SUB, ("expired", _is_uint), ("late", _is_uint), ("transport", _is_uint), ("refused", _is_uint)),
        ("dropped", _is_counts),
    ),
}
_NO_BODY: Final = frozenset(kind for kind, fields in _FIELDS.items() if fields[-len(_ENVELOPE) :] != _ENVELOPE)


_ENVELOPE_SHAPES: Final = tuple(  # the types of an envelope without a trace
    (int, deadline, int, int, int, int, int, type(None), type(None), headers)
    for deadline in (int, type(None))
    for headers in (dict, type(None))
)
_USUAL: Final[dict[int, frozenset[tuple[type, ...]]]] = {  # the types of the frames that come most often
    kind: frozenset((*front, *shape) for shape in _ENVELOPE_SHAPES)
    for kind, front in ((REQ, (int, str)), (RESP, (int,)), (DELIVER, (int,)))
}
_NUMBERS_ONLY: Final = (int, int)


def _is_usual(kind: int, values: list[Any]) -> bool:
    """Whether these are the positions of one of the frames that come most often; all others are looked at one by one.

    A disjunction of integers is in 0..2**63-1 when each of them is: one comparison for all.
    """
    types = tuple(map(type, values))
    if kind == ACK:
        return types == _NUMBERS_ONLY and 0 <= values[0] | values[1] <= UINT_MAX
    shapes = _USUAL.get(kind)
    if shapes is None or types not in shapes:
        return False
    if kind == REQ:
        call, topic, seq, deadline_ns, origin_ns, sent_ns, priority, size_bytes, codec, _, _, headers = values
        if len(topic) > _TEXT_MAX:
            return False
    else:
        call, seq, deadline_ns, origin_ns, sent_ns, priority, size_bytes, codec, _, _, headers = values
    numbers = call | seq | origin_ns | sent_ns | size_bytes | codec | (deadline_ns or 0)
    return 0 <= numbers <= UINT_MAX and 0 <= priority < LANES and (headers is None or _is_headers(headers))


def decode(kind: int, header: bytes, body: bytes, allowed: frozenset[int]) -> list[Any]:
    """The positions of a header, each of its type. Raises: RemoteProtocolError, and nothing else, for any bytes."""
    if kind not in allowed:
        raise RemoteProtocolError(f"frame type {kind:#x} is none that this end of a bus link takes")
    if kind in _USUAL and (found := usual_in(header, has_topic=kind == REQ)) is not None:
        return found
    return general_in(kind, header, body)


def general_in(kind: int, header: bytes, body: bytes) -> list[Any]:
    """As `decode`, of a kind that is allowed, whatever the header looks like."""
    try:
        pair = read_plain(b"\x82" + header + _END_BYTES, _DEPTH_MAX)
    except NOT_AGREED as error:
        raise RemoteProtocolError(f"frame {kind:#x}: its header is not CBOR as agreed: {error}") from error
    values: list[Any]
    values, end = pair
    if end != _END or type(values) is not list:
        raise RemoteProtocolError(f"frame {kind:#x}: its header is not one array, and nothing else")
    if _is_usual(kind, values) and (kind != ACK or not body):
        return values
    fields = _FIELDS[kind]
    if len(values) != len(fields) and (kind != SETTLE or len(values) < len(fields)):
        raise RemoteProtocolError(f"frame {kind:#x}: its header has {len(values)} positions, not {len(fields)}")
    for (name, fits), value in zip(fields, values, strict=False):
        if not fits(value):
            raise _bad(name, value, f"what frame {kind:#x} has there")
    if kind in _NO_BODY and body:
        raise RemoteProtocolError(f"frame {kind:#x}: it has a body of {len(body)} bytes, and no use for one")
    return values


def envelope_in(values: Sequence[Any], at: int) -> tuple[Envelope, int]:
    """An envelope without payload from its ten positions, and the codec of its payload. Raises: RemoteProtocolError."""
    seq, deadline_ns, origin_ns, sent_ns, priority, size_bytes, codec, traceparent, tracestate, headers = values[at:]
    context = None
    if traceparent is not None or tracestate is not None:
        if traceparent is None or tracestate is None:
            raise _bad("tracestate", tracestate, "there exactly when there is a trace")
        context = TraceContext(traceparent, tracestate)
    return (
        Envelope(
            None,
            _PRIORITIES[priority],
            NO_DEADLINE if deadline_ns is None else deadline_ns,
            origin_ns,
            sent_ns,
            size_bytes,
            seq,
            None,
            context,
            headers,
        ),
        codec,
    )


def request_in(values: Sequence[Any]) -> Envelope:
    """What REPLY says about the request."""
    _, deadline_ns, origin_ns, priority, headers = values[:REQUEST_POSITIONS]
    return Envelope(None, _PRIORITIES[priority], deadline_ns, origin_ns, headers=headers)


def qos_in(items: Sequence[Any] | None) -> Qos | None:
    """A QoS from its positions."""
    if items is None:
        return None
    policy, capacity_items, capacity_bytes, high, low, priority, deadline_ns = items
    return Qos(
        policy=_POLICIES[policy],
        capacity_items=capacity_items,
        capacity_bytes=capacity_bytes,
        high_items=high,
        low_items=low,
        priority=None if priority is None else _PRIORITIES[priority],
        deadline_ns=deadline_ns,
    )


def pairs_in(values: Sequence[Any]) -> list[tuple[int, int]]:
    """The pairs of SETTLE. Raises: RemoteProtocolError."""
    rest = values[3:]
    if len(rest) % 2 or not all(map(_is_uint, rest)):
        raise RemoteProtocolError("frame 0x30: what stands behind the third position is not pairs of numbers")
    return list(zip(rest[::2], rest[1::2], strict=True))
