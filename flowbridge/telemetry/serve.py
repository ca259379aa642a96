"""`/metrics` and `/healthz` of one run over HTTP.

A daemon thread waits in `select` for connections; without one nothing runs. Requests read the report through a
`ReportReader`, so the event loop is asked, never raced.
"""

from __future__ import annotations

import errno
import json
import logging
import selectors
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Self, cast
from urllib.parse import urlsplit

from flowbridge.errors import BusyError, ClosedError, FlowbridgeError, ResourceError
from flowbridge.telemetry.prometheus import registry_of
from flowbridge.telemetry.snapshot import LOOP_ANSWER_NS_MAX, ReportReader

if TYPE_CHECKING:
    import asyncio

    from flowbridge.report import RunReport

_logger: Final = logging.getLogger(__name__)

CONNECTIONS_MAX: Final = 32
"""More at once are closed unanswered: a scraper needs one."""

REQUEST_S_MAX: Final = 5.0
"""A client that says nothing for so long is hung up on."""

_HINT: Final = "not found: there are /metrics (Prometheus) and /healthz (JSON)\n"

_Wsgi = Callable[[dict[str, str], Callable[[str, list[tuple[str, str]]], None]], Iterable[bytes]]

Answer = tuple[str, list[tuple[str, str]], bytes]
"""Status line, headers, body."""


class MetricsServer:
    """Serves the metrics and the health of one run (extra `otel`).

    Made inside a running event loop, or given `loop`, the server reads the report on that loop; see `ReportReader`.
    `/healthz` answers 200 while no node and not the run has failed, 503 otherwise and when the loop does not answer.

    Does not promise: encryption or authentication. Bind another host than this machine's own only behind something
    that has them.
    """

    def __init__(
        self,
        port: int,
        report: Callable[[], RunReport],
        host: str = "127.0.0.1",
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        answer_ns_max: int = LOOP_ANSWER_NS_MAX,
    ) -> None:
        self._wanted: Final = port
        self._host: Final = host
        self._reader: Final = ReportReader(report, loop=loop, timeout_ns=answer_ns_max)
        self._running: _Running | None = None
        self._stopped = False

    @property
    def port(self) -> int:
        """The port in use; before `start` the one asked for, 0 meaning any that is free."""
        return self._running.port if self._running else self._wanted

    def start(self) -> None:
        """Listen.

        Raises: ResourceError naming host and port when that cannot be; BusyError when started before; ClosedError
        when stopped before.
        """
        if self._stopped:
            raise ClosedError("metrics server: it was stopped; make another")
        if self._running is not None:
            raise BusyError(f"metrics server: already listening on port {self.port}")
        self._running = _Running(self._host, self._wanted, self._reader)

    def stop(self) -> None:
        """Stop listening, hang up on whoever is connected and join every thread. Idempotent, and final."""
        self._stopped = True
        self._reader.close()
        running, self._running = self._running, None
        if running is not None:
            running.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


class _Running:
    def __init__(self, host: str, port: int, reader: ReportReader) -> None:
        try:
            self._server: Final = _Server(host, port, reader)
        except (OSError, OverflowError) as error:
            taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            why = "the port is taken; 0 takes a free one" if taken else error
            raise ResourceError(f"metrics server: cannot listen on {host} port {port}: {why}") from error
        self.port: Final = int(self._server.server_address[1])
        self._wake, self._woken = socket.socketpair()
        self._thread: Final = threading.Thread(target=self._serve, name="flowbridge-metrics", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        # `serve_forever` would wake twice a second to look at a flag; here `stop` writes to a socket instead.
        with selectors.DefaultSelector() as selector:
            selector.register(self._server, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not any(key.fileobj is self._woken for key, _ in selector.select()):
                self._server.handle_request()

    def stop(self) -> None:
        self._wake.send(b"x")
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()  # joins the threads of the requests
        self._wake.close()
        self._woken.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that `server_close` joins them
    allow_reuse_port = False  # two servers on one port would share the scrapes
    request_queue_size = CONNECTIONS_MAX
    timeout = 0  # `handle_request` never waits: the selector did

    def __init__(self, host: str, port: int, reader: ReportReader) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._open: Final = set[Any]()
        self._guard: Final = threading.Lock()
        super().__init__((host, port), partial(_Handler, reader, _metrics_of(reader)))

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # the parent would look the host's full name up in the DNS
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def verify_request(self, request: Any, client_address: Any) -> bool:
        with self._guard:
            return len(self._open) < CONNECTIONS_MAX

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what is our fault; a client that hung up is not worth a word."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            _logger.error("metrics server: a request failed", exc_info=error)

    def hang_up(self) -> None:
        with self._guard:
            for request in self._open:
                with suppress(OSError):  # it hung up first
                    request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_S_MAX
    server_version = "flowbridge"
    sys_version = ""

    def __init__(self, reader: ReportReader, metrics: Callable[[str, str, str], Answer], *args: Any) -> None:
        self._reader = reader
        self._metrics = metrics
        super().__init__(*args)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        """Say nothing: a scrape every few seconds would fill the log."""

    def _answer(self, *, with_body: bool) -> None:
        url = urlsplit(self.path)
        try:
            if url.path == "/metrics":
                accept, encoding = self.headers.get("Accept", ""), self.headers.get("Accept-Encoding", "")
                status, headers, body = self._metrics(url.query, accept, encoding)
            elif url.path == "/healthz":
                status, headers, body = _health(self._reader.read())
            else:
                status, headers, body = _text(HTTPStatus.NOT_FOUND, _HINT)
        except FlowbridgeError as error:
            status, headers, body = _trouble(url.path, str(error))
        code, _, phrase = status.partition(" ")
        self.send_response(int(code), phrase)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def _metrics_of(reader: ReportReader) -> Callable[[str, str, str], Answer]:
    """`prometheus_client`'s own WSGI application chooses format, compression and names; here it is only called."""
    from prometheus_client import exposition

    app = cast("_Wsgi", cast("Any", exposition).make_wsgi_app(registry_of(reader.read)))

    def metrics(query: str, accept: str, encoding: str) -> Answer:
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start(status: str, headers: list[tuple[str, str]]) -> None:
            started.append((status, headers))

        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "QUERY_STRING": query}
        environ |= {"HTTP_ACCEPT": accept, "HTTP_ACCEPT_ENCODING": encoding}
        body = b"".join(app(environ, start))
        return *started[0], body

    return metrics


def _health(report: RunReport) -> Answer:
    failed = report.status == "failed" or any(node.state == "failed" for node in report.nodes.values())
    document = {
        "status": "failed" if failed else "ok",
        "flow": report.flow,
        "run": report.status,
        "nodes": {
            name: {"state": node.state, "restarts": node.restarts, "error": node.error}
            for name, node in report.nodes.items()
        },
    }
    return _json(HTTPStatus.SERVICE_UNAVAILABLE if failed else HTTPStatus.OK, document)


def _trouble(path: str, message: str) -> Answer:
    if path == "/healthz":
        return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "unresponsive", "error": message})
    return _text(HTTPStatus.SERVICE_UNAVAILABLE, message + "\n")


def _json(status: HTTPStatus, document: dict[str, Any]) -> Answer:
    body = json.dumps(document).encode() + b"\n"
    return f"{status.value} {status.phrase}", [("Content-Type", "application/json")], body


def _text(status: HTTPStatus, text: str) -> Answer:
    return f"{status.value} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8")], text.encode()
