"""The frames between a host and the process that runs a part of its flow.

The header is empty and the body one CBOR map (RFC 8949), without tags and indefinite lengths. An end of a route that
is a `placing.Ticket` stands in the map as ``ticket``. States are pairs of a form and bytes (`runtime.kept`).

The plan is a pickle for a process of the same user and a document of `codec.plan` for another host; ``sys_path`` and
``options`` are only for the former.
"""

from __future__ import annotations

import enum
import struct
from itertools import pairwise
from typing import Any, Final, cast

from flowbridge import errors
from flowbridge.codec.arrays import NOT_AGREED, read_plain
from flowbridge.codec.terminal_text import harmless_plain
from flowbridge.errors import EncodeError, FlowbridgeError, ProtocolError, RemoteProtocolError
from flowbridge.limits import PART_DEPTH_MAX

_CAUSES_MAX: Final = 16
_TEXT_CHARACTERS_MAX: Final = 64 * 1024  # of an error; what is beyond is cut
_SET_BY_US: Final = frozenset(("effect", "retry", "findings"))  # not by whoever failed elsewhere
_NOT_REMADE: Final = frozenset(("FlowErrors",))  # it is made of findings, which do not travel
_PAIR: Final = b"\x82"  # an array of two: the map, and the mark that nothing is left over
_MARK: Final = struct.Struct(">BQ")
_UINT64_HEAD: Final = 0x1B
_UINT64_MASK: Final = 2**64 - 1

DAMAGE: Final = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError, ProtocolError)
"""What acting on the content of a frame raises when that is not as agreed."""


class PartFrame(enum.IntEnum):
    """What a frame says. All are even: none may be skipped."""

    # from the host
    PART = 0x40  # what to run (see `RemotePart`); nothing is done yet
    END = 0x42  # route, role: an end of a route comes with it; after `GO` it replaces one that was lost
    PREPARE = 0x44  # load the operators and open the ends
    GO = 0x46  # run
    DRAIN = 0x48  # node: start nothing new
    ABORT = 0x4A  # node: stop at once
    SNAPSHOT = 0x4C  # node
    BREAK = 0x4E  # route, why: its other end will not come back
    KEPT = 0x56  # nodes: the number of the last snapshot of each that is safe with the host
    BUS = 0x54  # the end of a connection to the host's event bus comes with it
    CLOSE = 0x50  # every node has ended: take nothing more
    LEAVE = 0x52  # wait for the last counts, and report
    # from the worker
    HELLO = 0x60  # pid, import_ns: it runs
    READY = 0x62  # problems: empty when every node can run
    LOADING = 0x64  # node: it begins to load this operator
    ENDED = 0x66  # node, report, error: None, or what `write_error` gave
    REPORT = 0x68  # nodes, edges, paths, kept, marks: their numbers and what they know, unkept: why some could not be
    SNAPSHOTS = 0x6A  # node, state, error
    TERMINATED = 0x6C  # somebody sent it SIGTERM
    LOST = 0x6E  # route: its other end is gone
    CLOSED = 0x70
    TEXT = 0x74  # text: an operator printed it
    SPANS = 0x76  # spans: what `contracts.KeepingInstrument.taken` gave
    LEFT = 0x72  # nothing more comes


def write_part(content: dict[str, Any]) -> bytes:
    """The body of a frame. Raises: EncodeError."""
    import cbor2

    try:
        return cbor2.dumps(content)
    except (cbor2.CBOREncodeError, ValueError, TypeError, OverflowError) as error:
        raise EncodeError(f"what is told to another process cannot be written: {error}") from error


def read_part(peer: str, kind: int, body: bytes, *, is_shown: bool = False) -> tuple[PartFrame, dict[str, Any]]:
    """Kind and content of a frame; texts that may be shown command no terminal. Raises: RemoteProtocolError."""
    try:
        known = PartFrame(kind)
        content = _whole_item(body)
    except NOT_AGREED as error:
        raise RemoteProtocolError(f"{peer}: frame {kind:#x} cannot be read: {error!s:.200}") from error
    if not isinstance(content, dict):
        raise RemoteProtocolError(f"{peer}: frame {known.name} holds no map")
    return known, cast("dict[str, Any]", harmless_plain(content) if is_shown else content)


def _whole_item(body: bytes) -> Any:
    """The value of one CBOR item that fills the body; cbor2 itself does not tell what follows an item."""
    mark = hash(body) & _UINT64_MASK
    value, found = read_plain(b"".join((_PAIR, body, _MARK.pack(_UINT64_HEAD, mark))), PART_DEPTH_MAX)
    if type(found) is not int or found != mark:
        raise ValueError("it ends before its bytes do, or after them")
    return value


def write_error(error: BaseException) -> dict[str, Any]:
    """An error as text: its class, its message, its plain attributes, and the chain of its causes."""
    chain: list[str] = []
    cause = error.__cause__
    while cause is not None and len(chain) < _CAUSES_MAX:
        chain.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__
    plain = {name: value for name, value in vars(error).items() if isinstance(value, str | int | None)}
    return {"class": type(error).__name__, "text": str(error)[:_TEXT_CHARACTERS_MAX], "with": plain, "causes": chain}


def _attributes(found: dict[Any, Any]) -> dict[str, str | int | None]:
    """What of an error's attributes is taken over: plain ones, and none that our own classes decide about."""
    return {
        name: value
        for name, value in found.items()
        if isinstance(name, str)
        and name.isidentifier()
        and not name.startswith("_")
        and name not in _SET_BY_US
        and isinstance(value, str | int | None)
    }


def read_error(content: dict[str, Any]) -> FlowbridgeError:
    """The error again; one that is not flowbridge's own becomes a `FlowbridgeError` that names its class."""
    name, text = str(content["class"]), str(content["text"])
    kind = None if name in _NOT_REMADE else getattr(errors, name, None)
    causes = [FlowbridgeError(str(text)) for text in content["causes"][:_CAUSES_MAX]]
    if isinstance(kind, type) and issubclass(kind, FlowbridgeError):
        error = kind.__new__(kind)
        error.args = (text,)
        vars(error).update(_attributes(content["with"]))
    else:
        error = FlowbridgeError(f"{name}: {text}")
    for effect, cause in pairwise((error, *causes)):
        effect.__cause__ = cause
    return error
