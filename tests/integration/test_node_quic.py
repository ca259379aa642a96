"""Nodes on real sockets: what a flow gives on every tier, how it ends, and what is said to whom is not served."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import re
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from node_processes import CA, NodeProcess, Process, RunProcess, balance, certificates, flow, free_port, lost
from pyarrow import parquet
from quic_certs import CLIENT, SERVER, make_ca, make_node
from token_keys import public_half, signing_key

import flowbridge
from flowbridge import Host, registry
from flowbridge.addresses import NodeAddress, TlsFiles
from flowbridge.codec import session_frames
from flowbridge.envelope import Envelope
from flowbridge.errors import AuthError, Effect, FlowbridgeError, NoResponderError, RemoteProtocolError, Retry
from flowbridge.plan import Placement
from flowbridge.runtime.clock import SystemClock
from flowbridge.runtime.digest import operator_digest
from flowbridge.transports.quic import dialing
from flowbridge.transports.quic.settings import QuicSettings
from flowbridge.transports.quic.transport import QuicTransport

FLIGHTS = Path(__file__).parents[2] / "examples" / "flights"
EDGE = "place: {host: edge-1}"
JSON = "outputs: {out: {type: json}}"
ENDLESS = f"id: a, operator: sequence, with: {{every: 1ms}}, {JSON}"
NULL = 'id: k, operator: "null", inputs: {in: a/out}'
LINES = "id: k, operator: jsonl_sink, with: {path: out.jsonl}, inputs: {in: a/out}"


def flights(folder: Path, place: str) -> Path:
    """The example with the deadlines of a patient person, and its heavy nodes at a place."""
    shutil.copytree(FLIGHTS, folder, ignore=shutil.ignore_patterns("out", "__pycache__"))
    path = folder / "flow.yaml"
    text = path.read_text()
    for deadline in ("deadline: 2s", "deadline: 500ms"):
        assert deadline in text
        text = text.replace(deadline, "deadline: 1h")
    for node in ("enrich", "flown", "hourly", "severe") if place else ():
        assert f"  - id: {node}\n" in text
        text = text.replace(f"  - id: {node}\n", f"  - id: {node}\n    place: {place}\n")
    path.write_text(text)
    return folder


def rows(path: Path) -> bytes:
    """The rows of a Parquet file; in how many groups they were written depends on when they came."""
    table = parquet.read_table(path).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def test_the_flights_flow_gives_the_same_bytes_on_every_tier(tmp_path: Path) -> None:
    port = free_port()
    tiers: dict[str, dict[str, str]] = {}
    results: dict[str, list[bytes]] = {}
    with NodeProcess(tmp_path, port) as node:
        for tier, place in (("inproc", ""), ("ipc", "{process: heavy}"), ("quic", "{host: edge-1}")):
            folder = flights(tmp_path / tier, place)
            with RunProcess(folder, port) if tier == "quic" else Process(folder, "run", "flow.yaml", "--json") as run:
                report = run.report()
            assert (report["status"], report["errors"]) == ("done", [])
            balance(report)
            tiers[tier] = {name: edge["tier"] for name, edge in report["edges"].items()}
            results[tier] = [
                rows(folder / "out" / "delays-by-hour.parquet"),
                (folder / "out" / "alerts.jsonl").read_bytes(),
            ]
        assert node.kinds == ["listening", "host_connected", "part_started", "host_left"]
    assert tiers["quic"]["flights/out->enrich/in"] == tiers["quic"]["hourly/out->hours/in"] == "quic"
    assert tiers["quic"]["enrich/out->flown/in"] == "inproc"
    assert "inproc" not in (tiers["ipc"]["flights/out->enrich/in"], tiers["ipc"]["hourly/out->hours/in"])
    assert results["inproc"] == results["ipc"] == results["quic"]
    assert all(results["inproc"])


# --- signals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_host_drains_what_runs_at_the_node(tmp_path: Path, number: signal.Signals) -> None:
    port = free_port()
    flow(tmp_path, f"{ENDLESS}, {EDGE}", LINES)
    with NodeProcess(tmp_path, port) as node, RunProcess(tmp_path, port) as run:
        node.hears_event("part_started")
        time.sleep(0.5)
        run.send(number)
        report = run.report(130)
        node.hears_event("host_left")
        node.send(signal.SIGTERM)
        assert node.wait() == 0
    assert (report["status"], report["errors"], lost(report)) == ("interrupted", [], 0)
    balance(report)
    assert lines(tmp_path)
    assert lines(tmp_path) == list(range(report["edges"]["a/out->k/in"]["sent"]))


def test_a_signal_to_the_node_drains_the_flows_of_its_hosts(tmp_path: Path) -> None:
    port = free_port()
    flow(tmp_path, f"{ENDLESS}, {EDGE}", LINES)
    with NodeProcess(tmp_path, port) as node, RunProcess(tmp_path, port) as run:
        node.hears_event("part_started")
        time.sleep(0.5)
        node.send(signal.SIGTERM)
        assert node.wait() == 0, node.said
        report = run.report(1)
    assert (report["status"], report["errors"], lost(report)) == ("interrupted", [], 0)
    balance(report)
    assert lines(tmp_path)
    assert lines(tmp_path) == list(range(report["edges"]["a/out->k/in"]["sent"]))
    assert node.kinds[-3:] == ["draining", "host_left", "drained"]


def test_a_node_drains_under_load_that_never_stops_and_no_request_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request made before is answered, each one after that is refused undone; nothing is cut off."""
    (tmp_path / "drain_ops.py").write_text("def double(value):\n    return 2 * value\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    port = free_port()
    asked = f'id: b, operator: "python:drain_ops:double", inputs: {{in: {{from: bus/q, reply: true}}}}, {EDGE}'
    path = flow(tmp_path, asked)
    files = certificates(tmp_path, "host")[1::2]
    (tmp_path / "policy.yaml").write_text(
        "flowbridge-node: 1\noperators:\n  - {ref: 'python:drain_ops:double', peers: ['fb://dev/node/*']}\n"
        "rules:\n  - {allow: [sub, serve], peers: ['fb://dev/node/*'], to: ['q']}\n"
    )

    async def main() -> tuple[int, list[tuple[float, FlowbridgeError]], float, Any]:
        answered, errors, told = 0, list[tuple[float, FlowbridgeError]](), list[float]()

        async def ask(host: Host, first: int) -> None:
            nonlocal answered
            for number in itertools.count(first, 8):
                began = time.monotonic()
                try:
                    reply = await host.bus.request("q", Envelope(number), timeout_ns=5 * 10**9)
                except FlowbridgeError as error:
                    errors.append((began, error))
                    await asyncio.sleep(0.001)
                    continue
                assert reply.payload == 2 * number
                answered += 1
                if answered == 200:
                    told.append(node.send(signal.SIGTERM))

        async with Host(nodes={"edge-1": f"quic://127.0.0.1:{port}"}, tls=TlsFiles(*files)) as host:
            running = await host.start(flowbridge.load(path))
            load = [asyncio.create_task(ask(host, first)) for first in range(8)]
            report = await running.wait()
            for task in load:
                assert not task.done(), "the load went on to the end"
                task.cancel()
            await asyncio.wait(load)
        return answered, errors, told[0], report

    with NodeProcess(tmp_path, port, "--policy", "policy.yaml") as node:
        answered, errors, told, report = asyncio.run(main())
        assert node.wait() == 0, node.said
    assert answered >= 200
    assert errors, "nobody asked while it drained"
    assert {(type(error), error.effect, error.retry) for _, error in errors} == {
        (NoResponderError, Effect.NONE, Retry.LATER)
    }, errors
    assert min(began for began, _ in errors) >= told, "a request that was made before was not answered"
    assert (report.status, report.errors) == ("interrupted", []), report
    assert report.edges["bus/q->b/in"].books.dropped_total == 0
    assert node.kinds[-3:] == ["draining", "host_left", "drained"]
    assert node.events[-1]["cut"] is False
    said = [record.getMessage() for record in caplog.records if "is draining" in record.getMessage()]
    assert len(said) == 1, said
    assert re.fullmatch(r"node edge-1 \(quic://.*\) is draining: it takes nothing new, and ends within 10 s", said[0])


def test_a_second_signal_ends_a_node_at_once_and_the_flow_fails_by_name(tmp_path: Path) -> None:
    (tmp_path / "ops.py").write_text("import asyncio\n\n\nasync def stuck(value):\n    await asyncio.sleep(3600)\n")
    port = free_port()
    held = 'id: k, operator: "python:./ops.py:stuck", inputs: {in: {from: a/out, queue: {size: 4}}}'
    flow(tmp_path, f"{ENDLESS}, {EDGE}", held)
    with NodeProcess(tmp_path, port) as node, RunProcess(tmp_path, port) as run:
        node.hears_event("part_started")
        time.sleep(0.5)  # its source waits for credit by now
        node.send(signal.SIGTERM)
        node.hears_event("draining")
        node.send(signal.SIGTERM)
        assert node.wait() == 130, node.said
        report = run.report(1)
    assert node.kinds[-1] == "drained"
    assert report["status"] == "failed"
    assert re.search(
        r"node edge-1 \(quic://.*\) (has ended its part|was lost: .*); its nodes: a", "\n".join(report["errors"])
    )


def lines(folder: Path) -> list[int]:
    """What the sink wrote."""
    path = folder / "out.jsonl"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


# --- refusals -------------------------------------------------------------------------------------------------------


def refused(run: Process) -> str:
    """The one line that is said to a host that was not served."""
    assert run.wait() == 1, run.said
    found = run.err.text.splitlines()
    assert len(found) == 1, run.said
    assert not run.out.text
    return found[0]


def test_an_operator_that_the_policy_does_not_name_is_refused_in_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ops.py").write_text("def double(value):\n    return 2 * value\n")
    port = free_port()
    flow(tmp_path, ENDLESS, f'id: b, operator: "python:ops:double", inputs: {{in: a/out}}, {EDGE}')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with NodeProcess(tmp_path, port) as node, RunProcess(tmp_path, port, as_json=False) as run:
        said = refused(run)
        node.hears_event("host_left")
    assert re.search(r"flow\.yaml:5:\d+: node b: .*python:ops:double.* \(0x502 FORBIDDEN\)", said), said
    assert node.kinds == ["listening", "host_connected", "refused", "host_left"]


def test_an_operator_that_the_policy_names_by_its_source_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quic_ops.py").write_text("def double(value):\n    print('got', value)\n    return 2 * value\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    digest = operator_digest("python:quic_ops:double", registry.catalog())
    (tmp_path / "policy.yaml").write_text(
        "flowbridge-node: 1\noperators:\n"
        f"  - {{ref: 'python:quic_ops:double', digest: '{digest}', peers: ['fb://dev/node/host']}}\n"
        "rules:\n  - {allow: [port.read, port.write], peers: ['fb://dev/node/*'], to: ['*']}\n"
    )
    port = free_port()
    source = f"id: s, operator: sequence, with: {{count: 100}}, {JSON}"
    flow(tmp_path, source, f'id: a, operator: "python:quic_ops:double", inputs: {{in: s/out}}, {JSON}, {EDGE}', LINES)
    with NodeProcess(tmp_path, port, "--policy", "policy.yaml") as node, RunProcess(tmp_path, port) as run:
        report = run.report()
        node.hears("got 99")
        node.hears_event("host_left")
    assert report["status"] == "done"
    assert lines(tmp_path) == [2 * n for n in range(100)]
    assert node.kinds == ["listening", "host_connected", "part_started", "host_left"]  # and nothing that was printed


YESTERDAY = dt.timedelta(days=-2)
HOUR = dt.timedelta(hours=1)
OTHER = make_ca("dev", serial=2)
UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "expired": ({"begins_in": YESTERDAY, "valid_for": HOUR}, r"expired on .* UTC; make a new one"),
    "not for clients": ({"eku": (SERVER,)}, "is not for clientAuth; a node needs both usages"),
    "not for servers": ({"eku": (CLIENT,)}, "is not for serverAuth; a node needs both usages"),
    "not yet valid": ({"begins_in": HOUR}, r"is valid from .* UTC on, not yet"),
}


@pytest.mark.parametrize("how", UNFIT)
def test_whoever_has_an_unfit_certificate_is_told_so_before_anything_is_sent(tmp_path: Path, how: str) -> None:
    flow(tmp_path, f"{ENDLESS}, {EDGE}", NULL)
    told, why = UNFIT[how]
    with RunProcess(tmp_path, free_port(), options=certificates(tmp_path, "host", **told), as_json=False) as run:
        assert re.search(rf"host\.cert\.pem: {why}", refused(run))
    options = certificates(tmp_path, "edge-1", **told)
    with Process(tmp_path, "node", "--listen", "quic://127.0.0.1:0", "--name", "edge-1", *options) as node:
        assert re.search(rf"edge-1\.cert\.pem: {why}", refused(node))


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"ca": OTHER}, "is not of our authority: signature does not match; check that both ends trust the authority"),
        ({"hosts": ("elsewhere.example",)}, "the server's certificate is for elsewhere.example, not for '127.0.0.1'; "),
    ],
)
def test_a_node_with_a_wrong_certificate_is_not_trusted(tmp_path: Path, told: dict[str, Any], why: str) -> None:
    port = free_port()
    flow(tmp_path, f"{ENDLESS}, {EDGE}", NULL)
    with NodeProcess(tmp_path, port, options=certificates(tmp_path, "edge-1", **told)) as node:
        with RunProcess(tmp_path, port, as_json=False) as run:
            said = refused(run)
        assert node.is_running
        assert node.kinds == ["listening"]
    where = r"flow\.yaml:4:\d+: node edge-1 \(quic://127\.0\.0\.1:\d+\): UNAUTHENTICATED \(0x501\): "
    assert re.search(where + ".*" + why, said), said


def test_a_host_of_another_authority_is_told_so_and_the_node_goes_on(tmp_path: Path) -> None:
    port = free_port()
    flow(tmp_path, f"{ENDLESS}, {EDGE}", NULL)
    with NodeProcess(tmp_path, port) as node:
        with RunProcess(tmp_path, port, options=certificates(tmp_path, "host", ca=OTHER), as_json=False) as run:
            said = refused(run)
        with RunProcess(tmp_path, port) as run:  # the node is as it was
            node.hears_event("part_started")
            run.send(signal.SIGTERM)
            run.report(130)
    assert re.search(r"flow\.yaml:4:\d+: node edge-1 \(quic://127\.0\.0\.1:\d+\): UNAUTHENTICATED \(0x501\): ", said), (
        said
    )


def settings(**more: Any) -> QuicSettings:
    """Those of a host that does not look at its own certificate first."""
    told = {name: more.pop(name) for name in ("ca", "eku", "begins_in", "valid_for") if name in more}
    made = make_node(told.pop("ca", CA), "host", **told)
    return QuicSettings(certificate=made.certificate, key=made.key, ca=CA.certificate, **more)


def meets(port: int, own: QuicSettings) -> Exception:
    """What a host is told that the node does not serve."""

    async def main() -> Exception:
        nodes = {"edge-1": NodeAddress("127.0.0.1", port)}
        async with QuicTransport(SystemClock(), nodes=nodes, settings=own) as transport:
            with pytest.raises(FlowbridgeError) as caught:
                await transport.start_worker(Placement(host="edge-1"))
        return caught.value

    return asyncio.run(main())


@pytest.mark.parametrize("how", ["expired", "not for clients", "not yet valid"])
def test_a_node_looks_at_the_certificates_of_hosts_itself(tmp_path: Path, how: str) -> None:
    port = free_port()
    with NodeProcess(tmp_path, port) as node:
        error = meets(port, settings(**UNFIT[how][0]))
        assert node.kinds == ["listening"]
    assert isinstance(error, AuthError), repr(error)
    assert "(0x501)" in str(error)
    assert "; " in str(error)


def test_a_host_that_speaks_another_protocol_is_told_so(tmp_path: Path) -> None:
    port = free_port()
    with NodeProcess(tmp_path, port):
        error = meets(port, settings(alpn="other/1"))
    assert isinstance(error, RemoteProtocolError), repr(error)
    assert "VERSION (0x607)" in str(error)
    assert "bring both ends to the same version of flowbridge" in str(error)


def test_a_host_of_another_major_version_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    for module in (dialing, session_frames):
        monkeypatch.setattr(module, "VERSION", (9, 0))
    with NodeProcess(tmp_path, port):
        error = meets(port, settings())
    assert isinstance(error, RemoteProtocolError), repr(error)
    assert "VERSION (0x607)" in str(error)
    assert "the peer speaks version 9.0, here it is 1.0" in str(error)


def test_another_node_than_the_one_that_was_named_is_not_used(tmp_path: Path) -> None:
    port = free_port()
    flow(tmp_path, f"{ENDLESS}, {EDGE}", NULL)
    with NodeProcess(tmp_path, port, name="edge-2"), RunProcess(tmp_path, port, as_json=False) as run:
        assert "the node that answers there is edge-2; give the address of edge-1" in refused(run)


def test_a_host_without_a_certificate_is_told_how_to_make_one(tmp_path: Path) -> None:
    flow(tmp_path, f"{ENDLESS}, {EDGE}", NULL)
    with RunProcess(tmp_path, free_port(), options=[], as_json=False) as run:
        assert run.wait() == 2, run.said
        assert "--node needs --cert and --key and --ca" in run.err.text
        assert "flowbridge certs new" in run.err.text


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        options = certificates(tmp_path, "edge-1")
        with Process(tmp_path, "node", "--listen", f"quic://127.0.0.1:{port}", "--name", "edge-1", *options) as node:
            said = refused(node)
    assert f"127.0.0.1:{port}" in said
    assert "cannot listen: the port is taken: another program listens there" in said


def test_a_node_that_nobody_listens_at_is_one_line(tmp_path: Path) -> None:
    flow(tmp_path, f"{ENDLESS}, {EDGE}", NULL)
    with RunProcess(tmp_path, free_port(), as_json=False) as run:
        said = refused(run)
    assert "nobody listens there (connection refused); start the node, or give its address" in said


def test_something_else_that_listens_there_is_one_line(tmp_path: Path) -> None:
    flow(tmp_path, f"{ENDLESS}, {EDGE}", NULL)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        with RunProcess(tmp_path, deaf.getsockname()[1], as_json=False) as run:
            said = refused(run)
    assert "no answer within 5 s; check that a node listens there, and that UDP passes (firewall)" in said


def test_a_host_without_a_certificate_runs_its_part_with_a_token_that_is_good_once(tmp_path: Path) -> None:
    pytest.importorskip("joserfc", reason="joserfc is not installed")
    port = free_port()
    flow(tmp_path, f"id: a, operator: sequence, with: {{count: 50}}, {JSON}, {EDGE}", LINES)
    (tmp_path / "key.pem").write_bytes(signing_key("EdDSA"))
    (tmp_path / "keys.pem").write_bytes(public_half(signing_key("EdDSA")))
    with Process(tmp_path, "certs", "token", "--key", "key.pem", "--node", "host", "--for", "edge-1") as made:
        assert made.wait() == 0
        (tmp_path / "token").write_text(made.out.text)
    (tmp_path / "ca.pem").write_bytes(CA.certificate)
    shown = ["--ca", "ca.pem", "--token", "token"]
    with NodeProcess(tmp_path, port, "--token-keys", "keys.pem") as node:
        with RunProcess(tmp_path, port, options=shown) as run:
            report = run.report()
        assert (report["status"], report["errors"]) == ("done", [])
        balance(report)
        assert lines(tmp_path) == list(range(50))
        (connected,) = [event for event in node.events if event["event"] == "host_connected"]
        assert connected["host"] == "fb://dev/node/host"
        with RunProcess(tmp_path, port, options=shown) as again:
            assert again.wait() == 1
            assert "0x501" in again.out.text
            assert "used before, for another session" in again.out.text
        with RunProcess(tmp_path, port) as certified:  # who has a certificate needs no token
            assert certified.report()["status"] == "done"
