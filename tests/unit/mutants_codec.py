"""Codecs with one bug each. The docstring says which."""

from __future__ import annotations

import json
from typing import Any

from reference_codec import ReferenceCodec

from flowbridge.envelope import NO_DEADLINE


class IgnoresTrailingBytes(ReferenceCodec):
    """What follows the header is not looked at."""

    def parse(self, header: bytes) -> Any:
        end = header.rfind(b"}") + 1
        return super().parse(header[:end])

    def check_form(self, document: Any, header: bytes) -> None:
        super().check_form(document, header[: header.rfind(b"}") + 1])


class AcceptsTruncation(ReferenceCodec):
    """A missing last brace is added."""

    def decode(self, header: Any, *, now_ns: int) -> Any:
        data = bytes(header)
        return super().decode(data if data.endswith(b"}") else data + b"}", now_ns=now_ns)


class ExtendsTheDeadline(ReferenceCodec):
    """What is left is rounded up to a millisecond."""

    def left_ns(self, deadline_ns: int, now_ns: int) -> int:
        left_ns = super().left_ns(deadline_ns, now_ns)
        return left_ns if left_ns < 0 else -(-left_ns // 1_000_000) * 1_000_000


class ShortensTheDeadline(ReferenceCodec):
    """What is left is rounded down to a millisecond."""

    def left_ns(self, deadline_ns: int, now_ns: int) -> int:
        left_ns = super().left_ns(deadline_ns, now_ns)
        return left_ns if left_ns < 0 else left_ns // 1_000_000 * 1_000_000


class SendsTheDeadlineItself(ReferenceCodec):
    """The deadline of one machine is taken for that of another."""

    def left_ns(self, deadline_ns: int, now_ns: int) -> int:
        return deadline_ns

    def deadline_ns(self, left_ns: int, now_ns: int) -> int:
        return left_ns


class RevivesTheLate(ReferenceCodec):
    """What is late gets a little time."""

    def left_ns(self, deadline_ns: int, now_ns: int) -> int:
        return -1 if deadline_ns == NO_DEADLINE else max(500, deadline_ns - now_ns)


class GivesADeadlineToAll(ReferenceCodec):
    """No deadline becomes a far one."""

    def deadline_ns(self, left_ns: int, now_ns: int) -> int:
        return now_ns + (left_ns if left_ns >= 0 else 10**15)


class KeepsTheOrderOfHeaders(ReferenceCodec):
    """Equal headers in another order give other bytes."""

    def write(self, document: dict[str, Any]) -> bytes:
        return json.dumps(document, separators=(",", ":")).encode()


class WritesAnySize(ReferenceCodec):
    """Size is looked at on arrival only."""

    def check_size(self, header: bytes, error: type[Exception]) -> None:
        if error.__name__ == "DecodeError":
            super().check_size(header, error)


class RaisesWhatJsonRaises(ReferenceCodec):
    """Garbage raises errors of the library."""

    def parse(self, header: bytes) -> Any:
        return json.loads(header.decode())


class TrustsWhatItReads(ReferenceCodec):
    """The form of a header is not checked."""

    def check_form(self, document: Any, header: bytes) -> None:
        pass


class LosesTrace(ReferenceCodec):
    """The trace does not arrive."""

    def write(self, document: dict[str, Any]) -> bytes:
        return super().write({**document, "trace": []})


class ReadsBytesOnly(ReferenceCodec):
    """A memoryview is not read."""

    def decode(self, header: Any, *, now_ns: int) -> Any:
        header.startswith(b"{")
        return super().decode(header, now_ns=now_ns)
