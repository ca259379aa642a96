"""The reference page of the command line, from the commands themselves.

``python -m flowbridge.cli.reference > docs/reference/cli.md`` writes it again; a test keeps the two equal.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from typer.main import get_command

from flowbridge.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Iterator

    import typer

_WIDTH: Final = 100

_HEAD: Final = """\
# The command line

This page is made from the code; `python -m flowbridge.cli.reference` prints it.

Results go to stdout, messages for people to stderr. With `--json`, stdout holds exactly one JSON document whatever
happens: the result, or `{"error": {"kind", "message", "exit_code"}}` (with `findings` when a flow was refused).

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | the flow failed, or the check has findings |
| 2 | wrong use: an unknown option, a file that does not exist |
| 130 | ended by a signal, after a drain or an abort; a node that has drained is done |
| 141 | whoever read stdout went away |

`flowbridge run`: the first Ctrl-C or SIGTERM drains (the sources stop, what is under way goes through), the second
aborts (what is under way is counted as dropped by `abort`), the third leaves at once.

`flowbridge --install-completion` sets up completion for the shell in use: commands, options, flow files, operators.
"""


def page() -> str:
    """The whole page."""
    root: Any = get_command(app)
    return "\n".join([_HEAD, *_sections(root, "flowbridge", None)])


def _sections(command: Any, path: str, parent: typer.Context | None) -> Iterator[str]:
    context = command.context_class(command, info_name=path.rpartition(" ")[2], parent=parent, terminal_width=_WIDTH)
    with context:
        text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    yield f"## `{path}`\n\n```text\n{text}\n```\n"
    for name, sub in getattr(command, "commands", {}).items():
        yield from _sections(sub, f"{path} {name}", context)


if __name__ == "__main__":
    sys.stdout.write(page())
