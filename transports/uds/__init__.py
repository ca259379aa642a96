"""The tier of one machine: Unix sockets between processes, and shared memory for what is large."""

from __future__ import annotations

from flowbridge.transports.uds.transport import UdsTransport

__all__ = ["UdsTransport"]
