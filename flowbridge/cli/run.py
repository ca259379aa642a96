"""``flowbridge run``: run a flow until it ends, is told to stop, or its time is up."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flowbridge.cli import output
from flowbridge.cli.flow_file import FlowArgument, JsonOption, load_plan
from flowbridge.cli.tls_options import (
    AuthorityOption,
    CertOption,
    EngineOption,
    KeyOption,
    TokenOption,
    node_addresses,
    tls_files,
)
from flowbridge.cli.units import parse_duration_ns

if TYPE_CHECKING:
    from flowbridge.cli.run_loop import Ending
    from flowbridge.cli.run_view import View


def _duration(text: str) -> str:
    """Refuse what is no duration while the command line is read."""
    try:
        parse_duration_ns(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return text


def _optional_duration(text: str | None) -> str | None:
    return None if text is None else _duration(text)


def run(
    flow: FlowArgument,
    for_: Annotated[
        str | None,
        typer.Option("--for", metavar="DURATION", callback=_optional_duration, help="Drain after this time, as 10s."),
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve Prometheus metrics on this port; 0 takes a free one.")
    ] = None,
    otlp: Annotated[
        bool, typer.Option("--otlp", help="Export metrics and traces by OTLP; OTEL_EXPORTER_OTLP_* says where to.")
    ] = False,
    trace_ratio: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="The share of messages that are traced; 0.01 with --otlp, else 0."),
    ] = None,
    drain_timeout: Annotated[
        str, typer.Option(metavar="DURATION", callback=_duration, help="A drain that takes longer becomes an abort.")
    ] = "10s",
    node: Annotated[
        list[str] | None,
        typer.Option("--node", metavar="NAME=ADDRESS", help="Where a host of the flow is, as edge-1=quic://HOST:PORT."),
    ] = None,
    cert: CertOption = None,
    key: KeyOption = None,
    ca: AuthorityOption = None,
    token: TokenOption = None,
    engine: EngineOption = "auto",
    json: JsonOption = False,
) -> None:
    """Run a flow in this process, and what it places elsewhere there.

    In the end it says what happened to every message.
    Ctrl-C or SIGTERM drains: the sources stop and what is under way goes through. A second one aborts.
    """
    nodes = node_addresses(node or ())
    plan = load_plan(flow)
    from flowbridge.cli.run_loop import Options, run_flow
    from flowbridge.cli.run_view import choose_view

    options = Options(
        for_ns=None if for_ is None else parse_duration_ns(for_),
        drain_ns=parse_duration_ns(drain_timeout),
        metrics_port=metrics_port,
        otlp=otlp,
        trace_ratio=trace_ratio if trace_ratio is not None else 0.01 if otlp else 0.0,
        nodes=nodes,
        tls=tls_files(cert, key, ca, needed_by="--node" if nodes else "", token=token),
        engine=engine,
    )
    view: View = choose_view(plan, as_json=json)
    with output.document_only() if json else contextlib.nullcontext():
        ending = run_flow(plan, options, view)
    if ending.reader_gone:
        raise BrokenPipeError
    if json:
        output.print_json(ending.report.to_json())
    else:
        from flowbridge.cli.run_summary import print_summary

        print_summary(plan, ending.report, sys.stdout)
    raise typer.Exit(exit_code(ending))


def exit_code(ending: Ending) -> int:
    """0 for a run that did its work, 130 for one that a signal ended, 1 otherwise."""
    if ending.report.status == "failed":
        return output.FAILED
    if ending.signalled:
        return output.INTERRUPTED
    return output.DONE if ending.report.status == "done" else output.FAILED
