"""One message at a time, there and back: round trips and ways in one direction."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ipc_ends import ACK_BYTES, Contender, Letter
from ipc_pair import Bar, cpu_ns, percentiles_us, run_group

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipc_ends import End


def ping(contender: Contender, size_bytes: int, count: int, *, echo: bool) -> dict[str, float]:
    """Median round trip and one-way time; the answer is the message itself (`echo`) or a short one.

    One way is from before the copy in to after the receipt; the clock is one for both processes.
    """
    back_bytes = size_bytes if echo else ACK_BYTES
    shared = contender.prepare(size_bytes, back_bytes)
    warm = max(count // 10, 4)

    def asks(bar: Bar, rank: int) -> dict[str, Any]:
        end = _opened(contender, shared, bar, rank)
        return _ask(end, Letter(size_bytes), warm, count)

    def answers(bar: Bar, rank: int) -> dict[str, Any]:
        end = _opened(contender, shared, bar, rank)
        return _answer(end, Letter(size_bytes), warm, count, None if echo else bytearray(ACK_BYTES))

    asked, answered = run_group([asks, answers])
    cpu_us = (asked["cpu_ns"] + answered["cpu_ns"]) / 1e3 / count
    return {
        "rtt_p50_us": asked["p50"],
        "rtt_p99_us": asked["p99"],
        "one_way_p50_us": answered["p50"],
        "one_way_p99_us": answered["p99"],
        "cpu_us": cpu_us,
    }


def _opened(contender: Contender, shared: Any, bar: Bar, rank: int) -> End:
    end = contender.open(shared, rank)
    bar.wait(rank)
    return end


def _ask(end: End, letter: Letter, warm: int, count: int) -> dict[str, Any]:
    took: list[int] = []
    now: Callable[[], int] = time.monotonic_ns
    send, receive, stamp = end.send, end.receive, letter.stamp
    body, cpu = letter.body, 0
    for number in range(warm + count):
        if number == warm:
            cpu = cpu_ns()
            took.clear()
        start = now()
        stamp(number, start)
        send(body)
        receive()
        took.append(now() - start)
    cpu = cpu_ns() - cpu
    end.close()
    return {"cpu_ns": cpu, **percentiles_us(took)}


def _answer(end: End, letter: Letter, warm: int, count: int, ack: bytearray | None) -> dict[str, Any]:
    took: list[int] = []
    now: Callable[[], int] = time.monotonic_ns
    send, receive, sent_ns = end.send, end.receive, letter.sent_ns
    cpu = 0
    for number in range(warm + count):
        if number == warm:
            cpu = cpu_ns()
            took.clear()
        found = receive()
        took.append(now())
        if ack is None:
            send(bytearray(found))
            took[-1] -= sent_ns(found, number)
        else:
            took[-1] -= sent_ns(found, number)
            send(ack)
        del found
    cpu = cpu_ns() - cpu
    time.sleep(0.02)  # the last answer is on its way
    end.close()
    return {"cpu_ns": cpu, **percentiles_us(took)}
