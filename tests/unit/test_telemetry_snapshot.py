"""Reading a report from another thread while the loop writes to it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from flowbridge.errors import ResourceError
from flowbridge.report import EdgeReport, NodeReport, PathReport, RunReport
from flowbridge.telemetry.snapshot import ReportReader
from flowbridge.time.histogram import PENDING_MAX, Histogram
from flowbridge.time.ledger import EdgeBooks


def report_of(edges: int) -> RunReport:
    report = RunReport("f", "d", "running", 0.0)
    for number in range(edges):
        report.edges[f"e{number}"] = EdgeReport(f"e{number}", "inproc", EdgeBooks())
    report.nodes["n"] = NodeReport("n", Histogram(), "running")
    report.paths.append(PathReport(("n",), 5, Histogram()))
    return report


def test_a_copy_has_everything_and_is_apart() -> None:
    report = report_of(1)
    report.errors.append("late")
    books = report.edges["e0"].books
    books.sent, books.delivered, books.dropped, books.missed.late = 3, 1, {"latest": 1}, 1
    books.in_flight = 1
    for histogram in (books.latency, report.nodes["n"].latency, report.paths[0].latency):
        histogram.record(7)
    before = report.to_json()
    copy = ReportReader(lambda: report).read()
    assert copy.to_json() == before
    books.drop("latest")
    books.missed.late += 1
    books.latency.record(9)
    report.nodes["n"].errors += 1
    report.errors.append("more")
    assert copy.to_json() == before


async def _write(report: RunReport, rounds: int, read_once: threading.Event) -> None:
    """Write in the steps a queue takes: the books of an edge do not balance in the middle of one."""
    edges = list(report.edges.values())
    done = 0
    while done < rounds or not read_once.is_set():
        for edge in edges:
            books = edge.books
            books.sent += 2
            books.delivered += 1
            books.drop(f"policy{done % 5}")
            books.latency.extend((1, 1))
        done += 1
        await asyncio.sleep(0)


def test_every_snapshot_balances_while_the_loop_writes() -> None:
    report = report_of(150)  # more rows than one turn copies
    for number, edge in enumerate(list(report.edges.values())[:5]):
        pending = PENDING_MAX - 40 * (number + 1)  # so that the loop, too, sorts some while others are copied
        edge.books.latency.extend([1] * pending)
        edge.books.sent = edge.books.delivered = pending
    seen: list[RunReport] = []
    read_often = threading.Event()

    async def run() -> None:
        reader = ReportReader(lambda: report, timeout_ns=60 * 10**9)
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                seen.append(reader.read())
                if len(seen) >= 15:
                    read_often.set()

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        await _write(report, 200, read_often)
        stop.set()
        await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in threads))

    asyncio.run(run())
    seen.append(ReportReader(lambda: report).read())
    assert len(seen) > 15
    for copy in seen:
        assert len(copy.edges) == 150
        for edge in copy.edges.values():
            assert edge.books.balances
            assert edge.books.latency.count == edge.books.sent
            assert edge.books.latency.sum == edge.books.sent
    for edge in report.edges.values():
        assert edge.books.latency.count == edge.books.sent  # reading took nothing away


def test_on_the_loops_own_thread_reading_does_not_wait() -> None:
    report = report_of(1)

    async def run() -> RunReport:
        return ReportReader(lambda: report).read()

    assert asyncio.run(run()).to_json() == report.to_json()


def test_the_report_is_called_on_the_loop() -> None:
    threads: list[int] = []

    def report() -> RunReport:
        threads.append(threading.get_ident())
        return report_of(0)

    async def run() -> None:
        reader = ReportReader(report)
        await asyncio.to_thread(reader.read)

    asyncio.run(run())
    assert threads == [threading.get_ident()]


def test_a_loop_that_does_not_answer_is_an_error_and_not_a_guess() -> None:
    loop = asyncio.new_event_loop()  # never run
    try:
        reader = ReportReader(lambda: report_of(1), loop=loop, timeout_ns=1_000)
        with pytest.raises(ResourceError, match="did not answer within 1e-06 s"):
            reader.read()
        loop.run_until_complete(asyncio.sleep(0))  # the turn given up does nothing
    finally:
        loop.close()


def test_after_the_loop_was_closed_the_report_is_read_where_it_is() -> None:
    loop = asyncio.new_event_loop()
    reader = ReportReader(lambda: report_of(1), loop=loop)
    loop.close()
    assert list(reader.read().edges) == ["e0"]


def test_a_loop_closed_while_someone_waits_is_noticed() -> None:
    loop = asyncio.new_event_loop()
    asked = threading.Event()
    call_soon = loop.call_soon_threadsafe

    def ask(*args: object, **kwargs: object) -> object:
        handle = call_soon(*args, **kwargs)  # type: ignore[arg-type]  # passed on as it came
        asked.set()
        return handle

    loop.call_soon_threadsafe = ask  # type: ignore[assignment]  # to know when the reader waits
    reader = ReportReader(lambda: report_of(1), loop=loop, timeout_ns=60 * 10**9)
    found: list[RunReport] = []
    thread = threading.Thread(target=lambda: found.append(reader.read()), daemon=True)
    thread.start()
    assert asked.wait(30)
    loop.close()
    thread.join()
    assert list(found[0].edges) == ["e0"]


def test_closing_the_reader_frees_whoever_waits() -> None:
    loop = asyncio.new_event_loop()
    try:
        reader = ReportReader(lambda: report_of(1), loop=loop, timeout_ns=60 * 10**9)
        errors: list[BaseException] = []

        def read() -> None:
            try:
                reader.read()
            except ResourceError as error:
                errors.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        reader.close()
        thread.join()
        assert "closed" in str(errors[0])
    finally:
        loop.close()


def test_an_error_of_the_report_reaches_the_reader() -> None:
    def report() -> RunReport:
        raise LookupError("no such run")

    async def run() -> None:
        await asyncio.to_thread(ReportReader(report).read)

    with pytest.raises(LookupError, match="no such run"):
        asyncio.run(run())
