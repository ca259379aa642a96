"""Envelopes and errors as they go over a bus link and come from it, with the times of the process that has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbridge.codec.bus_errors import error_in, error_out
from flowbridge.codec.bus_frames import REQUEST_POSITIONS, SENT_NS, envelope_in, refuse, request_in
from flowbridge.codec.bus_items import envelope_out
from flowbridge.codec.bus_payload import RAW, decode, encode
from flowbridge.codec.codes import CODE_MAX, coded, cut, error_as
from flowbridge.errors import DecodeError, RemoteProtocolError
from flowbridge.limits import RETRY_AFTER_MS_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbridge.envelope import Envelope
    from flowbridge.errors import FlowbridgeError
    from flowbridge.time.far import Times


class LinkEnvelopes:
    """Writes and reads for one end of a link; `peer` is the other end, for messages."""

    __slots__ = ("_far", "_peer")

    def __init__(self, peer: str, times: Times) -> None:
        self._peer = peer
        self._far = None if times.is_shared else times  # nothing is called where there is nothing to do

    def write(self, envelope: Envelope, deadline_ns: int | None = None) -> tuple[bytes, bytes]:
        """The positions of an envelope and its payload; `deadline_ns` replaces its own. Raises: EncodeError."""
        payload = envelope.payload
        codec, body = (RAW, payload) if type(payload) is bytes else encode(payload)
        if self._far is not None:
            envelope = self._far.leaving(envelope, deadline_ns)
            deadline_ns = None
        return envelope_out(envelope, codec, deadline_ns), body

    def read(self, values: Sequence[Any], at: int, body: bytes) -> Envelope:
        """The envelope whose positions begin at `at`. Raises: RemoteProtocolError."""
        envelope, codec = envelope_in(values, at)
        if self._far is not None:
            self._far.arrived(envelope)
        if codec == RAW:
            envelope.payload = body
            return envelope
        try:
            envelope.payload = decode(codec, body)
        except DecodeError as error:
            raise RemoteProtocolError(f"{self._peer}: {error}") from error
        return envelope

    def leaving_request(self, request: Envelope) -> Envelope:
        """A request as a REPLY to it tells of it; when it is written the envelope beside it says."""
        return request if self._far is None else self._far.leaving(request)

    def read_request(self, values: Sequence[Any]) -> Envelope:
        """The request that a REPLY tells of."""
        request = request_in(values)
        if self._far is not None:
            request.sent_ns = values[REQUEST_POSITIONS + SENT_NS]
            self._far.arrived(request)
        return request

    def refusal(self, call: int, request: Envelope, error: FlowbridgeError) -> bytes:
        """The header of a REFUSE. Raises: EncodeError."""
        error = coded(error)
        assert error.code is not None, "it has a code now"
        again_ns = error.retry_after_ns
        told = cut(str(error))
        request = self.leaving_request(request)
        return refuse(call, request, error.code, told, None if again_ns is None else -(-again_ns // 1_000_000))

    def read_refusal(self, values: Sequence[Any]) -> tuple[Envelope, FlowbridgeError]:
        """The request that a REFUSE tells of, and why it was refused. Raises: RemoteProtocolError."""
        sent_ns, code, told, again_ms = values[REQUEST_POSITIONS:]
        if code > CODE_MAX or (again_ms or 0) > RETRY_AFTER_MS_MAX:
            raise RemoteProtocolError(f"{self._peer}: refuses with code {code}, to be asked again in {again_ms} ms")
        request = request_in(values[:REQUEST_POSITIONS])
        if self._far is not None:
            request.sent_ns = sent_ns
            self._far.arrived(request)
        return request, error_as(code, told, None if again_ms is None else again_ms * 1_000_000)

    def write_error(self, call: int, error: Exception) -> bytes:
        """The header of an ERROR."""
        return error_out(call, error if self._far is None else self._far.leaving_error(error))

    def read_error(self, values: Sequence[Any]) -> FlowbridgeError:
        """The error of an ERROR. Raises: RemoteProtocolError for one that is none."""
        error = error_in(values)
        if self._far is not None:
            self._far.arrived_error(error)
        return error

    def __repr__(self) -> str:
        return f"<LinkEnvelopes of {self._peer}>"
