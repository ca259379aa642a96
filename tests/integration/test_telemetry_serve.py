"""The metrics server over real sockets, in front of a real event loop."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import socket
import threading
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest

from flowbridge.errors import BusyError, ClosedError, FlowbridgeError
from flowbridge.report import EdgeReport, NodeReport, RunReport
from flowbridge.telemetry.serve import CONNECTIONS_MAX, MetricsServer
from flowbridge.time.histogram import Histogram
from flowbridge.time.ledger import EdgeBooks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def report_of(status: str = "running", state: str = "running") -> RunReport:
    report = RunReport("flights", "d", status, 1.0, {"enrich": NodeReport("enrich", Histogram(), state, 4)})
    report.edges["a/out->enrich/in"] = EdgeReport("a/out->enrich/in", "inproc", EdgeBooks(sent=4, delivered=4))
    return report


Got = tuple[int, dict[str, str], bytes]


def fetch(port: int, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Got:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def served(path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Got:
    with MetricsServer(0, report_of) as server:
        return fetch(server.port, path, method, headers)


def test_metrics_are_plain_text_by_default() -> None:
    status, headers, body = served("/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=")
    assert b'flowbridge_edge_sent_total{edge="a/out->enrich/in",flow="flights",tier="inproc"} 4.0' in body


def test_metrics_are_openmetrics_and_compressed_when_asked() -> None:
    asked = {"Accept": "application/openmetrics-text; version=1.0.0", "Accept-Encoding": "gzip"}
    status, headers, body = served("/metrics", headers=asked)
    assert status == 200
    assert headers["content-type"].startswith("application/openmetrics-text")
    assert headers["content-encoding"] == "gzip"
    assert gzip.decompress(body).endswith(b"# EOF\n")


def test_metrics_can_be_asked_for_by_name() -> None:
    _, _, body = served("/metrics?name[]=flowbridge_edge_sent_total")
    assert b"flowbridge_edge_sent_total" in body
    assert b"flowbridge_edge_latency" not in body


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/"])
def test_head_answers_as_get_but_without_a_body(path: str) -> None:
    with MetricsServer(0, report_of) as server:
        got = fetch(server.port, path)
        head = fetch(server.port, path, "HEAD")
    assert head[0] == got[0]
    assert head[1]["content-length"] == got[1]["content-length"] == str(len(got[2]))
    assert head[2] == b""


def test_another_path_is_not_found_and_says_what_there_is() -> None:
    status, _, body = served("/metric")
    assert status == 404
    assert b"/metrics" in body
    assert b"/healthz" in body


def test_another_method_is_not_implemented() -> None:
    assert served("/metrics", "POST")[0] == 501


@pytest.mark.parametrize(
    ("status", "state", "code", "word"),
    [
        ("running", "running", 200, "ok"),
        ("running", "starting", 200, "ok"),
        ("done", "stopped", 200, "ok"),
        ("running", "failed", 503, "failed"),
        ("failed", "stopped", 503, "failed"),
    ],
)
def test_health_follows_the_nodes(status: str, state: str, code: int, word: str) -> None:
    with MetricsServer(0, lambda: report_of(status, state)) as server:
        got, headers, body = fetch(server.port, "/healthz")
    assert got == code
    assert headers["content-type"] == "application/json"
    assert json.loads(body) == {
        "status": word,
        "flow": "flights",
        "run": status,
        "nodes": {"enrich": {"state": state, "restarts": 0, "error": None}},
    }


def test_a_port_that_is_taken_is_named() -> None:
    with MetricsServer(0, report_of) as server:
        other = MetricsServer(server.port, report_of)
        with pytest.raises(FlowbridgeError, match=f"127.0.0.1 port {server.port}: the port is taken; 0 takes"):
            other.start()
        other.stop()
        assert fetch(server.port, "/healthz")[0] == 200


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_that_cannot_be_is_named(port: int) -> None:
    with pytest.raises(FlowbridgeError, match=f"port {port}"):
        MetricsServer(port, report_of).start()


def test_starting_twice_is_refused_and_stopping_twice_is_not() -> None:
    server = MetricsServer(0, report_of)
    assert server.port == 0
    server.start()
    with pytest.raises(BusyError, match=str(server.port)):
        server.start()
    server.stop()
    server.stop()
    with pytest.raises(ClosedError, match="stopped"):
        server.start()


def test_stop_joins_every_thread_even_with_a_silent_client() -> None:
    before = set(threading.enumerate())
    server = MetricsServer(0, report_of)
    server.start()
    with socket.create_connection(("127.0.0.1", server.port)) as silent:
        assert fetch(server.port, "/healthz")[0] == 200  # so the silent one, who came first, was accepted
        server.stop()
        assert set(threading.enumerate()) <= before
        with suppress(ConnectionResetError):  # hung up on, too
            assert silent.recv(1) == b""


def test_more_connections_than_the_limit_are_closed_and_a_later_one_is_served() -> None:
    with MetricsServer(0, report_of) as server:
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(CONNECTIONS_MAX)]
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as refused:
            assert refused.recv(1) == b""
        for connection in silent:
            connection.close()
        for _ in range(10_000):  # the threads of those notice soon
            try:
                assert fetch(server.port, "/healthz")[0] == 200
                break
            except (ConnectionError, http.client.HTTPException):
                continue
        else:
            pytest.fail("still refused")


def beside_a_loop(report: Callable[[], RunReport], work: Callable[[int], None]) -> None:
    async def run() -> None:
        server = MetricsServer(0, report)
        server.start()
        try:
            await asyncio.to_thread(work, server.port)
        finally:
            server.stop()

    asyncio.run(run())


def test_a_report_is_read_on_the_loop_of_the_flow() -> None:
    threads: set[int] = set()

    def report() -> RunReport:
        threads.add(threading.get_ident())
        return report_of()

    def work(port: int) -> None:
        assert fetch(port, "/metrics")[0] == 200
        assert fetch(port, "/healthz")[0] == 200

    beside_a_loop(report, work)
    assert threads == {threading.get_ident()}


def test_a_loop_that_is_held_up_is_unhealthy() -> None:
    loop = asyncio.new_event_loop()  # never run: as if an operator held it
    try:
        server = MetricsServer(0, report_of, loop=loop, answer_ns_max=1_000_000)
        with server:
            status, _, body = fetch(server.port, "/healthz")
            assert status == 503
            assert json.loads(body)["status"] == "unresponsive"
            status, _, body = fetch(server.port, "/metrics")
            assert status == 503
            assert b"did not answer" in body
    finally:
        loop.close()


def test_stop_does_not_wait_for_a_loop_that_is_held_up() -> None:
    loop = asyncio.new_event_loop()
    try:
        server = MetricsServer(0, report_of, loop=loop, answer_ns_max=3600 * 10**9)
        server.start()
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            fetch(server.port, "/")  # so the request before was accepted
            server.stop()
    finally:
        loop.close()


def test_a_fault_of_the_report_is_logged_and_the_server_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def report() -> RunReport:
        raise LookupError("no such run")

    with MetricsServer(0, report) as server:
        with pytest.raises(http.client.RemoteDisconnected):
            fetch(server.port, "/healthz")
        assert fetch(server.port, "/")[0] == 404
    assert [record.getMessage() for record in caplog.records] == ["metrics server: a request failed"]


def test_ipv6_is_served_where_there_is_one() -> None:
    server = MetricsServer(0, report_of, host="::1")
    try:
        server.start()
    except FlowbridgeError as error:
        pytest.skip(str(error))
    with closing(http.client.HTTPConnection("::1", server.port, timeout=30)) as connection:
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
    server.stop()
