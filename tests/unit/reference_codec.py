"""The simplest Codec that is right: a length, and sorted JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from flowbridge.envelope import NO_DEADLINE, Envelope, Priority, TraceContext
from flowbridge.errors import DecodeError, EncodeError
from flowbridge.limits import HEADER_BYTES_MAX

if TYPE_CHECKING:
    from flowbridge.contracts import BytesLike

TYPES = {"topic": str, "priority": int, "seq": int, "size": int, "left": int, "headers": dict, "trace": list}


def is_dict(value: object) -> bool:
    return isinstance(value, dict)


class ReferenceCodec:
    """Each rule is a small method, for the mutants to override."""

    name = "json-reference"

    def left_ns(self, deadline_ns: int, now_ns: int) -> int:
        return -1 if deadline_ns == NO_DEADLINE else max(0, deadline_ns - now_ns)

    def deadline_ns(self, left_ns: int, now_ns: int) -> int:
        return NO_DEADLINE if left_ns < 0 else now_ns + left_ns

    def write(self, document: dict[str, Any]) -> bytes:
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    def encode(self, envelope: Envelope, *, topic: str, now_ns: int) -> bytes:
        trace = envelope.trace
        header = self.write(
            {
                "topic": topic,
                "priority": int(envelope.priority),
                "seq": envelope.seq,
                "size": envelope.size_bytes,
                "left": self.left_ns(envelope.deadline_ns, now_ns),
                "headers": dict(envelope.headers or {}),
                "trace": [] if trace is None else [trace.traceparent, trace.tracestate],
            }
        )
        self.check_size(header, EncodeError)
        return header

    def check_size(self, header: bytes, error: type[Exception]) -> None:
        if len(header) > HEADER_BYTES_MAX:
            raise error(f"a header exceeds {HEADER_BYTES_MAX} bytes: {len(header)}")

    def parse(self, header: bytes) -> Any:
        try:
            return json.loads(header.decode())
        except (ValueError, RecursionError) as error:
            raise DecodeError("no header") from error

    def check_form(self, document: Any, header: bytes) -> None:
        """Every key, its type, and the one form."""
        if not is_dict(document) or {name: type(document.get(name)) for name in TYPES} != TYPES:
            raise DecodeError("a header lacks something")
        if not 0 <= document["priority"] <= Priority.BEST_EFFORT or not document["topic"]:
            raise DecodeError("a header has a value out of range")
        texts = [*document["trace"]]
        if len(texts) not in (0, 2) or not all(isinstance(text, str) for text in texts):
            raise DecodeError("a header has a bad trace")
        if self.write(document) != header:
            raise DecodeError("a header is not in its one form")

    def decode(self, header: BytesLike, *, now_ns: int) -> tuple[str, Envelope]:
        data = bytes(header)
        self.check_size(data, DecodeError)
        document = self.parse(data)
        self.check_form(document, data)
        trace = TraceContext(*document["trace"]) if document["trace"] else None
        deadline_ns = self.deadline_ns(document["left"], now_ns)
        envelope = Envelope(None, document["priority"], deadline_ns, 0, 0, document["size"], document["seq"])
        envelope.trace, envelope.headers = trace, document["headers"] or None
        return document["topic"], envelope
