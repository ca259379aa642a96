"""What a server says without a connection: other versions, Retry, refusals (RFC 9000, sections 6, 8.1 and 10.2.3)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE
from aioquic.quic.connection import TRANSPORT_CLOSE_FRAME_CAPACITY
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import (
    QuicFrameType,
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.retry import QuicRetryTokenHandler

from flowbridge.transports.quic.aio.configuration import VERSIONS
from flowbridge.transports.quic.aio.connection import CONNECTION_ID_BYTES

if TYPE_CHECKING:
    from flowbridge.transports.quic.engine import Address

_INITIAL_ID_BYTES_MIN: Final = 8


class Initial(NamedTuple):
    """The header of a client's first packet; `source` and `destination` are connection ids."""

    version: int
    destination: bytes
    source: bytes
    token: bytes


def read_initial(data: bytes) -> Initial | None:
    """The header of an Initial of a version that we speak; None for any other packet.

    Raises:
        ValueError: it is damaged.
    """
    header = pull_quic_header(Buffer(data=data), host_cid_length=CONNECTION_ID_BYTES)
    if header.packet_type is not QuicPacketType.INITIAL or len(header.destination_cid) < _INITIAL_ID_BYTES_MIN:
        return None
    assert header.version is not None
    return Initial(header.version, header.destination_cid, header.source_cid, header.token)


def version_negotiation(data: bytes) -> bytes | None:
    """The answer to a long header of a version that we do not speak; None when we do, or when it is such an answer.

    Of other versions only what all have in common is read (RFC 8999, section 5.1).

    Raises:
        ValueError: it is damaged.
    """
    buffer = Buffer(data=data)
    buffer.pull_uint8()
    version = buffer.pull_uint32()
    if version == 0 or version in VERSIONS:
        return None
    destination = buffer.pull_bytes(buffer.pull_uint8())
    source = buffer.pull_bytes(buffer.pull_uint8())
    return encode_quic_version_negotiation(
        source_cid=destination, destination_cid=source, supported_versions=list(VERSIONS)
    )


def refusal(initial: Initial, code: int) -> bytes:
    """An Initial that closes the connection it answers with a code of QUIC."""
    crypto = CryptoPair()
    crypto.setup_initial(cid=initial.destination, is_client=False, version=initial.version)
    builder = QuicPacketBuilder(
        host_cid=initial.destination,
        is_client=False,
        max_datagram_size=SMALLEST_MAX_DATAGRAM_SIZE,
        peer_cid=initial.source,
        version=initial.version,
    )
    builder.start_packet(QuicPacketType.INITIAL, crypto)
    buffer = builder.start_frame(QuicFrameType.TRANSPORT_CLOSE, capacity=TRANSPORT_CLOSE_FRAME_CAPACITY)
    buffer.push_uint_var(code)
    buffer.push_uint_var(QuicFrameType.PADDING)
    buffer.push_uint_var(0)
    datagrams, _ = builder.flush()
    return datagrams[0]


class AddressTokens:
    """Tokens that show that a client can receive at its address; bound to it and good for half a minute."""

    def __init__(self) -> None:
        """Make a key that ends with the process."""
        self._handler: Final = QuicRetryTokenHandler()

    def retry(self, initial: Initial, address: Address, now: float) -> bytes:
        """A Retry that asks a client to come again with a token."""
        source = os.urandom(CONNECTION_ID_BYTES)
        token = self._handler.create_token(
            address=address,
            original_destination_connection_id=initial.destination,
            retry_source_connection_id=source,
            now=now,
        )
        return encode_quic_retry(
            version=initial.version,
            source_cid=source,
            destination_cid=initial.source,
            original_destination_cid=initial.destination,
            retry_token=token,
        )

    def check(self, initial: Initial, address: Address, now: float) -> bytes | None:
        """The connection id that a client with a good token chose first; None when the token is not good."""
        try:
            return self._handler.validate_token(
                address=address, destination_cid=initial.destination, token=initial.token, now=now
            )
        except ValueError:
            return None
