"""From whatever a user wrote (a function, a generator, a class) to the few calls a runner makes."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from flowbridge.errors import OperatorError, OperatorLoadError
from flowbridge.limits import OUTBOX_ITEMS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeAlias

    from flowbridge.runtime.context import Context, Outbox

    Handler: TypeAlias = Callable[[Any], Any]

_GIVEN: Final = ("port", "out", "context", "ctx")
"""Parameters by these names are filled by the runner; the first other one is the value, one without a default first."""


@dataclass(slots=True)
class Bound:
    """An operator ready to run. Every hook may be None; one of `process` and `produce` is not."""

    node: str
    process: Callable[..., Any] | None = None
    produce: Callable[[], Any] | None = None
    is_async: bool = False
    gives: Mapping[str, Any] = field(default_factory=dict[str, Any])  # arguments that are the same for every call
    wants_port: bool = False
    many: bool = False  # the result is a list of results
    open: Callable[[Any], Any] | None = None
    finish: Callable[[Any], Any] | None = None
    snapshot: Callable[[], Any] | None = None
    restore: Callable[[Any], Any] | None = None
    on_gap: Callable[[str, Any], Any] | None = None
    close: Callable[[], Any] | None = None

    def handler(self, port: str) -> Handler:
        """A call of one argument, the value, for one input port: nothing else is looked up per message."""
        process = self.process
        assert process is not None, f"node {self.node}: a source handles nothing"
        gives = dict(self.gives)
        if self.wants_port:
            gives["port"] = port
        return functools.partial(process, **gives) if gives else process


def bind(node: str, made: Any, config: Mapping[str, Any], context: Context, out: Outbox, *, source: bool) -> Bound:
    """Bind what an operator reference led to; a class is constructed with `config` as keywords.

    Raises: OperatorLoadError when it is no operator, or refuses its configuration.
    """
    bound = _bind(node, made, config, context, out, source=source)
    if bound.many and bound.process is not None:
        bound.process = _collected(node, bound.process)
    return bound


def _collected(node: str, process: Callable[..., Any]) -> Callable[..., Any]:
    """A generator run to its end within the call: so it is timed, retried and moved to a thread like any other."""

    def call(*args: Any, **given: Any) -> list[Any]:
        results: list[Any] = []
        for result in process(*args, **given):
            if len(results) >= OUTBOX_ITEMS_MAX:
                raise OperatorError(node, f"yielded more than {OUTBOX_ITEMS_MAX} values in one call")
            results.append(result)
        return results

    return call


def _bind(node: str, made: Any, config: Mapping[str, Any], context: Context, out: Outbox, *, source: bool) -> Bound:
    if inspect.isclass(made.func if _is_partial(made) else made):
        made = _construct(node, made, config)
        return _bind_object(node, made, context, out, source=source)
    if inspect.isroutine(made) or _is_partial(made):
        return _bind_function(node, made, config, context, out, source=source)
    if hasattr(made, "process") or hasattr(made, "produce"):
        if config:
            raise OperatorLoadError(node, f"is an object and takes no configuration, but was given {', '.join(config)}")
        return _bind_object(node, made, context, out, source=source)
    if callable(made):
        return _bind_function(node, made, config, context, out, source=source)
    raise OperatorLoadError(node, f"{type(made).__name__} is neither a function nor an operator class")


def _is_partial(made: Any) -> bool:
    return isinstance(made, functools.partial)


def _construct(node: str, cls: Callable[..., Any], config: Mapping[str, Any]) -> Any:
    _check_config(node, cls, config)
    try:
        return cls(**config)
    except OperatorLoadError:
        raise
    except Exception as error:
        raise OperatorLoadError(node, f"refused its configuration: {error}") from error


def _check_config(node: str, target: Callable[..., Any], config: Mapping[str, Any]) -> None:
    parameters = _parameters(target)
    if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.kind is not inspect.Parameter.VAR_POSITIONAL]
    for key in config:
        if key not in known:
            usable = ", ".join(name for name in known if inspect.isclass(target) or name not in _GIVEN) or "nothing"
            raise OperatorLoadError(node, f"has no setting {key!r}; it takes {usable}")


def _bind_object(node: str, made: Any, context: Context, out: Outbox, *, source: bool) -> Bound:
    process = getattr(made, "process", None)
    produce = getattr(made, "produce", None)
    if source and produce is None:
        raise OperatorLoadError(node, "has no inputs, but its class has no `produce`")
    if not source and process is None:
        raise OperatorLoadError(node, "has inputs, but its class has no `process`")
    bound = Bound(node, produce=produce)
    if not source and process is not None:
        bound = _bind_process(node, process, context, out)
    for name in ("open", "finish", "snapshot", "restore", "on_gap", "close"):
        hook = getattr(made, name, None)
        if hook is not None:
            setattr(bound, name, _forgiving(hook) if name in {"open", "finish"} else hook)
    return bound


def _forgiving(hook: Callable[..., Any]) -> Callable[[Any], Any]:
    """A hook that may leave out the argument it does not need."""
    parameters = _parameters(hook)
    if parameters is None or parameters:
        return hook

    @functools.wraps(hook)
    def call(_: Any) -> Any:
        return hook()

    return call


def _bind_function(
    node: str, function: Callable[..., Any], config: Mapping[str, Any], context: Context, out: Outbox, *, source: bool
) -> Bound:
    _check_config(node, function, config)
    configured = functools.partial(function, **config) if config else function
    if not source:
        return _bind_process(node, configured, context, out, skip=tuple(config))
    parameters = [p for p in _parameters(function) or () if p.name not in config]
    given = {p.name: value for p in parameters if (value := _given(p, context, out)) is not None}
    _check_complete(node, [p for p in parameters if p.name not in given])
    return Bound(node, produce=functools.partial(configured, **given) if given else configured)


def _bind_process(
    node: str, process: Callable[..., Any], context: Context, out: Outbox, skip: tuple[str, ...] = ()
) -> Bound:
    plain = _written(process)
    if inspect.isasyncgenfunction(plain):
        raise OperatorLoadError(node, "is an async generator; use `await out.send(...)` or `out.emit(...)` instead")
    is_async, many = inspect.iscoroutinefunction(plain), inspect.isgeneratorfunction(plain)
    bound = Bound(node, process=process, is_async=is_async, many=many)
    parameters = _parameters(process)
    if parameters is None:  # a builtin without a signature takes the value alone
        return bound
    named = {p.name for p in parameters if p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}} - {*skip}
    free = [p for p in parameters if p.name not in skip and p.name not in _GIVEN and p.kind is not p.VAR_KEYWORD]
    if not free:
        raise OperatorLoadError(node, "takes no value: its first parameter is what it handles")
    value = next((p for p in free if _is_required(p)), free[0])
    _check_complete(node, [p for p in free if p is not value])
    # In `process(self, port, value, out)` port comes first, so the value goes by name.
    if value is not parameters[0] or value.kind is value.KEYWORD_ONLY:
        bound.process = _by_name(process, value.name)
    bound.wants_port = "port" in named
    bound.gives = {
        p.name: given for p in parameters if p.name in named and (given := _given(p, context, out)) is not None
    }
    return bound


def _by_name(process: Callable[..., Any], value_name: str) -> Callable[..., Any]:
    if value_name == "value":

        def call(value: Any, **given: Any) -> Any:
            return process(value=value, **given)

    else:

        def call(value: Any, **given: Any) -> Any:
            return process(**{value_name: value}, **given)

    return call


def _written(function: Any) -> Callable[..., Any]:
    """What tells whether a call is asynchronous: the function inside a partial, or the `__call__` of an object."""
    while _is_partial(function):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


def _parameters(function: Callable[..., Any]) -> Sequence[inspect.Parameter] | None:
    """The parameters, or None when Python cannot tell them."""
    try:
        return tuple(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None


def _is_required(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
    return parameter.default is parameter.empty and not variadic


def _check_complete(node: str, parameters: Sequence[inspect.Parameter]) -> None:
    missing = [p.name for p in parameters if _is_required(p)]
    if missing:
        raise OperatorLoadError(node, f"needs a setting for {', '.join(missing)}")


def _given(parameter: inspect.Parameter, context: Context, out: Outbox) -> Any:
    """What the runner fills a parameter with, the same for every call; None when it does not."""
    if parameter.name == "out":
        return out
    return context if parameter.name in {"context", "ctx"} else None
