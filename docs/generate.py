"""Writes the pages that are made from the code: ``python docs/generate.py``; ``--check`` only says which differ.

Pages are functions of no argument that give the whole text. `PAGES` names them; README.md is written between two
comments only.
"""

from __future__ import annotations

import enum
import inspect
import sys
import textwrap
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import flowbridge
from flowbridge import errors
from flowbridge.envelope import NO_DEADLINE
from flowbridge.operator_spec import REQUIRED
from flowbridge.operators import expression
from flowbridge.operators.catalog import BUILTINS
from flowbridge.operators.expression_function import FUNCTIONS
from flowbridge.testing.conformance import guarantees_markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from flowbridge.operator_spec import ConfigField, OperatorSpec
    from flowbridge.plan import Port

ROOT: Final = Path(__file__).resolve().parents[1]
_MADE: Final = "<!-- Made from the code by `python docs/generate.py`; change it there. -->"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# --- operators ----------------------------------------------------------------------------------------------------

_OPERATORS: Final = f"""\
# Built-in operators

{_MADE}

What a flow may name by one word after `operator:`. `flowbridge list operators NAME` says the same on the command line.
Between those that read and write tables travel Arrow record batches (`pyarrow.RecordBatch`); `object` is any Python
value. A path starts from the folder of the flow. How to write your own:
[Write an operator](../how-to/write-an-operator.md).
"""

_EXPRESSIONS: Final = """\
## Expressions

{prose}

`where` of `filter` is written in it, and so are the new columns of `map` and `select`.

| Function | Result |
| --- | --- |
"""


def operators() -> str:
    """docs/reference/operators.md."""
    groups = {"Sources": list[str](), "Transforms": list[str](), "Sinks": list[str]()}
    for spec in BUILTINS.values():
        group = "Sources" if spec.is_source else "Transforms" if spec.outputs else "Sinks"
        groups[group].append(_operator(spec))
    parts = [_OPERATORS]
    for title, sections in groups.items():
        parts += [f"\n## {title}\n", *sections]
    prose = (inspect.getdoc(expression) or "").replace("``", "`").replace("`expression_function`", "the table below")
    rows = (f"| `{function.signature}` | {function.doc} |\n" for function in FUNCTIONS.values())
    return "".join([*parts, "\n", _EXPRESSIONS.format(prose=prose), *rows])


def _operator(spec: OperatorSpec) -> str:
    inputs, outputs = _ports(spec.inputs, more=spec.any_inputs), _ports(spec.outputs, more=spec.any_outputs)
    text = f"\n### `{spec.name}`\n\n{spec.summary} In: {inputs}. Out: {outputs}.\n"
    if spec.extra:
        text += f"\nNeeds `pip install 'flowbridge[{spec.extra}]'`.\n"
    if not spec.config:
        return text + "\nIt has no configuration.\n"
    rows = [(f"`{field.name}`", field.type, _default(field), _meaning(field)) for field in spec.config]
    return text + "\n" + _table(("`with`", "Type", "Default", "Meaning"), rows)


def _ports(ports: Sequence[Port], *, more: bool) -> str:
    words = [f"`{port.name}` ({port.content_type.name.lower()})" for port in ports] + ["any other name"] * more
    return ", ".join(words) or "none"


def _default(field: ConfigField) -> str:
    if field.default is REQUIRED:
        return "required"
    if field.default is None or field.default == ():
        return "-"
    return f"`{field.default}ns`" if field.type == "duration" else f"`{field.default}`"


def _meaning(field: ConfigField) -> str:
    one_of = " One of " + ", ".join(f"`{choice}`" for choice in field.choices) + "." if field.choices else ""
    return field.doc + one_of


# --- Python -------------------------------------------------------------------------------------------------------

_PYTHON: Final = f"""\
# Python

{_MADE}

`import flowbridge` gives the names below, and loads each when it is first used. What stands under "Further names" is
imported from the module that is named there. How they are used: [Embed flowbridge](../how-to/embed.md),
[Write an operator](../how-to/write-an-operator.md), [Write a transport](../how-to/write-a-transport.md).
"""

CHAPTERS: Final[dict[str, str]] = {
    "Run flows": "load Host RunReport Finding",
    "Write operators": "Operator OperatorContext Outputs Emit",
    "Messages": "Envelope Gap Priority TraceContext",
    "Plans": "Plan Policy Qos Tier",
    "Contracts": "Clock DataPort DataSink DataSource Lease EventBus Transport FlowAdapter",
    "Machinery": "NodeRunner TimeManager",
}
MADE_BY_THE_HOST: Final = ("NodeRunner", "RunningFlow")
LINE_CHARACTERS_MAX: Final = 100
FURTHER: Final = (
    *("flowbridge.runtime.flow:RunningFlow", "flowbridge.report:NodeReport", "flowbridge.report:EdgeReport"),
    *("flowbridge.report:PathReport", "flowbridge.time.ledger:EdgeBooks", "flowbridge.time.ledger:Missed"),
    *("flowbridge.contracts:OpensOperator", "flowbridge.contracts:Subscription", "flowbridge.contracts:Instrument"),
    *("flowbridge.testing.clock:ManualClock", "flowbridge.testing.operator_bench:OperatorBench"),
    "flowbridge.testing.conformance:Clause",
)


def python_api() -> str:
    """docs/reference/python-api.md."""
    parts = [_PYTHON]
    for title, names in CHAPTERS.items():
        parts += [f"\n## {title}\n", *(_thing(getattr(flowbridge, name), name) for name in names.split())]
    parts += ["\n## Errors\n\n", _errors(), "\n## Further names\n"]
    for place in FURTHER:
        module, _, name = place.partition(":")
        parts.append(_thing(getattr(import_module(module), name), name, module))
    return "".join(parts)


def _thing(thing: Any, name: str, module: str = "") -> str:
    """A class with its public members, or a function."""
    origin = f"From `{module}`. " if module else ""
    text = f"\n### `{name}`\n\n{origin}{_prose(thing)}\n"
    if not inspect.isclass(thing):
        return text + _code(name, thing)
    if issubclass(thing, enum.Enum):
        return text + "\n" + ", ".join(f"`{member.name}`" for member in thing) + ".\n"
    if not _is_protocol(thing) and name not in MADE_BY_THE_HOST:
        text += _code(name, thing)
    rows = list(_members(thing))
    return text + ("\n" + "\n".join(rows) + "\n" if rows else "")


def _is_protocol(cls: type) -> bool:
    return bool(getattr(cls, "_is_protocol", False))


def _code(name: str, thing: Any) -> str:
    """How it is called; one parameter per line where one line would be too long."""
    signature = _signature(thing)
    line = f"{name}{signature}"
    if len(line) > LINE_CHARACTERS_MAX:
        lines: list[str] = []
        for parameter in signature.parameters.values():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and "    *," not in lines:
                lines.append("    *,")
            lines.append(f"    {parameter},")
        returns = "" if inspect.isclass(thing) else f" -> {signature.return_annotation}"
        line = "\n".join([f"{name}(", *lines, f"){returns}"])
    return f"\n```python\n{line}\n```\n"


def _prose(thing: Any) -> str:
    """A docstring as Markdown: what is indented in it is code."""
    blocks = inspect.cleandoc(thing.__doc__ or "").split("\n\n")
    return "\n\n".join(
        f"```python\n{textwrap.dedent(block)}\n```" if block.startswith("    ") else block.replace("``", "`")
        for block in blocks
    )


def _members(cls: type) -> Iterator[str]:
    """One line for each public property and method, in the order of the class."""
    for name, member in vars(cls).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            yield _member(f"`{name}: {_annotation(member.fget)}`", member)
        elif inspect.isfunction(member):
            wait = "await " if inspect.iscoroutinefunction(member) else ""
            yield _member(f"`{wait}{name}{_signature(member, bound=True)}`", member)


def _member(head: str, member: Any) -> str:
    prose = " ".join(_prose(member).split())
    return f"- {head}" + (f"  \n  {prose}" if prose else "")


class _Bare:
    """A text that `inspect` prints without quotes."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _signature(thing: Any, *, bound: bool = False) -> inspect.Signature:
    """The signature as a person writes it: annotations without quotes, defaults by name."""
    signature = inspect.signature(thing)
    parameters = list(signature.parameters.values())[1 if bound else 0 :]
    shown = [p.replace(annotation=_shown(p.annotation), default=_shown_default(p.default)) for p in parameters]
    returns = inspect.Signature.empty if inspect.isclass(thing) else _shown(signature.return_annotation)
    return signature.replace(parameters=shown, return_annotation=returns)


def _shown(annotation: Any) -> Any:
    return _Bare(annotation) if isinstance(annotation, str) else annotation


def _shown_default(default: Any) -> Any:
    if default is inspect.Parameter.empty or isinstance(default, str | bool):
        return default
    if isinstance(default, enum.Enum):
        return _Bare(str(default) if not isinstance(default, int) else f"{type(default).__name__}.{default.name}")
    if default == NO_DEADLINE:
        return _Bare("NO_DEADLINE")
    if default is None or type(default) in {int, float, tuple}:
        return default
    return _Bare("...")  # made anew for each object


def _annotation(function: Any) -> str:
    return str(_shown(inspect.signature(function).return_annotation))


_ERRORS: Final = """\
`effect` says whether the thing that failed may have happened all the same, `retry` whether the same call is worth
repeating. Both are attributes of every error; an object may know better than its class.

"""


def _errors() -> str:
    """What a caller may conclude from each error."""
    found = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, BaseException)]
    rows = [
        (f"`{cls.__name__}`", _parents(cls), cls.effect.value, cls.retry.value, " ".join(_prose(cls).split()))
        for cls in found
        if issubclass(cls, flowbridge.FlowbridgeError)
    ]
    return _ERRORS + _table(("Error", "is a", "effect", "retry", "Meaning"), rows)


def _parents(cls: type) -> str:
    return ", ".join(f"`{base.__name__}`" for base in cls.__bases__)


# --- the others ---------------------------------------------------------------------------------------------------


def _of(module: str) -> Callable[[], str]:
    """The page that a module of the package makes by itself."""

    def page() -> str:
        return str(import_module(module).page())

    return page


def index() -> str:
    """docs/reference/index.md."""
    rows = (
        ("[The flow language](flow-language.md)", "What may stand in a flow file?"),
        ("[flow.schema.json](flow.schema.json)", "The same for editors, as a JSON Schema."),
        ("[Rules](rules.md)", "What does a finding such as FB302 mean, and what mends it?"),
        ("[Operators](operators.md)", "What may be named by one word, and how is it configured?"),
        ("[The command line](cli.md)", "Which commands, options and exit codes are there?"),
        ("[Python](python-api.md)", "Which classes and functions are public?"),
        ("[Metrics, spans and attributes](metrics.md)", "What is measured, and under which name?"),
    )
    text = f"# Reference\n\n{_MADE}\n\n" + _table(("Page", "Question"), rows)
    return text + "\nAll but the first are made from the code. [Further reading](../index.md).\n"


BEGIN: Final = "<!-- guarantees: made by `python docs/generate.py` -->"
END: Final = "<!-- end of guarantees -->"


def readme() -> str:
    """README.md with the table of guarantees renewed."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    assert found, f"README.md: {BEGIN} is missing"
    assert closed, f"README.md: {END} is missing"
    return f"{before}{BEGIN}\n\n{guarantees_markdown().strip()}\n\n{END}{after}"


PAGES: Final[dict[str, Callable[[], str]]] = {
    "README.md": readme,
    "docs/reference/index.md": index,
    "docs/reference/operators.md": operators,
    "docs/reference/python-api.md": python_api,
    "docs/reference/cli.md": _of("flowbridge.cli.reference"),
    "docs/reference/rules.md": _of("flowbridge.adapters.rule"),
    "docs/reference/metrics.md": _of("flowbridge.telemetry.names_page"),
    "docs/reference/flow.schema.json": _of("flowbridge.adapters.jsonschema"),
}


def main(arguments: Sequence[str]) -> int:
    """Write what differs, or with ``--check`` name it and return 1."""
    code = 0
    for name, page in PAGES.items():
        path, text = ROOT / name, page()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if "--check" in arguments:
            sys.stdout.write(f"{name}: differs from the code; run `python docs/generate.py`\n")
            code = 1
        else:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"{name}: written\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
