"""A network in memory, on virtual time: delay, loss, damage, queues, cuts and address translation, all from a seed.

    async def scenario(seed: int) -> None:
        network = SimulatedNetwork(seed)
        edge, core = network.host("edge", "10.0.0.1"), network.host("core", "10.0.0.2")
        network.condition("edge", "core", delay_s=0.015, loss=0.02)
        server = core.start(serve())          # `create_datagram_endpoint` in there binds on core
        ...
        network.cut("edge", "core")

    run_simulated(scenario, seed=7)

What is started with `SimulatedHost.start` runs on that host: its sockets are the host's, and it stops with it.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from collections import Counter
from contextvars import Context
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from flowbridge.errors import LocalProtocolError
from flowbridge.testing.datagrams import SimulatedEndpoint
from flowbridge.testing.virtual_loop import START_NS, VirtualLoop, VirtualProcess, current_process

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from flowbridge.testing.datagrams import Address

T = TypeVar("T")

HEADER_BYTES: Final = 28
"""IPv4 and UDP, which count for rate, queue and MTU."""
EPHEMERAL_FIRST: Final = 49_152
WILDCARDS: Final = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - what a caller may bind to


@dataclass(frozen=True, slots=True)
class Conditions:
    """What one direction between two hosts does to datagrams. Probabilities are from 0 to 1.

    - `delay_s`, and up to `jitter_s` more, uniformly; neither changes the order.
    - `loss`, `duplicate`, `corrupt` (one bit is flipped) happen to each datagram by itself.
    - `reorder` of them are held back by `reorder_s`, so that later ones overtake.
    - `rate_bytes_s` (0: no limit) with a queue of `queue_bytes`; what does not fit is lost. Both count `HEADER_BYTES`.
    - Larger packets than `mtu_bytes` vanish, as where the message that says so is filtered.
    - `tells_refusal`: whether ICMP's word that a port is closed comes back.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_s: float = 0.0
    corrupt: float = 0.0
    rate_bytes_s: float = 0.0
    queue_bytes: int = 64 * 1024
    mtu_bytes: int = 65_535
    tells_refusal: bool = True

    def __post_init__(self) -> None:
        """Raises: LocalProtocolError for what cannot be."""
        for name in ("loss", "duplicate", "reorder", "corrupt"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise LocalProtocolError(f"{name}: a probability is from 0 to 1: {getattr(self, name)}")
        for name in ("delay_s", "jitter_s", "reorder_s", "rate_bytes_s", "queue_bytes", "mtu_bytes"):
            if getattr(self, name) < 0:
                raise LocalProtocolError(f"{name}: must not be negative: {getattr(self, name)}")


class TraceEntry(NamedTuple):
    """What became of one datagram, or of one copy: its fate is in the words of `SimulatedNetwork.trace`.

    Times are virtual seconds since the start: when it was sent, and when its fate was known.
    """

    sent_s: float
    time_s: float
    source: Address
    destination: Address
    size_bytes: int
    fate: str

    def __str__(self) -> str:
        source, destination = (f"{host}:{port}" for host, port in (self.source, self.destination))
        return (
            f"{self.sent_s:12.6f} {self.time_s:12.6f} {source:>21} > {destination:<21} {self.size_bytes:6} {self.fate}"
        )


class _Packet(NamedTuple):
    """A datagram under way, as others see it."""

    sent_ns: int
    source: Address
    destination: Address
    data: bytes
    sender: SimulatedEndpoint


_OUTSIDE: Final = Context()
"""The network belongs to no process: it goes on while they stand still."""


def _spoilt(data: bytes, random: Random) -> bytes:
    """The same with one bit flipped."""
    spoilt = bytearray(data)
    spoilt[random.randrange(len(spoilt))] ^= 1 << random.randrange(8)
    return bytes(spoilt)


class SimulatedHost:
    """A machine with one address, one process and its sockets; made by `SimulatedNetwork.host`."""

    def __init__(self, network: SimulatedNetwork, name: str, address: str) -> None:
        self.name: Final = name
        self.address: Final = address
        self.is_plugged = True
        """Whether it is powered and on the network; what is sent to it otherwise is lost without a word."""
        self.outer_address: str = address
        """Where its datagrams seem to come from: another address after `rebind`."""
        self._network = network
        self._sockets: dict[int, SimulatedEndpoint] = {}
        self._port_next = EPHEMERAL_FIRST
        self._outer_of: dict[int, Address] = {}  # own port -> what others see, when that differs
        self._inner_of: dict[Address, int] = {}
        self.process: VirtualProcess = network.loop.process(name)

    # --- what runs on it --------------------------------------------------------------------------------------------

    def start(self, coroutine: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
        """Run a coroutine on this host. Raises: LocalProtocolError when it was killed."""
        return self.process.start(coroutine, name=name)

    def freeze(self) -> None:
        """Stop what runs on it (SIGSTOP); its sockets receive until their buffers are full."""
        self.process.freeze()

    def thaw(self) -> None:
        """Let it run on (SIGCONT)."""
        self.process.thaw()

    def kill(self) -> None:
        """End what runs on it at once (SIGKILL): its sockets are gone, and nobody is told but by closed ports."""
        self.process.kill()
        for endpoint in list(self._sockets.values()):
            endpoint.vanish()
        self._sockets.clear()

    def restart(self) -> None:
        """A new, empty process after `kill`; what ran before never runs again."""
        self.kill()
        self.process = self._network.loop.process(self.name)

    def unplug(self) -> None:
        """Take it off the network: unlike a killed one it does not even say that its ports are closed."""
        self.is_plugged = False

    def plug(self) -> None:
        """Put it back on the network."""
        self.is_plugged = True

    # --- address translation ----------------------------------------------------------------------------------------

    def rebind(self, outer_address: str | None = None) -> None:
        """Let its datagrams come from other ports from now on (NAT rebinding), and from another address if given.

        What is sent to where they came from before is lost.
        """
        if outer_address is not None:
            self._network.lead(outer_address, self)
            self.outer_address = outer_address
        self._inner_of.clear()
        self._outer_of = {port: self._translated(port) for port in self._sockets}

    def _translated(self, port: int) -> Address:
        outer = self.outer_address, self._port_new()
        self._inner_of[outer] = port
        return outer

    def outer(self, inner: Address) -> Address:
        """What others see as the source of what is sent from a socket's address."""
        port = inner[1]
        found = self._outer_of.get(port)
        if found is None:
            if self.outer_address == self.address:
                return self.address, port
            found = self._outer_of[port] = self._translated(port)
        return found

    @property
    def is_translated(self) -> bool:
        """Whether `rebind` was called: a translator says nothing of ports that it does not know."""
        return bool(self._outer_of) or self.outer_address != self.address

    def endpoint_at(self, outer: Address) -> SimulatedEndpoint | None:
        """The socket that a datagram to an address, as others see it, is for."""
        port = self._inner_of.get(outer)
        if port is None:
            if outer[0] != self.address or outer[1] in self._outer_of:
                return None
            port = outer[1]
        return self._sockets.get(port)

    # --- sockets ----------------------------------------------------------------------------------------------------

    def make_endpoint(
        self, factory: Callable[[], asyncio.BaseProtocol], local: Address | None, remote: Address | None
    ) -> tuple[asyncio.DatagramTransport, asyncio.BaseProtocol]:
        """A bound socket, connected to a remote address if given. Raises: OSError as Linux does."""
        host, port = local or ("", 0)
        if host not in WILDCARDS and self._network.resolve(host) != self.address:
            raise OSError(
                errno.EADDRNOTAVAIL, f"{os.strerror(errno.EADDRNOTAVAIL)}: {host} is not an address of {self}"
            )
        if port in self._sockets:
            raise OSError(errno.EADDRINUSE, f"{os.strerror(errno.EADDRINUSE)}: {host}:{port}")
        port = port or self._port_new()
        # Linux chooses the source when a socket is connected, and shows the wildcard when it is not.
        shown = self.address if host not in WILDCARDS or remote else host or "0.0.0.0"  # noqa: S104
        protocol = factory()
        endpoint = SimulatedEndpoint(self, (shown, port), remote, protocol, self.process.context())
        self._sockets[port] = endpoint
        return endpoint, protocol

    def _port_new(self) -> int:
        for _ in range(65_536 - EPHEMERAL_FIRST):
            port = self._port_next
            self._port_next = port + 1 if port < 65_535 else EPHEMERAL_FIRST
            if port not in self._sockets and (self.outer_address, port) not in self._inner_of:
                return port
        raise OSError(errno.EADDRINUSE, f"{self}: every port is taken")

    def forget(self, endpoint: SimulatedEndpoint) -> None:
        """A socket was closed."""
        port = endpoint.address[1]
        if self._sockets.get(port) is endpoint:
            del self._sockets[port]

    def send(self, endpoint: SimulatedEndpoint, data: bytes, destination: Address) -> None:
        """Send from a socket."""
        self._network.send(self, endpoint, data, (self._network.resolve(destination[0]), destination[1]))

    @property
    def loop(self) -> VirtualLoop:
        """The loop that everything runs on."""
        return self._network.loop

    def __repr__(self) -> str:
        return f"<SimulatedHost {self.name} {self.address}{'' if self.is_plugged else ' unplugged'}>"


class _Direction:
    """One way between two hosts: its conditions, its own chance and its queue."""

    __slots__ = ("arrived_ns", "conditions", "free_ns", "is_cut", "random")

    def __init__(self, conditions: Conditions, seed: str) -> None:
        self.conditions = conditions
        self.random: Final = Random(seed)  # noqa: S311 - to be repeatable is the point
        self.is_cut = False
        self.free_ns = 0.0  # when what is queued has left
        self.arrived_ns = 0  # when the last one in order arrives

    def queued_ns(self, size: int, now_ns: int) -> int | None:
        """When a packet has left the sender; None when the queue has no room for it."""
        conditions = self.conditions
        if not conditions.rate_bytes_s:
            return now_ns
        per_byte_ns = 1e9 / conditions.rate_bytes_s
        start_ns = max(self.free_ns, float(now_ns))
        if start_ns - now_ns > max(conditions.queue_bytes - size, 0) * per_byte_ns:
            return None
        self.free_ns = start_ns + size * per_byte_ns
        return round(self.free_ns)

    def arrival_ns(self, left_ns: int) -> int:
        """When what has left arrives."""
        conditions, random = self.conditions, self.random
        jitter_s = random.random() * conditions.jitter_s if conditions.jitter_s else 0.0
        arrival_ns = left_ns + round((conditions.delay_s + jitter_s) * 1e9)
        if conditions.reorder and random.random() < conditions.reorder:
            return arrival_ns + round(conditions.reorder_s * 1e9)
        self.arrived_ns = arrival_ns = max(arrival_ns, self.arrived_ns)
        return arrival_ns


class SimulatedNetwork:
    """Hosts that reach each other; everything that happens by chance is decided by the seed, link by link.

    To be made on a running `VirtualLoop`, which it becomes the network of.
    """

    def __init__(self, seed: int = 0, *, keeps_trace: bool = True, conditions: Conditions | None = None) -> None:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            raise LocalProtocolError(f"a simulated network needs a VirtualLoop, not {type(loop).__name__}")
        self.loop: Final = loop
        self.trace: Final[list[TraceEntry]] = []
        """Every datagram and what became of it, in the order in which that was known: `delivered`, `corrupted` (and
        delivered), `duplicate` (delivered once more), `lost`, `cut`, `queue full`, `too large`, `no host`, `no port`,
        `refused` (told to the sender), `buffer full`, `not of peer`."""
        self.counts: Final[Counter[str]] = Counter()
        """How many datagrams had which fate; also without a trace."""
        self._seed = seed
        self._keeps_trace = keeps_trace
        self._default = conditions or Conditions()
        self._hosts: dict[str, SimulatedHost] = {}
        self._at: dict[str, SimulatedHost] = {}
        self._directions: dict[tuple[str, str], _Direction] = {}
        loop.network = self

    # --- building ---------------------------------------------------------------------------------------------------

    def host(self, name: str, address: str) -> SimulatedHost:
        """A new host. Raises: LocalProtocolError when there is one of that name or address."""
        ipaddress.ip_address(address)
        if name in self._hosts or address in self._at:
            raise LocalProtocolError(f"host {name} at {address}: there is one of that name or address")
        host = self._hosts[name] = self._at[address] = SimulatedHost(self, name, address)
        return host

    def condition(self, one: str, other: str, **changes: Any) -> None:
        """Change the `Conditions` of both directions between two hosts."""
        self.condition_one_way(one, other, **changes)
        self.condition_one_way(other, one, **changes)

    def condition_one_way(self, source: str, destination: str, **changes: Any) -> None:
        """Change the `Conditions` from one host to another."""
        direction = self._direction(source, destination)
        direction.conditions = replace(direction.conditions, **changes)

    def cut(self, one: str, other: str, *, one_way: bool = False) -> None:
        """Let nothing through any more; what is under way arrives. `one_way`: only from the first to the second."""
        self._direction(one, other).is_cut = True
        if not one_way:
            self._direction(other, one).is_cut = True

    def heal(self, one: str, other: str, *, one_way: bool = False) -> None:
        """Undo `cut`."""
        self._direction(one, other).is_cut = False
        if not one_way:
            self._direction(other, one).is_cut = False

    def lead(self, address: str, host: SimulatedHost) -> None:
        """Let another address lead to a host. Raises: LocalProtocolError when it leads elsewhere."""
        if self._at.setdefault(address, host) is not host:
            raise LocalProtocolError(f"address {address}: leads to {self._at[address]} already")

    def _direction(self, source: str, destination: str) -> _Direction:
        found = self._directions.get((source, destination))
        if found is None:
            for name in (source, destination):
                if name not in self._hosts:
                    raise LocalProtocolError(f"host {name}: there is none; there are {', '.join(self._hosts)}")
            found = _Direction(self._default, f"{self._seed}/{source}>{destination}")
            self._directions[source, destination] = found
        return found

    # --- what the loop asks for -------------------------------------------------------------------------------------

    def make_endpoint(
        self, factory: Callable[[], asyncio.BaseProtocol], local: Address | None, remote: Address | None
    ) -> tuple[asyncio.DatagramTransport, asyncio.BaseProtocol]:
        """A socket on the host that the caller runs on. Raises: OSError; LocalProtocolError outside of any host."""
        process = current_process()
        host = next((host for host in self._hosts.values() if host.process is process), None)
        if host is None:
            raise LocalProtocolError("a socket belongs to a host: call this in what `SimulatedHost.start` runs")
        if remote is not None:
            remote = (self.resolve(remote[0]), remote[1])
        return host.make_endpoint(factory, local, remote)

    def resolve(self, host: str | None) -> str:
        """The address of a host by its name; an address is its own. Raises: socket.gaierror."""
        if host is None or host in WILDCARDS:
            return "0.0.0.0"  # noqa: S104 - what getaddrinfo(3) says
        if host in self._at:
            return host
        if host in self._hosts:
            return self._hosts[host].address
        try:
            return str(ipaddress.ip_address(host))
        except ValueError:
            raise socket.gaierror(socket.EAI_NONAME, f"Name or service not known: {host}") from None

    # --- what happens to datagrams ----------------------------------------------------------------------------------

    def send(self, sender: SimulatedHost, endpoint: SimulatedEndpoint, data: bytes, destination: Address) -> None:
        """Take a datagram on its way and decide by the seed what becomes of it."""
        now_ns = self.loop.time_ns()
        packet = _Packet(now_ns, sender.outer(endpoint.address), destination, data, endpoint)
        receiver = self._at.get(destination[0])
        if receiver is None or not sender.is_plugged:
            self._note(packet, "no host")
            return
        direction = self._direction(sender.name, receiver.name)
        conditions, random = direction.conditions, direction.random
        if direction.is_cut:
            self._note(packet, "cut")
            return
        if len(data) + HEADER_BYTES > conditions.mtu_bytes:
            self._note(packet, "too large")
            return
        left_ns = direction.queued_ns(len(data) + HEADER_BYTES, now_ns)
        if left_ns is None:
            self._note(packet, "queue full")
            return
        if conditions.loss and random.random() < conditions.loss:
            self._note(packet, "lost")
            return
        fate = "delivered"
        if conditions.corrupt and random.random() < conditions.corrupt:
            packet, fate = packet._replace(data=_spoilt(data, random)), "corrupted"
        self._arrive(direction.arrival_ns(left_ns), receiver, packet, fate)
        if conditions.duplicate and random.random() < conditions.duplicate:
            self._arrive(direction.arrival_ns(left_ns), receiver, packet, "duplicate")

    def _arrive(self, when_ns: int, receiver: SimulatedHost, packet: _Packet, fate: str) -> None:
        self.loop.call_at_ns(when_ns, lambda: self._arrived(receiver, packet, fate), _OUTSIDE)

    def _arrived(self, receiver: SimulatedHost, packet: _Packet, fate: str) -> None:
        if not receiver.is_plugged:
            self._note(packet, "no host")
            return
        endpoint = receiver.endpoint_at(packet.destination)
        if endpoint is None:
            self._refuse(receiver, packet)
        else:
            self._note(packet, endpoint.deliver(packet.data, packet.source) or fate)

    def _refuse(self, receiver: SimulatedHost, packet: _Packet) -> None:
        """Nobody listens: tell it to a sender whose socket is connected, as ICMP and Linux do (udp(7))."""
        sender = packet.sender.host
        back = self._direction(receiver.name, sender.name)
        conditions = back.conditions
        is_told = conditions.tells_refusal and not receiver.is_translated
        if not is_told or back.is_cut or (conditions.loss and back.random.random() < conditions.loss):
            self._note(packet, "no port")
            return
        self._note(packet, "refused")
        when_ns = self.loop.time_ns() + round(conditions.delay_s * 1e9)
        self.loop.call_at_ns(when_ns, packet.sender.refuse, _OUTSIDE)

    def _note(self, packet: _Packet, fate: str) -> None:
        self.counts[fate] += 1
        if self._keeps_trace:
            sent_s, time_s = ((at_ns - START_NS) / 1e9 for at_ns in (packet.sent_ns, self.loop.time_ns()))
            entry = TraceEntry(sent_s, time_s, packet.source, packet.destination, len(packet.data), fate)
            self.trace.append(entry)

    def trace_text(self) -> str:
        """The trace for people: sent at, fate known at, from, to, bytes, fate; a line each."""
        return "\n".join(map(str, self.trace))
