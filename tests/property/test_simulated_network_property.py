"""Laws of the simulated network: nothing comes out of nothing, every fate is counted, and a seed decides it all."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flowbridge.testing.network import Conditions, SimulatedNetwork, TraceEntry
from flowbridge.testing.virtual_loop import pause, run_simulated

CHANCE = st.floats(0, 0.5)
CONDITIONS = st.builds(
    Conditions,
    delay_s=st.floats(0, 1),
    jitter_s=st.floats(0, 0.1),
    loss=CHANCE,
    duplicate=CHANCE,
    reorder=CHANCE,
    reorder_s=st.floats(0, 0.2),
    corrupt=CHANCE,
    rate_bytes_s=st.sampled_from([0.0, 5_000.0, 1e6]),
    queue_bytes=st.integers(0, 20_000),
    mtu_bytes=st.integers(100, 1_500),
)


class Inbox(asyncio.DatagramProtocol):
    """Keeps what comes."""

    def __init__(self) -> None:
        self.got: list[bytes] = []

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.got.append(data)


def run(seed: int, conditions: Conditions, sizes: list[int]) -> tuple[list[TraceEntry], Counter[str], list[bytes]]:
    """Send datagrams of these sizes, some at once and some later; the trace, the counts and what came."""

    async def scenario(seed: int) -> tuple[list[TraceEntry], Counter[str], list[bytes]]:
        network = SimulatedNetwork(seed, conditions=conditions)
        a, b = network.host("a", "10.0.0.1"), network.host("b", "10.0.0.2")
        loop = asyncio.get_running_loop()

        async def bind() -> Any:
            return await loop.create_datagram_endpoint(Inbox, local_addr=("0.0.0.0", 500))

        async def send() -> None:
            transport, _ = await loop.create_datagram_endpoint(Inbox, remote_addr=("b", 500))
            for number, size in enumerate(sizes):
                transport.sendto(number.to_bytes(2, "big") + bytes(size))
                if size % 3 == 0:
                    await pause(size / 1_000)

        _, inbox = await b.start(bind())
        await a.start(send())
        await pause(60)
        return network.trace, network.counts, inbox.got

    return run_simulated(scenario, seed=seed)


SIZES = st.lists(st.integers(0, 1_500), max_size=40)


@given(st.integers(0, 2**32), CONDITIONS, SIZES)
@settings(max_examples=60, deadline=None)
def test_every_datagram_has_one_fate_and_nothing_comes_out_of_nothing(
    seed: int, conditions: Conditions, sizes: list[int]
) -> None:
    trace, counts, got = run(seed, conditions, sizes)
    assert Counter(entry.fate for entry in trace) == counts
    assert counts.total() - counts["duplicate"] == len(sizes)
    assert len(got) == counts["delivered"] + counts["corrupted"] + counts["duplicate"]
    assert all(entry.time_s >= entry.sent_s for entry in trace)
    assert [entry.time_s for entry in trace] == sorted(entry.time_s for entry in trace)
    least_s = conditions.delay_s
    assert all(e.time_s - e.sent_s >= least_s - 1e-9 for e in trace if e.fate in {"delivered", "corrupted"})
    if not conditions.corrupt:
        sent = Counter(number.to_bytes(2, "big") + bytes(size) for number, size in enumerate(sizes))
        assert all(count <= 2 * sent[data] for data, count in Counter(got).items())


@given(st.integers(0, 2**32), CONDITIONS, SIZES)
@settings(max_examples=30, deadline=None)
def test_the_same_seed_gives_the_same_trace(seed: int, conditions: Conditions, sizes: list[int]) -> None:
    assert run(seed, conditions, sizes) == run(seed, conditions, sizes)


def test_another_seed_gives_another_trace() -> None:
    conditions = Conditions(loss=0.5)
    assert run(1, conditions, [10] * 40)[0] != run(2, conditions, [10] * 40)[0]
