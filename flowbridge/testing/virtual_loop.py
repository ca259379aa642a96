"""An event loop on virtual time: real callbacks and tasks, no real clock, and the same trace for the same seed.

When nothing can run the clock jumps to the next timer, so that hours of waiting cost nothing. It advances by at least a
microsecond a turn: code that compares floating-point times may otherwise go round in circles at one instant. Processes
are simulated too: what runs in a `VirtualProcess` stops while that is frozen and never runs again when it is killed.

The trace depends on the seed alone as long as what runs does not look at real clocks, threads or the order of sets.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import random
from collections import deque
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, TypeVar, TypeVarTuple
from weakref import WeakValueDictionary

from flowbridge.errors import FlowbridgeError, LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator


T = TypeVar("T")
Ts = TypeVarTuple("Ts")

START_NS: Final = 1_000 * 10**9
"""When the clock starts: not at 0, which some take for "never"."""
TICK_NS: Final = 1_000
"""How much passes in a turn of the loop at the least."""
UNTIL_S: Final = 3_600.0
CANCELLED_MAX: Final = 256
"""So many cancelled timers may wait in the heap before they are swept out, when they are most of it."""


class SimulationStuck(FlowbridgeError):
    """Nothing can run, no timer is set and no datagram is under way: what was waited for can never come."""


class SimulationOverrun(FlowbridgeError):
    """The simulated time that was allowed has passed."""


class SimulationFailed(FlowbridgeError):
    """Something raised where nobody could catch it; `__cause__` is what."""


class DatagramNetwork(Protocol):
    """What a loop asks for endpoints and names; see `network.SimulatedNetwork`."""

    def make_endpoint(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        local: tuple[str, int] | None,
        remote: tuple[str, int] | None,
    ) -> tuple[asyncio.DatagramTransport, asyncio.BaseProtocol]:
        """Bind, and connect when a remote address is given. Raises: OSError as Linux does."""
        ...

    def resolve(self, host: str | None) -> str:
        """The address of a host. Raises: socket.gaierror."""
        ...


class VirtualProcess:
    """What was started in it, and what that starts and calls back, runs only while it is neither frozen nor killed."""

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.name: Final = name
        self._loop = loop
        self._parked: list[_Handle | _Timer] = []
        self._is_frozen = False
        self._is_killed = False

    @property
    def is_frozen(self) -> bool:
        """Whether it was stopped, as by SIGSTOP."""
        return self._is_frozen

    @property
    def is_killed(self) -> bool:
        """Whether it was killed, as by SIGKILL."""
        return self._is_killed

    @property
    def is_running(self) -> bool:
        """Whether what is in it can run."""
        return not (self._is_frozen or self._is_killed)

    def start(self, coroutine: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
        """A task within it. Raises: LocalProtocolError when it was killed."""
        if self._is_killed:
            coroutine.close()
            raise LocalProtocolError(f"process {self.name}: was killed, nothing can be started in it")
        return self._loop.create_task(coroutine, name=name, context=self.context())

    def context(self) -> Context:
        """A context in which `call_soon` and the like call for this process."""
        context = copy_context()
        context.run(_current.set, self)
        return context

    def freeze(self) -> None:
        """Let nothing of it run until `thaw`; its timers become due all the same. Idempotent."""
        self._is_frozen = True

    def thaw(self) -> None:
        """Let it run on; what became due meanwhile comes first, in order. Idempotent."""
        self._is_frozen = False
        if not self._is_killed:
            parked, self._parked = self._parked, []
            self._loop.resume(parked)

    def kill(self) -> None:
        """Let nothing of it ever run again, not even what cleans up. Idempotent."""
        self._is_killed = True
        self._parked.clear()

    def revive_to_end(self) -> None:
        """Let its tasks run so that they can be cancelled when the simulation is over."""
        self._is_killed = False
        self.thaw()

    def park(self, handle: _Handle | _Timer) -> None:
        """Keep what became due while it may not run."""
        if not self._is_killed:
            self._parked.append(handle)

    def __repr__(self) -> str:
        state = "killed" if self._is_killed else "frozen" if self._is_frozen else "running"
        return f"<VirtualProcess {self.name} {state}>"


_current: Final[ContextVar[VirtualProcess | None]] = ContextVar("flowbridge-virtual-process", default=None)


def current_process() -> VirtualProcess | None:
    """The process that the caller runs in; None for the test itself."""
    return _current.get()


class _Handle(asyncio.Handle):
    """A call of the next turn, and the process that it belongs to."""

    __slots__ = ("process",)

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: VirtualLoop,
        context: Context | None,
    ) -> None:
        super().__init__(callback, args, loop, context)
        self.process = _current.get() if context is None else context.get(_current)

    def run(self) -> None:
        """Call."""
        self._run()


class _Timer(asyncio.TimerHandle):
    """A call at a time, in nanoseconds as the loop counts them."""

    __slots__ = ("process", "when_ns")

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: VirtualLoop,
        context: Context | None,
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self.process = _current.get() if context is None else context.get(_current)

    def run(self) -> None:
        """Call."""
        self._run()


def _refused(what: str) -> Any:  # of whatever type the method has that it stands for
    def refuse(*_args: Any, **_named: Any) -> NoReturn:
        raise LocalProtocolError(f"{what}: a simulated loop has no real input and output, no threads and no signals")

    return refuse


class VirtualLoop(asyncio.BaseEventLoop):
    """An asyncio event loop whose time jumps; datagram endpoints are those of the network attached to it."""

    def __init__(self, *, until_s: float = UNTIL_S) -> None:
        super().__init__()
        self.turns = 0
        """How often it went round."""
        self.network: DatagramNetwork | None = None
        self._now_ns = START_NS
        self._until_ns = START_NS + round(until_s * 1e9)
        self._due: deque[_Handle | _Timer] = deque()
        self._timers: list[tuple[int, int, _Timer]] = []  # a heap
        self._order = 0
        self._cancelled_timers = 0
        self._tasks: dict[asyncio.Task[Any], None] = {}  # strong: what was killed must not be collected half-way
        # In the order of their start; one is forgotten when its host, its tasks and its sockets are gone.
        self._processes: WeakValueDictionary[int, VirtualProcess] = WeakValueDictionary()
        self._processes_made = 0
        self._has_stopped = False

    # --- time -------------------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds."""
        return self._now_ns / 1e9

    def time_ns(self) -> int:
        """Virtual nanoseconds."""
        return self._now_ns

    def elapsed_s(self) -> float:
        """Virtual seconds since the start."""
        return (self._now_ns - START_NS) / 1e9

    @property
    def timers(self) -> int:
        """How many timers are kept, those included that were cancelled and not swept out yet."""
        return len(self._timers)

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Call in the next turn."""
        self._check_open()
        handle = _Handle(callback, args, self, context)
        self._due.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call after so many seconds."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call once `time()` is no less than `when`; what is due at the same time comes in the order of asking."""
        self._check_open()
        timer = _Timer(when, callback, args, self, context)
        order = self._order = self._order + 1
        # One more than rounding down: never early, whatever the multiplication rounded away.
        heapq.heappush(self._timers, (int(when * 1e9) + 1, order, timer))
        return timer

    def call_at_ns(self, when_ns: int, callback: Callable[[], object], context: Context | None = None) -> None:
        """Call at an exact time of `time_ns`; cannot be cancelled."""
        order = self._order = self._order + 1
        heapq.heappush(self._timers, (when_ns, order, _Timer(when_ns / 1e9, callback, (), self, context)))

    def _timer_handle_cancelled(self, _timer: asyncio.TimerHandle) -> None:
        self._cancelled_timers += 1
        if self._cancelled_timers > CANCELLED_MAX and self._cancelled_timers * 2 > len(self._timers):
            self._timers = [entry for entry in self._timers if not entry[2].cancelled()]
            heapq.heapify(self._timers)
            self._cancelled_timers = 0

    def _check_open(self) -> None:
        if self.is_closed():
            raise RuntimeError("Event loop is closed")

    # --- turns ------------------------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        """One turn: advance the clock, then call what was due when the turn began."""
        due, timers = self._due, self._timers
        self.turns += 1
        self._now_ns += TICK_NS
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
            self._cancelled_timers -= 1
        if not due and not self._has_stopped:
            self._jump()
        now_ns = self._now_ns
        while timers and timers[0][0] <= now_ns:
            timer = heapq.heappop(timers)[2]
            if timer.cancelled():
                self._cancelled_timers -= 1
            else:
                due.append(timer)
        for _ in range(len(due)):
            handle = due.popleft()
            if handle.cancelled():
                continue
            process = handle.process
            if process is None or process.is_running:
                handle.run()
            else:
                process.park(handle)

    def _jump(self) -> None:
        if not self._timers:
            raise SimulationStuck(f"after {self.elapsed_s():.6f} s nothing can run: {self._who_waits()}")
        self._now_ns = max(self._now_ns, self._timers[0][0])
        if self._now_ns > self._until_ns:
            allowed_s = (self._until_ns - START_NS) / 1e9
            raise SimulationOverrun(f"not over after {allowed_s} simulated seconds: {self._who_waits()}")

    def _who_waits(self) -> str:
        waiting = [f"{task.get_name()} ({_place_of(task)})" for task in self._tasks if not task.done()]
        frozen = [process.name for process in self._processes.values() if not process.is_running]
        text = f"{len(waiting)} tasks wait: {', '.join(waiting[:20])}"
        return f"{text}; frozen or killed: {', '.join(frozen)}" if frozen else text

    def resume(self, handles: list[_Handle | _Timer]) -> None:
        """Call these in the next turn, in order."""
        self._due.extend(handles)

    def stop(self) -> None:
        """Let `run_forever` return after this turn."""
        super().stop()
        self._has_stopped = True

    def run_forever(self) -> None:
        """Go round until `stop`. Raises: SimulationStuck, SimulationOverrun."""
        try:
            super().run_forever()
        finally:
            self._has_stopped = False

    # --- tasks and processes ----------------------------------------------------------------------------------------

    def create_task(
        self, coro: Generator[Any, None, T] | Coroutine[Any, Any, T], *, name: object = None, context: Any = None
    ) -> asyncio.Task[T]:
        """A task, which is kept until it is done."""
        task: asyncio.Task[T] = asyncio.Task(coro, loop=self, name=_name_of(name), context=context)
        self._tasks[task] = None
        task.add_done_callback(self._forget_task, context=_EMPTY)
        return task

    def _forget_task(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)

    def process(self, name: str) -> VirtualProcess:
        """A new simulated process."""
        process = VirtualProcess(self, name)
        self._processes_made += 1
        self._processes[self._processes_made] = process
        return process

    def shut_down(self) -> None:
        """Cancel every task, those of frozen and killed processes too, and close."""
        try:
            for process in list(self._processes.values()):
                process.revive_to_end()
            self._until_ns = self._now_ns + round(UNTIL_S * 1e9)
            while left := [task for task in self._tasks if not task.done()]:
                for task in left:
                    task.cancel()
                self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self.run_until_complete(self.shutdown_asyncgens())
        finally:
            self.close()

    def close(self) -> None:
        """Forget everything that is still to come."""
        self._due.clear()
        self._timers.clear()
        super().close()

    # --- the outside ------------------------------------------------------------------------------------------------

    async def create_datagram_endpoint(  # type: ignore[override]  # the part of it that needs no real socket
        self,
        protocol_factory: Callable[[], Any],
        local_addr: tuple[str, int] | None = None,
        remote_addr: tuple[str, int] | None = None,
        **others: Any,
    ) -> tuple[asyncio.DatagramTransport, Any]:
        """An endpoint on the simulated network. Raises: OSError as Linux does; LocalProtocolError without a network."""
        if others:
            raise LocalProtocolError(f"a simulated endpoint takes no {', '.join(others)}")
        return self._network().make_endpoint(protocol_factory, local_addr, remote_addr)

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - asyncio's name
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """The one address of a simulated host. Raises: socket.gaierror."""
        address = self._network().resolve(None if host is None else str(host))
        return [(_AF_INET, type or _SOCK_DGRAM, proto, "", (address, int(port or 0)))]

    def _network(self) -> DatagramNetwork:
        if self.network is None:
            raise LocalProtocolError("a simulated loop needs a simulated network for datagrams")
        return self.network

    def _process_events(self, event_list: list[Any]) -> None:
        assert not event_list

    add_reader = _refused("add_reader")
    remove_reader = _refused("remove_reader")
    add_writer = _refused("add_writer")
    remove_writer = _refused("remove_writer")
    add_signal_handler = _refused("add_signal_handler")
    remove_signal_handler = _refused("remove_signal_handler")
    run_in_executor = _refused("run_in_executor")
    create_connection = _refused("create_connection")
    create_server = _refused("create_server")
    create_unix_connection = _refused("create_unix_connection")
    create_unix_server = _refused("create_unix_server")
    connect_accepted_socket = _refused("connect_accepted_socket")
    connect_read_pipe = _refused("connect_read_pipe")
    connect_write_pipe = _refused("connect_write_pipe")
    subprocess_exec = _refused("subprocess_exec")
    subprocess_shell = _refused("subprocess_shell")
    sock_recv = _refused("sock_recv")
    sock_recvfrom = _refused("sock_recvfrom")
    sock_sendall = _refused("sock_sendall")
    sock_sendto = _refused("sock_sendto")
    sock_connect = _refused("sock_connect")
    sock_accept = _refused("sock_accept")


_EMPTY: Final = Context()
_AF_INET: Final = 2
_SOCK_DGRAM: Final = 2


def _name_of(name: object) -> str | None:
    return None if name is None else str(name)


def _place_of(task: asyncio.Task[Any]) -> str:
    stack = task.get_stack(limit=1)
    return f"{stack[0].f_code.co_qualname}:{stack[0].f_lineno}" if stack else "not started"


async def pause(seconds: float) -> None:
    """Let so many virtual seconds pass. Raises: LocalProtocolError on a loop whose time is real."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise LocalProtocolError(f"a pause takes a VirtualLoop, not {type(loop).__name__}: real waiting proves nothing")
    await asyncio.sleep(seconds)


@contextmanager
def seeded_entropy(seed: int) -> Generator[None]:
    """Let `os.urandom`, `secrets` and `random` give the same bytes for the same seed, and restore them afterwards.

    What a compiled library draws for itself (keys, nonces of signatures) stays as it is.
    """
    source = random.Random(seed)  # noqa: S311 - to be repeatable is the point
    state, urandom, imported = random.getstate(), os.urandom, getattr(random, "_urandom")  # noqa: B009
    random.seed(seed)
    os.urandom = source.randbytes
    setattr(random, "_urandom", source.randbytes)  # noqa: B010 - what `secrets` draws from
    try:
        yield
    finally:
        os.urandom = urandom
        setattr(random, "_urandom", imported)  # noqa: B010
        random.setstate(state)


def run_simulated(
    coroutine_function: Callable[[int], Coroutine[Any, Any, T]], *, seed: int = 0, until_s: float = UNTIL_S
) -> T:
    """Run ``coroutine_function(seed)`` on a virtual loop and return its result; what is left over is cancelled.

    What a callback or a forgotten task raises fails the run too, unless an exception handler was set on the loop.
    Raises: SimulationStuck naming who waits for what can never come; SimulationOverrun after `until_s` virtual
    seconds; SimulationFailed.
    """
    loop = VirtualLoop(until_s=until_s)
    unhandled: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: unhandled.append(context))
    with seeded_entropy(seed):
        try:
            result = loop.run_until_complete(loop.create_task(coroutine_function(seed), name="simulation"))
        finally:
            loop.shut_down()
    if unhandled:
        first = unhandled[0]
        raise SimulationFailed(f"{first['message']}, {len(unhandled)} in all") from first.get("exception")
    return result
