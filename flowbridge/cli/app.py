"""The commands together, and the one place where errors become exit codes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.main import get_command

from flowbridge.cli import bench, certs, check, explain, graph, new, node, output, run, shm
from flowbridge.cli import compile as compiling
from flowbridge.cli import list as listing
from flowbridge.errors import FlowbridgeError

if TYPE_CHECKING:
    from collections.abc import Sequence

# No markup mode: help stays plain text, equal on every terminal, and Rich is not imported for it.
app = typer.Typer(
    name="flowbridge",
    help="Compile, check and run dataflow graphs with deadlines, priority and credit on every hop.",
    epilog="Exit codes: 0 done, 1 the flow or the check failed, 2 wrong use, 130 interrupted, 141 stdout was closed.",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"flowbridge {version('flowbridge')}")
        raise typer.Exit


@app.callback()
def flowbridge(
    version: Annotated[  # read by its callback
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Compile, check and run dataflow graphs with deadlines, priority and credit on every hop."""


app.command("new")(new.new)
app.command("check")(check.check)
app.command("compile")(compiling.compile_flow)
app.command("graph")(graph.graph)
app.command("explain")(explain.explain)
app.command("run")(run.run)
app.add_typer(bench.app, name="bench")
app.add_typer(certs.app, name="certs")
app.add_typer(listing.app, name="list")
app.add_typer(node.app, name="node")
app.add_typer(shm.app, name="shm")


def run_app(args: Sequence[str]) -> int:
    """Run one command line; returns its exit code."""
    try:
        code = _call(args)
        sys.stdout.flush()
    except BrokenPipeError:
        output.drop_stdout()
        return output.READER_GONE
    except KeyboardInterrupt:
        return output.report_interruption(output.INTERRUPTED, as_json=output.wants_json(args))
    return code


def _call(args: Sequence[str]) -> int:
    as_json = output.wants_json(args)
    command: Any = get_command(app)
    try:
        result = command.main(args=[*args], prog_name="flowbridge", standalone_mode=False)
    except typer.TyperException as error:
        return output.report_usage(error, as_json=as_json)
    except typer.Abort:
        return output.report_interruption(output.INTERRUPTED, as_json=as_json)
    except BrokenPipeError:
        raise
    except (FlowbridgeError, OSError) as error:
        return output.report_error(error, as_json=as_json)
    except SystemExit as exit_:
        # Typer turns a closed stdout into exit code 1; ours says which it was.
        if isinstance(exit_.__context__, BrokenPipeError):
            raise exit_.__context__ from None
        raise
    except Exception as error:
        if not as_json:
            raise
        return output.report_fault(error)
    if result == output.INTERRUPTED:
        return output.report_interruption(output.INTERRUPTED, as_json=as_json)
    return result if isinstance(result, int) else output.DONE
