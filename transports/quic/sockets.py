"""Datagram sockets on every loop: a reader of our own on asyncio's, the loop's transport elsewhere (udp(7), ip(7)).

asyncio's transport reads one datagram for each turn of its loop. Reading up to 32 takes a quarter of the time where
they come in bursts; uvloop does so by itself, and cheaper.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

from flowbridge.errors import BrokenError, Effect, ResourceError, Retry
from flowbridge.limits import (
    QUIC_DATAGRAM_BYTES,
    QUIC_DATAGRAM_BYTES_LOCAL,
    UDP_BUFFER_BYTES,
    UDP_DATAGRAMS_PER_TURN_MAX,
    UDP_UNSENT_BYTES_MAX,
    UDP_UNSENT_DATAGRAMS_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.transports.quic.engine import Address

_RECEIVE_BYTES: Final = 65_535
_IP_MTU: Final = 14  # of linux/in.h, which the module socket does not have
_IPV6_MTU: Final = 24
_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class DatagramHandler(Protocol):
    """Who is told of what a socket receives; called from the loop, and must not raise."""

    def datagram_received(self, data: bytes, address: Address) -> None:
        """A datagram came."""
        ...

    def error_received(self, error: OSError) -> None:
        """The network or the kernel said why a datagram did not go: ECONNREFUSED, EHOSTUNREACH, EPERM, EMSGSIZE."""
        ...


class DatagramSocket(Protocol):
    """A bound socket, connected or not. Sending never waits and never raises: what cannot go is lost."""

    @property
    def address(self) -> Address:
        """Where it is bound, with the port that the system chose."""
        ...

    def send(self, data: bytes, address: Address) -> None:
        """Send one datagram; a connected socket sends to its peer, whatever the address."""
        ...

    def close(self) -> None:
        """Close it; the handler is not called any more. Idempotent."""
        ...


class ReaderSocket:
    """A socket that the loop watches and we read, several datagrams a turn."""

    def __init__(self, sock: socket.socket, handler: DatagramHandler, remote: Address | None) -> None:
        self.address: Final[Address] = sock.getsockname()[:2]
        self._sock = sock
        self._handler = handler
        self._remote = remote
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[tuple[bytes, Address]] = deque()
        self._is_closed = False
        self._loop.add_reader(sock.fileno(), self._readable)

    def _readable(self) -> None:
        handler, receive = self._handler, self._sock.recvfrom
        for _ in range(UDP_DATAGRAMS_PER_TURN_MAX):
            if self._is_closed:  # by what the handler did
                return
            try:
                data, source = receive(_RECEIVE_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # of what was sent before; asking takes it away
                handler.error_received(error)
            else:
                handler.datagram_received(data, source[:2])

    def send(self, data: bytes, address: Address) -> None:
        """Send one datagram, or keep it while the kernel takes none."""
        if self._is_closed:
            return
        if self._unsent:
            if len(self._unsent) < UDP_UNSENT_DATAGRAMS_MAX:
                self._unsent.append((data, address))
        elif not self._sent(data, address):
            self._unsent.append((data, address))
            self._loop.add_writer(self._sock.fileno(), self._writable)

    def _sent(self, data: bytes, address: Address) -> bool:
        """Whether the datagram needs no further try: it went, or it never will."""
        for _ in range(2):
            try:
                if self._remote is None:
                    self._sock.sendto(data, address)
                else:
                    self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                return False
            except ConnectionRefusedError as error:
                # This is about an earlier one, and kept this one from going.
                self._handler.error_received(error)
            except OSError as error:
                self._handler.error_received(error)
                return True
            else:
                return True
        return True

    def _writable(self) -> None:
        while self._unsent:
            if not self._sent(*self._unsent[0]):
                return
            self._unsent.popleft()
        self._loop.remove_writer(self._sock.fileno())

    def buffer_bytes(self) -> int:
        """What the kernel keeps for us while we do not read, as socket(7) counts it."""
        return self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    def close(self) -> None:
        """Close it; what the kernel has not taken is tried once more."""
        if self._is_closed:
            return
        while self._unsent and self._sent(*self._unsent[0]):
            self._unsent.popleft()
        self._is_closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()


class TransportSocket(asyncio.DatagramProtocol):
    """A socket that the loop reads and writes."""

    def __init__(self, handler: DatagramHandler, remote: Address | None) -> None:
        self.address: Address = ("", 0)
        self._handler = handler
        self._remote = remote
        self._transport: asyncio.DatagramTransport | None = None
        self._unsent_bytes: Callable[[], int] = int
        self._is_closed = False

    def opened(self, transport: asyncio.DatagramTransport) -> TransportSocket:
        """Take the transport, which the loop may tell a protocol only in its next turn."""
        self._transport = transport
        self._unsent_bytes = transport.get_write_buffer_size  # type: ignore[attr-defined]  # typeshed forgot it
        self.address = transport.get_extra_info("sockname")[:2]
        _enlarge(transport.get_extra_info("socket"))
        return self

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """The loop's part: a datagram came."""
        if not self._is_closed:
            self._handler.datagram_received(data, (addr[0], addr[1]))

    def error_received(self, exc: Exception) -> None:
        """The loop's part: one did not go."""
        if not self._is_closed:
            self._handler.error_received(exc if isinstance(exc, OSError) else OSError(str(exc)))

    def send(self, data: bytes, address: Address) -> None:
        """Send one datagram, unless too much waits already."""
        if self._transport is not None and self._unsent_bytes() <= UDP_UNSENT_BYTES_MAX:
            self._transport.sendto(data, None if self._remote is not None else address)

    def close(self) -> None:
        """Close it; the loop sends what it has kept."""
        self._is_closed = True
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()


async def open_socket(
    handler: DatagramHandler, *, local: Address | None = None, remote: Address | None = None
) -> DatagramSocket:
    """A socket bound to one numeric address or connected to another, its buffers enlarged where that is allowed.

    Raises: OSError.
    """
    loop = asyncio.get_running_loop()
    if isinstance(loop, asyncio.SelectorEventLoop):
        return ReaderSocket(_made(local, remote), handler, remote)
    if type(loop).__module__.partition(".")[0] == "uvloop":  # loses a socket that it cannot bind
        where: dict[str, Any] = {"sock": _made(local, remote)}
    else:
        where = {"local_addr": local, "remote_addr": remote}
    transport, protocol = await loop.create_datagram_endpoint(lambda: TransportSocket(handler, remote), **where)
    return protocol.opened(transport)


def _made(local: Address | None, remote: Address | None) -> socket.socket:
    host, _ = chosen = remote or local or ("0.0.0.0", 0)  # noqa: S104 - the caller said neither
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        _enlarge(sock)
        # getaddrinfo(3) turns the name of an interface in an IPv6 address into its number; it does not look up.
        target = socket.getaddrinfo(*chosen, family, socket.SOCK_DGRAM, 0, socket.AI_NUMERICHOST)[0][4]
        if remote is None:
            sock.bind(target)
        else:
            sock.connect(target)
    except BaseException:
        sock.close()
        raise
    return sock


def _enlarge(sock: socket.socket | None) -> None:
    """Ask for larger buffers; the kernel gives no more than `net.core.rmem_max` and `wmem_max` (socket(7))."""
    if sock is None:  # of a loop that has none
        return
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        with contextlib.suppress(OSError):
            if sock.getsockopt(socket.SOL_SOCKET, option) < UDP_BUFFER_BYTES:
                sock.setsockopt(socket.SOL_SOCKET, option, UDP_BUFFER_BYTES)


async def resolve(address: Address) -> list[Address]:
    """The numeric addresses of a host, IPv4 first as that is where listeners are unless they are told otherwise.

    Raises: BrokenError, nothing having happened, when the name has none.
    """
    host, port = address
    with contextlib.suppress(ValueError):
        return [(str(ipaddress.ip_address(host)), port)]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no name of a host"
        raise unreachable(address, f"the name cannot be resolved: {reason}", error) from error
    ordered = sorted(found, key=lambda entry: entry[0] != socket.AF_INET)
    return list(dict.fromkeys((str(entry[4][0]), int(entry[4][1])) for entry in ordered))


def datagram_bytes_to(address: Address) -> int:
    """How many bytes a datagram to a numeric address may have: what every path carries, and more within this machine.

    Within a machine the first interface is the whole path, and the kernel says what it takes (IP_MTU, ip(7)); beyond it
    nobody knows without trying. Where it cannot be asked (not Linux) it is what every path carries.
    """
    host, port = address
    if sys.platform != "linux":
        return QUIC_DATAGRAM_BYTES
    family, level, option, header_bytes = (
        (socket.AF_INET6, socket.IPPROTO_IPV6, _IPV6_MTU, 48) if ":" in host else (socket.AF_INET, 0, _IP_MTU, 28)
    )
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((host, port))
            own = ipaddress.ip_address(sock.getsockname()[0])
            mtu_bytes = sock.getsockopt(level, option)
        is_here = ipaddress.ip_address(host) == own or own.is_loopback
    except (OSError, ValueError):
        return QUIC_DATAGRAM_BYTES
    if not is_here:
        return QUIC_DATAGRAM_BYTES
    return max(QUIC_DATAGRAM_BYTES, min(mtu_bytes - header_bytes, QUIC_DATAGRAM_BYTES_LOCAL))


def unreachable(address: Address, why: str, error: Exception) -> ResourceError:
    """The error for an address that nothing could be sent to; nothing has happened."""
    text = f"{shown(address)}: {why}"
    if isinstance(error, OSError) and error.errno in _SHORT:
        short = ResourceError(text)
        short.retry = Retry.LATER
        return short
    broken = BrokenError(text)
    broken.effect = Effect.NONE
    return broken


def shown(address: Address) -> str:
    """An address as people write it: an IPv6 one in brackets (RFC 3986, section 3.2.2)."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def said(error: OSError) -> str:
    """What an error of a socket means, for people."""
    match error.errno:
        case errno.ECONNREFUSED:
            return "nobody listens there (connection refused)"
        case errno.ENETUNREACH | errno.EHOSTUNREACH:
            return f"there is no way there ({os.strerror(error.errno)})"
        case errno.EPERM | errno.EACCES:
            return "sending is not permitted: a firewall blocks UDP"
        case errno.EADDRINUSE:
            return "the port is taken: another program listens there"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address"
        case None:
            return str(error)
        case number:
            return os.strerror(number)
