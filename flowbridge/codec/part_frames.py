"""The frames between a host and the process that runs a part of its flow.

The header is empty and the body one CBOR map (RFC 8949). Both ends are of one version, on one machine, and one started
the other: what they tell each other is not checked beyond its form.
"""

from __future__ import annotations

import enum
from itertools import pairwise
from typing import Any, Final, cast

from flowbridge import errors
from flowbridge.errors import EncodeError, FlowbridgeError, RemoteProtocolError

_CAUSES_MAX: Final = 16


class PartFrame(enum.IntEnum):
    """What a frame says. All are even: none may be skipped."""

    # from the host
    PART = 0x40  # what to run (see `RemotePart.start`); nothing is done yet
    END = 0x42  # route, role: an end of a route comes with it; after `GO` it replaces one that was lost
    PREPARE = 0x44  # load the operators and open the ends
    GO = 0x46  # run
    DRAIN = 0x48  # node: start nothing new
    ABORT = 0x4A  # node: stop at once
    SNAPSHOT = 0x4C  # node
    BREAK = 0x4E  # route, why: its other end will not come back
    BUS = 0x54  # the end of a connection to the host's event bus comes with it
    CLOSE = 0x50  # every node has ended: take nothing more
    LEAVE = 0x52  # wait for the last counts, and report
    # from the worker
    HELLO = 0x60  # pid, import_ns: it runs
    READY = 0x62  # problems: empty when every node can run
    LOADING = 0x64  # node: it begins to load this operator
    ENDED = 0x66  # node, report, error: None, or what `write_error` gave
    REPORT = 0x68  # nodes, edges, paths, kept
    SNAPSHOTS = 0x6A  # node, state, error
    TERMINATED = 0x6C  # somebody sent it SIGTERM
    LOST = 0x6E  # route: its other end is gone
    CLOSED = 0x70
    TEXT = 0x74  # text: an operator printed it
    LEFT = 0x72  # nothing more comes


def write_part(content: dict[str, Any]) -> bytes:
    """The body of a frame. Raises: EncodeError."""
    import cbor2

    try:
        return cbor2.dumps(content)
    except (cbor2.CBOREncodeError, ValueError, TypeError, OverflowError) as error:
        raise EncodeError(f"what is told to another process cannot be written: {error}") from error


def read_part(peer: str, kind: int, body: bytes) -> tuple[PartFrame, dict[str, Any]]:
    """Kind and content of a frame. Raises: RemoteProtocolError."""
    import cbor2

    try:
        known = PartFrame(kind)
        content = cbor2.loads(body)
    except (cbor2.CBORDecodeError, ValueError, OverflowError, MemoryError, RecursionError, TypeError) as error:
        raise RemoteProtocolError(f"{peer}: frame {kind:#x} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise RemoteProtocolError(f"{peer}: frame {known.name} holds no map")
    return known, cast("dict[str, Any]", content)


def write_error(error: BaseException) -> dict[str, Any]:
    """An error as text: its class, its message, its plain attributes, and the chain of its causes."""
    chain: list[str] = []
    cause = error.__cause__
    while cause is not None and len(chain) < _CAUSES_MAX:
        chain.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__
    plain = {name: value for name, value in vars(error).items() if isinstance(value, str | int | None)}
    return {"class": type(error).__name__, "text": str(error), "with": plain, "causes": chain}


def read_error(content: dict[str, Any]) -> FlowbridgeError:
    """The error again; one that is not flowbridge's own becomes a `FlowbridgeError` that names its class."""
    kind = getattr(errors, str(content["class"]), None)
    causes = [FlowbridgeError(str(text)) for text in content["causes"]]
    if isinstance(kind, type) and issubclass(kind, FlowbridgeError):
        error = kind.__new__(kind)
        error.args = (str(content["text"]),)
        vars(error).update(content["with"])
    else:
        error = FlowbridgeError(f"{content['class']}: {content['text']}")
    for effect, cause in pairwise((error, *causes)):
        effect.__cause__ = cause
    return error
