"""What the simulated network does to datagrams, seen from sockets and in its trace."""

from __future__ import annotations

import asyncio
import errno
import itertools
import socket
from typing import TYPE_CHECKING, Any, cast

import pytest

from flowbridge.errors import LocalProtocolError
from flowbridge.testing.network import Conditions, SimulatedHost, SimulatedNetwork
from flowbridge.testing.virtual_loop import pause, run_simulated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowbridge.testing.datagrams import Address

    Scenario = Callable[[SimulatedNetwork, SimulatedHost, SimulatedHost], Awaitable[Any]]


class Inbox(asyncio.DatagramProtocol):
    """Keeps what comes, with the time."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.at: list[float] = []
        self.sources: list[Address] = []
        self.errors: list[Exception] = []
        self.states: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.states.append("made")

    def connection_lost(self, exc: Exception | None) -> None:
        self.states.append("lost")

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.got.append(data)
        self.at.append(asyncio.get_running_loop().time())
        self.sources.append(addr)

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)


async def opened(
    host: SimulatedHost, *, local: Address | None = None, remote: Address | None = None
) -> tuple[asyncio.DatagramTransport, Inbox]:
    async def there() -> tuple[asyncio.DatagramTransport, Inbox]:
        loop = asyncio.get_running_loop()
        return await loop.create_datagram_endpoint(Inbox, local_addr=local, remote_addr=remote)

    return await host.start(there())


def on_two_hosts(scenario: Scenario, *, seed: int = 0, **conditions: Any) -> Any:
    async def run(seed: int) -> Any:
        network = SimulatedNetwork(seed, conditions=Conditions(**conditions))
        return await scenario(network, network.host("a", "10.0.0.1"), network.host("b", "10.0.0.2"))

    return run_simulated(run, seed=seed)


SERVER = ("10.0.0.2", 500)


def flood(count: int, size: int = 100, **conditions: Any) -> tuple[SimulatedNetwork, Inbox, float]:
    """Send numbered datagrams at once from a to b; the network, what came and when they were sent."""

    async def scenario(network: SimulatedNetwork, a: SimulatedHost, b: SimulatedHost) -> Any:
        _, inbox = await opened(b, local=("0.0.0.0", 500))
        sender, _ = await opened(a, remote=SERVER)
        at = asyncio.get_running_loop().time()
        for n in range(count):
            sender.sendto(n.to_bytes(4, "big") + bytes(size - 4))
        await pause(100)
        return network, inbox, at

    return cast("tuple[SimulatedNetwork, Inbox, float]", on_two_hosts(scenario, **conditions))


def numbers(inbox: Inbox) -> list[int]:
    return [int.from_bytes(data[:4], "big") for data in inbox.got]


def test_a_datagram_takes_its_delay() -> None:
    _, inbox, at = flood(1, delay_s=0.25)
    assert inbox.at[0] - at == pytest.approx(0.25, abs=1e-4)


def test_jitter_spreads_arrivals_and_keeps_their_order() -> None:
    _, inbox, at = flood(200, delay_s=0.1, jitter_s=0.05)
    assert numbers(inbox) == list(range(200))
    assert min(inbox.at) - at >= 0.1
    assert 0.14 < max(inbox.at) - at < 0.151


@pytest.mark.parametrize("loss", [0.0, 0.1, 1.0])
def test_as_many_are_lost_as_were_asked_for(loss: float) -> None:
    network, inbox, _ = flood(2_000, loss=loss)
    assert len(inbox.got) == 2_000 - network.counts["lost"]
    assert network.counts["lost"] == pytest.approx(2_000 * loss, abs=60)


def test_duplicates_come_once_more() -> None:
    network, inbox, _ = flood(1_000, duplicate=0.1)
    assert 60 < network.counts["duplicate"] < 140
    assert len(inbox.got) == 1_000 + network.counts["duplicate"]
    assert set(numbers(inbox)) == set(range(1_000))


def test_reordered_ones_are_overtaken() -> None:
    _, inbox, _ = flood(1_000, reorder=0.05, reorder_s=0.01)
    got = numbers(inbox)
    assert sorted(got) == list(range(1_000))
    overtaken = [number for number, later in itertools.pairwise(got) if later < number]
    assert 1 <= len(overtaken) <= 100
    assert len([number for n, number in enumerate(got) if number < n]) > 20


def test_corruption_flips_one_bit() -> None:
    network, inbox, _ = flood(1_000, corrupt=0.1)
    sent = {n.to_bytes(4, "big") + bytes(96) for n in range(1_000)}
    spoilt = [data for data in inbox.got if data not in sent]
    assert 60 < len(spoilt) <= network.counts["corrupted"] < 140
    assert all(sum(byte.bit_count() for byte in data[4:]) <= 1 for data in inbox.got)


def test_a_rate_spaces_what_it_lets_through_and_its_queue_is_bounded() -> None:
    network, inbox, at = flood(100, size=972, rate_bytes_s=10_000, queue_bytes=20_000)
    assert len(inbox.got) == 20
    assert network.counts["queue full"] == 80
    assert [round(time - at, 3) for time in inbox.at] == pytest.approx([0.1 * n for n in range(1, 21)], abs=1e-3)


def test_what_is_larger_than_the_mtu_vanishes() -> None:
    network, inbox, _ = flood(3, size=1_272, mtu_bytes=1_300)
    assert len(inbox.got) == 3
    network, inbox, _ = flood(3, size=1_273, mtu_bytes=1_300)
    assert (inbox.got, network.counts["too large"]) == ([], 3)


@pytest.mark.parametrize("one_way", [False, True])
def test_a_cut_lets_nothing_through_until_it_is_healed(one_way: bool) -> None:
    async def scenario(network: SimulatedNetwork, a: SimulatedHost, b: SimulatedHost) -> None:
        server, at_b = await opened(b, local=SERVER)
        client, at_a = await opened(a, remote=SERVER)
        network.cut("a", "b", one_way=one_way)
        client.sendto(b"1")
        server.sendto(b"2", client.get_extra_info("sockname"))
        await pause(1)
        assert at_b.got == []
        assert at_a.got == ([b"2"] if one_way else [])
        network.heal("a", "b", one_way=one_way)
        client.sendto(b"3")
        await pause(1)
        assert at_b.got == [b"3"]

    on_two_hosts(scenario, delay_s=0.01)


def test_a_closed_port_is_told_to_a_connected_socket_only() -> None:
    async def scenario(network: SimulatedNetwork, a: SimulatedHost, b: SimulatedHost) -> None:
        connected, told = await opened(a, remote=SERVER)
        loose, untold = await opened(a)
        connected.sendto(b"x")
        loose.sendto(b"x", SERVER)
        await pause(1)
        assert [type(error) for error in told.errors] == [ConnectionRefusedError]
        assert untold.errors == []
        assert network.counts["refused"] == 2
        network.condition("a", "b", tells_refusal=False)
        connected.sendto(b"x")
        await pause(1)
        assert len(told.errors) == 1
        await opened(b, local=SERVER)
        connected.sendto(b"x")
        await pause(1)
        assert network.trace[-1].fate == "delivered"

    on_two_hosts(scenario)


def test_a_connected_socket_hears_nobody_else() -> None:
    async def scenario(network: SimulatedNetwork, a: SimulatedHost, b: SimulatedHost) -> None:
        client, inbox = await opened(a, remote=SERVER)
        stranger, _ = await opened(b, local=("", 501))
        stranger.sendto(b"x", client.get_extra_info("sockname"))
        await pause(1)
        assert inbox.got == []
        assert network.counts["not of peer"] == 1
        with pytest.raises(ValueError, match="must be None or"):
            client.sendto(b"x", ("10.0.0.2", 501))

    on_two_hosts(scenario)


def test_rebinding_changes_the_source_and_forgets_the_old_one() -> None:
    async def scenario(network: SimulatedNetwork, a: SimulatedHost, b: SimulatedHost) -> None:
        server, at_b = await opened(b, local=SERVER)
        client, at_a = await opened(a, remote=SERVER)
        client.sendto(b"1")
        await pause(1)
        a.rebind("192.0.2.7")
        client.sendto(b"2")
        await pause(1)
        a.rebind()
        client.sendto(b"3")
        await pause(1)
        assert [host for host, _ in at_b.sources] == ["10.0.0.1", "192.0.2.7", "192.0.2.7"]
        assert len(set(at_b.sources)) == 3
        for source in at_b.sources:
            server.sendto(b"to %d" % source[1], source)
        await pause(1)
        assert at_a.got == [b"to %d" % at_b.sources[-1][1]]
        assert network.counts["no port"] == 2

    on_two_hosts(scenario)


def test_a_frozen_host_receives_until_its_buffer_is_full_and_reads_it_later() -> None:
    async def scenario(network: SimulatedNetwork, a: SimulatedHost, b: SimulatedHost) -> None:
        server, inbox = await opened(b, local=SERVER)
        server.receive_bytes_max = 1_000  # type: ignore[attr-defined]
        client, _ = await opened(a, remote=SERVER)
        b.freeze()
        for _ in range(12):
            client.sendto(bytes(100))
        await pause(5)
        assert inbox.got == []
        assert network.counts["buffer full"] == 2
        b.thaw()
        await pause(1)
        assert len(inbox.got) == 10

    on_two_hosts(scenario)


def test_a_killed_host_says_only_that_its_ports_are_closed_and_an_unplugged_one_nothing() -> None:
    async def scenario(_network: SimulatedNetwork, a: SimulatedHost, b: SimulatedHost) -> None:
        _, inbox = await opened(b, local=SERVER)
        client, told = await opened(a, remote=SERVER)
        b.kill()
        client.sendto(b"x")
        await pause(1)
        assert inbox.states == ["made"]
        assert len(told.errors) == 1
        b.restart()
        _, again = await opened(b, local=SERVER)
        client.sendto(b"y")
        await pause(1)
        assert again.got == [b"y"]
        b.unplug()
        client.sendto(b"z")
        await pause(1)
        b.plug()
        await pause(1)
        assert (again.got, len(told.errors), inbox.got) == ([b"y"], 1, [])

    on_two_hosts(scenario)


def test_sockets_are_refused_as_linux_refuses_them() -> None:
    async def scenario(_network: SimulatedNetwork, a: SimulatedHost, b: SimulatedHost) -> None:
        transport, inbox = await opened(b, local=SERVER)
        with pytest.raises(OSError, match="Address already in use") as taken:
            await opened(b, local=("0.0.0.0", 500))
        assert taken.value.errno == errno.EADDRINUSE
        with pytest.raises(OSError, match="Cannot assign requested address"):
            await opened(a, local=SERVER)
        with pytest.raises(socket.gaierror, match="nowhere"):
            await opened(a, remote=("nowhere", 1))
        transport.sendto(bytes(65_508), SERVER)
        transport.close()
        transport.close()
        transport.sendto(b"x", SERVER)
        await pause(1)
        assert transport.is_closing()
        assert inbox.states == ["made", "lost"]
        await opened(b, local=SERVER)

    on_two_hosts(scenario)


def test_a_host_is_found_by_its_name() -> None:
    async def scenario(_network: SimulatedNetwork, a: SimulatedHost, b: SimulatedHost) -> None:
        _, inbox = await opened(b, local=SERVER)
        client, _ = await opened(a, remote=("b", 500))
        assert client.get_extra_info("peername") == SERVER
        client.sendto(b"x")
        await pause(1)
        assert inbox.sources == [client.get_extra_info("sockname")]

    on_two_hosts(scenario)


def test_a_socket_belongs_to_a_host() -> None:
    async def scenario(_network: SimulatedNetwork, _a: SimulatedHost, _b: SimulatedHost) -> None:
        with pytest.raises(LocalProtocolError, match="belongs to a host"):
            await asyncio.get_running_loop().create_datagram_endpoint(Inbox, remote_addr=SERVER)

    on_two_hosts(scenario)


@pytest.mark.parametrize("wrong", [{"loss": 1.5}, {"corrupt": -0.1}, {"delay_s": -1.0}, {"queue_bytes": -1}])
def test_conditions_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError, match=next(iter(wrong))):
        Conditions(**wrong)


def test_hosts_and_links_are_named_when_they_are_wrong() -> None:
    async def scenario(network: SimulatedNetwork, _a: SimulatedHost, _b: SimulatedHost) -> None:
        with pytest.raises(LocalProtocolError, match="host a at"):
            network.host("a", "10.0.0.9")
        with pytest.raises(LocalProtocolError, match="host c: there is none; there are a, b"):
            network.cut("a", "c")

    on_two_hosts(scenario)


def test_the_trace_says_when_from_where_to_where_how_much_and_what_became_of_it() -> None:
    network, _, _ = flood(1, delay_s=0.5)
    assert len(network.trace) == 1
    words = network.trace_text().split()
    assert words[2:] == ["10.0.0.1:49152", ">", "10.0.0.2:500", "100", "delivered"]
    assert float(words[1]) - float(words[0]) == pytest.approx(0.5, abs=1e-4)
