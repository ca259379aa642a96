"""What goes to stdout and stderr, and which exit code an error has.

stdout holds the result: text for people, or with ``--json`` exactly one JSON document. Everything else goes to stderr.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, Final, TextIO

import typer

from flowbridge.errors import FlowbridgeError, FlowErrors
from flowbridge.limits import FLOW_FILE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from rich.console import Console

    from flowbridge.finding import Finding

DONE: Final = 0
FAILED: Final = 1
WRONG_USE: Final = 2
INTERRUPTED: Final = 130
READER_GONE: Final = 141  # what a shell reports for a writer whose reader went away

PIPE_WIDTH: Final = 160  # columns of a table that is not shown on a terminal


class WrongUse(typer.TyperException):
    """The command was called in a way it does not understand."""

    exit_code = WRONG_USE


_written: list[int] = []  # how many documents this process has printed: there must never be two


def print_json(document: Mapping[str, Any]) -> None:
    """Write the one document of ``--json`` to stdout."""
    import json

    _written.append(1)
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def print_json_line(document: Mapping[str, Any], stream: TextIO) -> None:
    """Write one of many documents, each on a line, at once. Raises: BrokenPipeError."""
    import json

    _written.append(1)
    stream.write(json.dumps(document, ensure_ascii=False) + "\n")
    stream.flush()


@contextlib.contextmanager
def document_only() -> Generator[None]:
    """Keep stdout free for the document: what operators print meanwhile, in other processes too, goes to stderr."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def say(text: str) -> None:
    """One line for people, on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def is_coloured(stream: TextIO) -> bool:
    """Whether escape codes are welcome: a terminal that can, and nobody asked for none."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def paint(text: str, code: str, stream: TextIO) -> str:
    """The text in an ANSI style such as ``1;31``, where the stream shows it."""
    return f"\x1b[{code}m{text}\x1b[0m" if is_coloured(stream) else text


def console(stream: TextIO) -> Console:
    """Rich's console on a stream; a stream that is no terminal gets a width that does not cut tables."""
    from rich.console import Console

    return Console(file=stream, width=None if stream.isatty() else PIPE_WIDTH, highlight=False, soft_wrap=False)


def finding_lines(finding: Finding, source: Sequence[str], stream: TextIO) -> str:
    """A finding with the line it is about and a caret under the column."""
    where = paint(str(finding.position), "1", stream)
    rule = paint(finding.rule, "31", stream)
    hint = f" ({finding.hint})" if finding.hint else ""
    head = f"{where}: {rule} {finding.message}{hint}"
    line, column = finding.position.line, finding.position.column
    if not 1 <= line <= len(source) or not source[line - 1].strip():
        return head
    # Long lines are cut around the column; tabs become one space so that the caret stands right.
    text = "".join(c if c.isprintable() else " " for c in source[line - 1].rstrip())
    start = max(0, column - 80) if len(text) > 120 else 0
    caret = " " * (min(column, len(text) + 1) - 1 - start) + paint("^", "1;32", stream)
    return f"{head}\n    {text[start : start + 120]}\n    {caret}"


def print_findings(findings: Sequence[Finding], stream: TextIO) -> None:
    """Every finding with its line of the text."""
    texts: dict[str, list[str]] = {}
    for finding in findings:
        file = finding.position.file
        if file not in texts:
            texts[file] = _lines(file)
        stream.write(finding_lines(finding, texts[file], stream) + "\n")


def _lines(file: str) -> list[str]:
    """The lines of a file as an editor counts them; none when it is no text of a flow's size."""
    try:
        with open(file, "rb") as stream:
            data = stream.read(FLOW_FILE_BYTES_MAX + 1)
        return [] if len(data) > FLOW_FILE_BYTES_MAX else data.decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        return []  # the finding itself says what is wrong; the line is only a help


def wants_json(args: Sequence[str]) -> bool:
    """Whether the arguments ask for JSON, also when they are otherwise wrong."""
    options = args[: args.index("--")] if "--" in args else args
    return "--json" in options


def report_usage(error: typer.TyperException, *, as_json: bool) -> int:
    """Show a wrong use; returns the exit code."""
    message = str(getattr(error, "format_message", error.__str__)())
    if as_json:
        print_json({"error": {"kind": "usage", "message": message, "exit_code": error.exit_code}})
        return error.exit_code
    show = getattr(error, "show", None)
    if show is not None:
        show(file=sys.stderr)  # with the usage line of the command
    else:
        say(f"Error: {message}")
    return error.exit_code


def report_error(error: FlowbridgeError | OSError, *, as_json: bool) -> int:
    """Show an error without a traceback; returns the exit code."""
    findings = error.findings if isinstance(error, FlowErrors) else ()
    if as_json:
        about: dict[str, Any] = {"kind": type(error).__name__, "message": _one_line(error), "exit_code": FAILED}
        if findings:
            about["findings"] = [finding.to_json() for finding in findings]
        print_json({"error": about})
    elif findings:
        print_findings(findings, sys.stderr)
        say(paint(_one_line(error), "1;31", sys.stderr))
    else:
        say(f"{paint('Error', '1;31', sys.stderr)}: {_one_line(error)}")
    return FAILED


def _one_line(error: FlowbridgeError | OSError) -> str:
    """What it says; part of it may be from another machine."""
    from flowbridge.codec.terminal_text import harmless

    return harmless(_said(error))


def _said(error: FlowbridgeError | OSError) -> str:
    if isinstance(error, FlowErrors):
        count = len(error.findings)
        return f"{count} finding{'' if count == 1 else 's'}"
    if isinstance(error, OSError) and not isinstance(error, FlowbridgeError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def report_interruption(code: int, *, as_json: bool) -> int:
    """Ctrl-C may come before there is a result: JSON gets its document all the same."""
    if as_json and not _written:
        print_json({"error": {"kind": "interrupted", "message": "interrupted", "exit_code": code}})
    return code


def report_fault(error: Exception) -> int:
    """A fault of flowbridge itself under ``--json``: the traceback for people, the document for programs."""
    import traceback

    traceback.print_exception(error)
    if not _written:
        about = {"kind": type(error).__name__, "message": f"a fault of flowbridge: {error}", "exit_code": FAILED}
        print_json({"error": about})
    return FAILED


def drop_stdout(stream: TextIO | None = None) -> None:
    """Nobody reads stdout any more: let what is still buffered go nowhere instead of raising at exit.

    `stream` is what stdout was before it was redirected.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, (stream or sys.stdout).fileno())
    except (OSError, ValueError):
        pass  # stdout is not a file of this process (a test captures it): there is nothing to silence
    finally:
        os.close(nowhere)
