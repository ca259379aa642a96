"""The payloads of a bus link: those of `codec.payload`, each by itself, codec and tag in one number."""

from __future__ import annotations

from typing import Any, Final

from flowbridge.codec.payload import PayloadReader, PayloadWriter
from flowbridge.errors import DecodeError, RemoteProtocolError

RAW: Final = 0
"""The number of bytes that are the payload themselves."""
_TAG_BITS: Final = 2
_writer: Final = PayloadWriter(alone=True)
_reader: Final = PayloadReader()  # it is never told of a schema, so it remembers nothing


def encode(payload: Any) -> tuple[int, bytes]:
    """The number, and the bytes. Raises: EncodeError for a value that cannot leave its process."""
    if type(payload) is bytes:
        return RAW, payload
    prepared = _writer.prepare(payload)
    data = prepared.to_bytes()
    return prepared.codec << _TAG_BITS | prepared.tag, data if type(data) is bytes else bytes(data)


def decode(codec: int, data: bytes) -> Any:
    """The value. Raises: DecodeError, and nothing else, for any bytes."""
    if not codec:
        return data
    try:
        return _reader.read(codec >> _TAG_BITS, codec & ((1 << _TAG_BITS) - 1), data)
    except RemoteProtocolError as error:
        raise DecodeError(str(error)) from error
