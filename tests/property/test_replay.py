"""A direction of a stream over many connections, against the bytes themselves."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flowbridge.errors import RemoteProtocolError
from flowbridge.machines.replay import Incoming, Outgoing


class ReplayedStream(RuleBasedStateMachine):
    """Writes, a wire that delivers in order and may be cut anywhere, acknowledgements that come late or never."""

    def __init__(self) -> None:
        super().__init__()
        self.out = Outgoing()
        self.come = Incoming()
        self.written = b""
        self.received = b""
        self.wire: list[bytes | None] = []  # None is the end
        self.reports: list[int] = []
        self.fresh_bytes = (bytes([number % 251]) for number in count())

    def data(self, size: int) -> bytes:
        """Bytes that differ from their neighbours."""
        return b"".join(next(self.fresh_bytes) for _ in range(size))

    @precondition(lambda self: not self.out.is_finished)
    @rule(size=st.integers(0, 40))
    def write(self, size: int) -> None:
        data = self.data(size)
        self.written += data
        self.out.write(data)

    @precondition(lambda self: not self.out.is_finished and not self.out.unsent_bytes)
    @rule(size=st.integers(1, 40))
    def write_through(self, size: int) -> None:
        data = self.data(size)
        self.written += data
        self.out.wrote(data)
        self.wire.append(data)

    @rule()
    def finish(self) -> None:
        self.out.finish()

    @rule(size=st.integers(1, 30))
    def send(self, size: int) -> None:
        data = self.out.take(size)
        assert len(data) <= size
        if data:
            self.wire.append(bytes(data))
        elif self.out.owes_end:
            self.out.take_end()
            self.wire.append(None)

    @precondition(lambda self: self.wire)
    @rule()
    def arrive(self) -> None:
        data = self.wire.pop(0)
        if data is None:
            self.come.is_ended = True
            return
        data = self.come.fresh(data)
        self.received += data
        self.come.received += len(data)

    @rule()
    def report(self) -> None:
        self.reports.append(self.come.count)

    @precondition(lambda self: self.reports)
    @rule(which=st.integers(0, 5))
    def acknowledge(self, which: int) -> None:
        self.out.acknowledge(self.reports[which % len(self.reports)])

    @rule(arrives=st.integers(0, 3))
    def reconnect(self, arrives: int) -> None:
        """The new connection's first word may be older than what still comes over the old one."""
        said = self.come.count
        for _ in range(min(arrives, len(self.wire))):
            self.arrive()
        self.wire.clear()
        begin = self.out.rewind(said)
        assert begin <= self.come.count
        self.come.restart(begin)

    @invariant()
    def what_arrived_is_the_beginning_of_what_was_written(self) -> None:
        assert self.written.startswith(self.received)
        if self.come.is_ended:
            assert self.received == self.written
            assert self.out.is_finished

    @invariant()
    def what_the_receiver_lacks_is_kept(self) -> None:
        assert self.out.kept_bytes + self.out.unsent_bytes >= len(self.written) - len(self.received)
        assert self.out.acked <= self.come.count
        if self.out.is_acknowledged:
            assert self.come.is_ended
            assert self.out.kept_bytes == self.out.unsent_bytes == 0

    def teardown(self) -> None:
        self.reconnect(arrives=0)
        self.out.finish()
        while not self.come.is_ended:
            self.send(7)
            while self.wire:
                self.arrive()
        assert self.received == self.written
        self.out.acknowledge(self.come.count)
        assert self.out.is_acknowledged


ReplayedStreamTest = ReplayedStream.TestCase
ReplayedStreamTest.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_a_peer_cannot_have_more_than_was_sent() -> None:
    out = Outgoing()
    out.write(b"abc")
    out.take(2)
    with pytest.raises(RemoteProtocolError, match="has 3 bytes of a stream, of which 2 were sent"):
        out.acknowledge(3)
    with pytest.raises(RemoteProtocolError):
        out.rewind(3)


def test_a_peer_cannot_leave_bytes_out() -> None:
    come = Incoming()
    come.received = 4
    with pytest.raises(RemoteProtocolError, match="goes on at byte 5 of a stream, of which 4 are here"):
        come.restart(5)
