"""Sockets of the endpoint: fairness, what the kernel does not take, errors, addresses of both families."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from flowbridge.errors import BrokenError, Effect, ResourceError
from flowbridge.limits import (
    QUIC_DATAGRAM_BYTES,
    QUIC_DATAGRAM_BYTES_LOCAL,
    UDP_BUFFER_BYTES,
    UDP_DATAGRAMS_PER_TURN_MAX,
    UDP_UNSENT_DATAGRAMS_MAX,
)
from flowbridge.transports.quic.sockets import (
    ReaderSocket,
    datagram_bytes_to,
    open_socket,
    resolve,
    said,
    shown,
    unreachable,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.transports.quic.engine import Address
    from flowbridge.transports.quic.sockets import DatagramSocket


everywhere = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


class Kept:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[bytes, Address]] = []
        self.errors: list[OSError] = []

    def datagram_received(self, data: bytes, address: Address) -> None:
        self.got.append((data, address))

    def error_received(self, error: OSError) -> None:
        self.errors.append(error)


async def until(come: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not come():  # noqa: ASYNC110 - what is waited for comes from a socket
            await asyncio.sleep(0)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@everywhere
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_bound_and_connected_sockets_reach_each_other(host: str, run: Callable[[Any], None]) -> None:
    async def test() -> None:
        kept, back = Kept(), Kept()
        bound = await open_socket(kept, local=(host, 0))
        connected = await open_socket(back, remote=bound.address)
        connected.send(b"there", ("ignored", 1))
        await until(lambda: bool(kept.got))
        assert kept.got == [(b"there", connected.address)]
        assert connected.address[0] == host
        bound.send(b"back", connected.address)
        await until(lambda: bool(back.got))
        assert back.got == [(b"back", bound.address)]
        for one in (bound, connected):
            one.close()
            one.close()
            one.send(b"nowhere", bound.address)
        await turns(5)
        assert kept.errors == back.errors == []

    run(test())


@everywhere
def test_a_datagram_that_is_too_large_is_told_and_lost(run: Callable[[Any], None]) -> None:
    async def test() -> None:
        kept = Kept()
        bound = await open_socket(kept, local=("127.0.0.1", 0))
        bound.send(bytes(70_000), bound.address)
        bound.send(b"small", bound.address)
        await until(lambda: bool(kept.got and kept.errors))
        assert [error.errno for error in kept.errors] == [errno.EMSGSIZE]
        assert kept.got == [(b"small", bound.address)]
        bound.close()
        await turns(5)

    run(test())


def test_no_more_than_a_slice_is_read_before_others_run() -> None:
    async def test() -> None:
        kept = Kept()
        bound = await open_socket(kept, local=("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for n in range(100):
                sender.sendto(b"%d" % n, bound.address)
        seen: list[int] = []
        while len(kept.got) < 100:
            await asyncio.sleep(0)
            seen.append(len(kept.got))
        steps = [later - earlier for earlier, later in zip([0, *seen], seen, strict=False)]
        assert max(steps) == UDP_DATAGRAMS_PER_TURN_MAX
        assert [data for data, _ in kept.got] == [b"%d" % n for n in range(100)]
        bound.close()

    asyncio.run(test())


def test_a_handler_may_close_the_socket_while_more_waits() -> None:
    class Closing(Kept):
        def datagram_received(self, data: bytes, address: Address) -> None:
            super().datagram_received(data, address)
            for one in opened:
                one.close()

    async def test() -> None:
        kept = Closing()
        bound = await open_socket(kept, local=("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(5):
                sender.sendto(b"x", bound.address)
        opened.append(bound)
        await until(lambda: bool(kept.got))
        await turns(5)
        assert len(kept.got) == 1

    opened: list[DatagramSocket] = []
    asyncio.run(test())


def test_what_the_kernel_does_not_take_is_kept_up_to_a_bound_and_goes_in_order() -> None:
    async def test() -> None:
        # Unlike over loopback, a sender over a Unix socket has to wait for the reader (unix(7)).
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        theirs.setblocking(False)
        kept = Kept()
        sender = ReaderSocket(ours, kept, ("peer", 1))
        for n in range(2_000):
            sender.send(b"%d" % n, ("peer", 1))
        got: list[int] = []

        def read() -> None:
            got.append(int(theirs.recv(100)))

        loop = asyncio.get_running_loop()
        loop.add_reader(theirs.fileno(), read)
        await until(lambda: len(got) > UDP_UNSENT_DATAGRAMS_MAX)
        await turns(50)
        assert got == list(range(len(got)))
        assert UDP_UNSENT_DATAGRAMS_MAX < len(got) < 1_000
        sender.send(b"7", ("peer", 1))
        await until(lambda: got[-1] == 7)
        assert kept.errors == []
        loop.remove_reader(theirs.fileno())
        sender.close()
        theirs.close()

    asyncio.run(test())


def test_a_refusal_of_an_earlier_datagram_does_not_cost_the_next() -> None:
    async def test() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            address = other.getsockname()
        kept = Kept()
        connected = await open_socket(kept, remote=address)
        connected.send(b"lost", address)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(address)
            other.settimeout(20)
            connected.send(b"comes", address)  # in the same turn: the refusal was not read yet
            assert other.recv(100) == b"comes"
        assert [type(error) for error in kept.errors] == [ConnectionRefusedError]
        connected.close()

    asyncio.run(test())


def test_buffers_are_as_large_as_the_kernel_allows() -> None:
    async def test() -> None:
        bound = await open_socket(Kept(), local=("127.0.0.1", 0))
        assert isinstance(bound, ReaderSocket)
        with open("/proc/sys/net/core/rmem_max") as file:  # noqa: ASYNC230 - not a real file
            allowed = min(UDP_BUFFER_BYTES, int(file.read()))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
            default = plain.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert bound.buffer_bytes() >= max(allowed, default)
        bound.close()

    asyncio.run(test())


@everywhere
def test_a_way_that_is_not_there_is_told(run: Callable[[Any], None]) -> None:
    async def test() -> None:
        with pytest.raises(OSError, match=r".") as caught:
            await open_socket(Kept(), remote=("255.255.255.255", 9))  # needs SO_BROADCAST
        error = unreachable(("255.255.255.255", 9), said(caught.value), caught.value)
        assert "255.255.255.255:9: sending is not permitted" in str(error)
        assert (type(error), error.effect) == (BrokenError, Effect.NONE)

    run(test())


def test_want_of_descriptors_is_no_fault_of_the_network() -> None:
    error = unreachable(("10.0.0.1", 1), "too many open files", OSError(errno.EMFILE, "too many open files"))
    assert type(error) is ResourceError
    assert str(error) == "10.0.0.1:1: too many open files"


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.ENETUNREACH, errno.EPERM, errno.EADDRINUSE, errno.EIO])
def test_every_error_has_words(number: int) -> None:
    words = {said(OSError(n, "x")) for n in (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EPERM, errno.EADDRINUSE)}
    assert len(words) == 4
    assert said(OSError(number, "x"))
    assert said(OSError("plain")) == "plain"


def test_names_have_addresses_ipv4_first_and_numbers_are_their_own() -> None:
    async def test() -> None:
        assert await resolve(("127.0.0.1", 7)) == [("127.0.0.1", 7)]
        assert await resolve(("::1", 7)) == [("::1", 7)]
        found = await resolve(("localhost", 7))
        assert ("127.0.0.1", 7) in found
        assert found == sorted(found, key=lambda address: ":" in address[0])
        assert len(found) == len(set(found))

    asyncio.run(test())


def test_addresses_are_shown_as_people_write_them() -> None:
    assert shown(("10.0.0.1", 7)) == "10.0.0.1:7"
    assert shown(("::1", 7)) == "[::1]:7"


# --- how large datagrams may be ---------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what an interface takes")
def test_datagrams_within_a_machine_are_as_large_as_its_interface_takes() -> None:
    assert datagram_bytes_to(("127.0.0.1", 4433)) == QUIC_DATAGRAM_BYTES_LOCAL


def test_datagrams_to_another_machine_are_what_every_path_carries() -> None:
    assert datagram_bytes_to(("192.0.2.1", 4433)) == QUIC_DATAGRAM_BYTES  # TEST-NET-1, RFC 5737


def test_datagrams_to_what_is_no_address_are_what_every_path_carries() -> None:
    assert datagram_bytes_to(("fe80::1%nowhere", 4433)) == QUIC_DATAGRAM_BYTES
