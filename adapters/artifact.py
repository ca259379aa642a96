"""What a node's `operator:` and `with:` mean: the artifact, and its configuration held against the OperatorSpec."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from flowbridge.adapters import rule, unit
from flowbridge.errors import FlowbridgeError
from flowbridge.operator_spec import REQUIRED
from flowbridge.plan import Artifact, ArtifactKind, Origin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowbridge.adapters.collect import Findings, Mark
    from flowbridge.contracts import OperatorCatalog
    from flowbridge.operator_spec import ConfigField, OperatorSpec

_DOTTED: Final = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*"
_PYTHON: Final = re.compile(rf"python:({_DOTTED}|[^:]+\.py):{_DOTTED}")
_HOST: Final = re.compile(r"host:[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Resolved:
    """An operator reference; `spec` is None for an operator of the user's own, or for one that is not known."""

    artifact: Artifact
    origin: Origin
    spec: OperatorSpec | None
    known: bool = True


def resolve_operator(text: str, catalog: OperatorCatalog, mark: Mark, findings: Findings) -> Resolved:
    """What `operator:` names. Nothing of the user's is imported."""
    artifact = Artifact(kind=ArtifactKind.PYTHON_OPERATOR, ref=text)
    if ":" in text:
        known = bool(_PYTHON.fullmatch(text) or _HOST.fullmatch(text))
        if not known:
            kind = text.partition(":")[0]
            if kind in ("python", "host"):
                wanted = "python:module:attr or python:./file.py:attr" if kind == "python" else "host:name"
                findings.add(rule.BAD_OPERATOR, mark, f"operator {text[:60]!r} cannot be read", f"write {wanted}")
            else:
                hint = findings.did_you_mean(kind, ("python", "host"), "there are python: and host:")
                findings.add(rule.BAD_OPERATOR, mark, f"operator {text[:60]!r}: unknown kind {kind[:20]}", hint)
        return Resolved(artifact, Origin.EXTERNAL, None, known)
    try:
        spec = catalog.get(text)
    except FlowbridgeError as error:
        findings.add(rule.UNKNOWN_OPERATOR, mark, str(error))
        return Resolved(artifact, Origin.EXTERNAL, None, known=False)
    except Exception as error:
        findings.add(rule.UNKNOWN_OPERATOR, mark, f"operator {text[:60]} cannot be loaded: {error!r:.200}")
        return Resolved(artifact, Origin.EXTERNAL, None, known=False)
    if spec is None:
        hint = findings.did_you_mean(text, catalog.names(), "your own are python:module:attr")
        findings.add(rule.UNKNOWN_OPERATOR, mark, f"there is no operator {text[:60]!r}", hint)
        return Resolved(artifact, Origin.EXTERNAL, None, known=False)
    is_ours = spec.factory.startswith("flowbridge.")
    return Resolved(artifact, Origin.INTERNAL if is_ours else Origin.EXTERNAL, spec)


class Marks(NamedTuple):
    """Where a node's configuration stands: its keys, its values, and the node for what is missing."""

    keys: Mapping[str, Mark]
    values: Mapping[str, Mark]
    node: Mark


def resolve_config(
    given: Mapping[str, Any], spec: OperatorSpec, marks: Marks, findings: Findings, *, whole: bool
) -> dict[str, Any]:
    """The configuration with quantities as integers and defaults put in; `whole` is False when keys were cut."""
    fields = {field.name: field for field in spec.config}
    config: dict[str, Any] = {}
    for key, value in given.items():
        field = fields.get(key)
        if field is None:
            known = ", ".join(fields) or "none"
            hint = findings.did_you_mean(key, fields, f"settings of {spec.name} are {known}")
            findings.add(rule.UNKNOWN_CONFIG, marks.keys[key], f"{spec.name} has no setting `{key[:40]}`", hint)
            continue
        if value is None and field.default is not REQUIRED:
            continue  # an empty value stands for a key that is left out
        try:
            config[key] = _VALUES[field.type](value) if field.type in _VALUES else value
        except unit.UnitError as error:
            findings.add(rule.BAD_CONFIG, marks.values[key], f"{spec.name}: {key}: {error}", error.hint)
            continue
        if field.choices and config[key] not in field.choices:
            message = f"{spec.name}: {key}: {str(value)[:40]!r} is none of {', '.join(field.choices)}"
            hint = findings.did_you_mean(str(value), field.choices)
            findings.add(rule.BAD_CONFIG, marks.values[key], message, hint)
    _put_in_defaults(config, given, spec, marks, findings if whole else None)
    return {field.name: config[field.name] for field in spec.config if field.name in config}


def _put_in_defaults(
    config: dict[str, Any], given: Mapping[str, Any], spec: OperatorSpec, marks: Marks, findings: Findings | None
) -> None:
    for field in spec.config:
        if field.name in config:
            continue
        if field.default is not REQUIRED:
            default = _default(field)
            if default is not None:
                config[field.name] = default
        elif findings is not None and field.name not in given:
            message = f"{spec.name} needs the setting `{field.name}`"
            findings.add(rule.MISSING_CONFIG, marks.node, message, f"with: {{{field.name}: ...}}: {field.doc}")


def _default(field: ConfigField) -> Any:
    """A default in the form in which a plan document keeps it."""
    default = field.default
    if isinstance(default, str) and field.type in ("duration", "bytes"):
        return _VALUES[field.type](default)
    return list(default) if isinstance(default, tuple) else default


def _of(kind: type | tuple[type, ...], words: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            found = "a map" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)[:40]
            raise unit.UnitError(f"{words} is needed, not {found}")
        return value

    return check


def _text(value: Any) -> str:
    checked: str = _of(str, "a text")(value)
    return checked


def _expression(value: Any) -> str:
    """Numbers and booleans are expressions too; they travel as text like all others."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (int, float)) else _text(value)


_VALUES: Final[dict[str, Callable[[Any], Any]]] = {
    "string": _text,
    "path": _text,
    "expression": _expression,
    "int": _of(int, "a whole number"),
    "float": lambda value: float(_of((int, float), "a number")(value)),
    "bool": _of(bool, "true or false"),
    "duration": unit.parse_duration,
    "bytes": unit.parse_size,
    "list": _of(list, "a list"),
    "map": _of(dict, "a map"),
}
