"""Every error flowbridge raises, and what a caller may conclude from it.

    FlowbridgeError                 effect: NONE | MAYBE | DONE;  retry: NEVER | LATER | NOW
    ├─ FlowErrors                   every finding of one flow file, not the first
    ├─ PlanError                    a compiled plan that this version cannot read
    ├─ ResourceError
    │   ├─ ClosedError              you closed it
    │   ├─ BrokenError              the world broke it; see __cause__
    │   ├─ BusyError                two of your tasks at once
    │   ├─ ShmFullError             no room for a shared-memory segment
    │   └─ NativeUnavailableError   the compiled part is not there
    ├─ EndOfStream                  the peer finished, and everything it sent was received
    ├─ WouldBlock                   a call that must not wait would have had to
    ├─ DeadlineExceeded             also a TimeoutError
    ├─ NoResponderError             a request to a topic that nobody serves
    ├─ AuthError                    an identity or a right was refused
    ├─ OverloadError                a peer is there and has no room
    ├─ ProtocolError
    │   ├─ LocalProtocolError       you broke the rules
    │   └─ RemoteProtocolError      the peer did
    ├─ CodecError
    │   ├─ EncodeError
    │   └─ DecodeError
    ├─ OperatorError                an operator failed; names node, port and sequence number
    │   ├─ OperatorLoadError        it could not be imported or configured
    │   └─ SchemaMismatchError      it produced or received what its port does not carry
    └─ MissingExtraError            also an ImportError; names the extra to install

Messages name the thing, the limit and the value, in that order.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbridge.finding import Finding


class Effect(enum.Enum):
    """Whether the thing that failed may have happened all the same."""

    NONE = "none"
    MAYBE = "maybe"
    DONE = "done"


class Retry(enum.Enum):
    """Whether the same call is worth repeating."""

    NEVER = "never"
    LATER = "later"
    NOW = "now"


class BlockReason(enum.Enum):
    """What a call that must not wait would have had to wait for."""

    CREDIT_ITEMS = "credit-items"  # the lane has no item credit left
    CREDIT_BYTES = "credit-bytes"  # the lane has no byte credit left
    ABOVE_WATERMARK = "above-watermark"  # filled to the high watermark; waits for the low one
    RING = "ring"  # no place for a record in the ring of a shared-memory channel
    SLOTS = "slots"  # no free slot of this size or a larger one in the shared-memory pool
    EMPTY = "empty"  # nothing to receive


class FlowbridgeError(Exception):
    """The root: everything flowbridge raises on purpose is one of these."""

    effect: Effect = Effect.NONE
    retry: Retry = Retry.NEVER
    code: int | None = None
    """The number under which it came from another machine (`codec.codes`); None for one that was raised here."""
    retry_after_ns: int | None = None
    """How long to wait before the same call is made again, where whoever refused it said so; nanoseconds."""


class FlowErrors(FlowbridgeError):
    """A flow was refused; `findings` holds every reason, in the order of the file."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings: Final = tuple(findings)
        count = len(self.findings)
        super().__init__(f"{count} finding{'s' if count != 1 else ''}:\n" + "\n".join(str(f) for f in self.findings))


class PlanError(FlowbridgeError):
    """A plan document is of a format this version does not read, or is damaged."""


class ResourceError(FlowbridgeError):
    """A port, bus or link cannot be used; the subclass says whose doing it is."""


class ClosedError(ResourceError):
    """You closed it."""


class BrokenError(ResourceError):
    """The world broke it; `__cause__` says how."""

    effect = Effect.MAYBE
    retry = Retry.LATER


class BusyError(ResourceError):
    """Two of your tasks use at once what only one may use."""


class ShmFullError(ResourceError):
    """A segment of shared memory does not fit; `need` and `free` are bytes, `free` is None when unknown."""

    retry = Retry.LATER

    def __init__(self, where: str, need: int, free: int | None, hint: str) -> None:
        self.need: Final = need
        self.free: Final = free
        self.hint: Final = hint
        left = "an unknown number of" if free is None else str(free)
        super().__init__(f"{where}: {left} bytes are free, {need} are needed; {hint}")


class NativeUnavailableError(ResourceError):
    """The compiled part of flowbridge cannot be used here; the message says why."""


class EndOfStream(FlowbridgeError):
    """The sender finished, and everything it sent has been received."""


class WouldBlock(FlowbridgeError):
    """A call that must not wait would have had to; nothing was done.

    `retry_after_ns` is a hint in nanoseconds, None when unknown.
    """

    retry = Retry.LATER

    def __init__(self, reason: BlockReason, where: str = "", retry_after_ns: int | None = None) -> None:
        self.reason: Final = reason
        self.where: Final = where
        self.retry_after_ns = retry_after_ns
        super().__init__(f"{where}: would block ({reason.value})" if where else f"would block ({reason.value})")


class DeadlineExceeded(FlowbridgeError, TimeoutError):
    """A deadline passed. Both times are monotonic nanoseconds of this process."""

    retry = Retry.NEVER

    def __init__(self, where: str, deadline_ns: int, now_ns: int, effect: Effect = Effect.NONE) -> None:
        self.where: Final = where
        self.deadline_ns: Final = deadline_ns
        self.now_ns: Final = now_ns
        self.effect = effect
        super().__init__(f"{where}: deadline exceeded by {(now_ns - deadline_ns) / 1e6:.3f} ms")


class NoResponderError(FlowbridgeError):
    """A request was made on a topic that nobody serves."""

    retry = Retry.LATER


class AuthError(FlowbridgeError):
    """An identity or a right was refused, by a peer or by us."""


class OverloadError(FlowbridgeError):
    """A peer is there and has no room; nothing was done. `retry_after_ns` is when to ask again, None when unknown."""

    retry = Retry.LATER

    def __init__(self, message: str, retry_after_ns: int | None = None) -> None:
        self.retry_after_ns = retry_after_ns
        super().__init__(message)


class ProtocolError(FlowbridgeError):
    """Somebody broke the rules of a contract; use one of the two subclasses."""


class LocalProtocolError(ProtocolError):
    """You broke the rules."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the rules."""


class CodecError(FlowbridgeError):
    """Bytes and values could not be turned into each other."""


class EncodeError(CodecError):
    """A value cannot be written in this form."""


class DecodeError(CodecError):
    """Bytes are not what they claim to be."""


class OperatorError(FlowbridgeError):
    """An operator failed while it handled a message; its own exception is `__cause__`."""

    effect = Effect.MAYBE

    def __init__(self, node: str, message: str, *, port: str = "", seq: int | None = None) -> None:
        self.node: Final = node
        self.port: Final = port
        self.seq: Final = seq
        where = f"node {node}"
        if port:
            where += f", port {port}"
        if seq is not None:
            where += f", message {seq}"
        super().__init__(f"{where}: {message}")


class OperatorLoadError(OperatorError):
    """An operator could not be imported, or refused its configuration."""

    effect = Effect.NONE


class SchemaMismatchError(OperatorError):
    """A value does not fit the type of the port it was given to."""


class MissingExtraError(FlowbridgeError, ImportError):
    """An optional part is not installed; `extra` names it."""

    def __init__(self, extra: str, what: str) -> None:
        self.extra: Final = extra
        super().__init__(f"{what} needs an optional part: pip install 'flowbridge[{extra}]'")
