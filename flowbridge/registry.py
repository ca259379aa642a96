"""Names to implementations, by entry point: a fourth tier or a new front end is a package, not a patch.

Groups: ``flowbridge.transports`` (tier to a class that takes a `Clock`, and the options of its tier as keywords),
``flowbridge.adapters`` (dialect to a class that takes an `OperatorCatalog`), ``flowbridge.operators`` (name to an
`OperatorSpec`).
"""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import signature
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

from flowbridge.errors import FlowbridgeError
from flowbridge.operator_spec import OperatorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbridge.contracts import Clock, FlowAdapter, OperatorCatalog, Transport

_BUILTIN_CATALOG: Final = "flowbridge.operators.catalog"


def _found(group: str) -> Mapping[str, EntryPoint]:
    return _installed(group, tuple(sys.path))


@lru_cache(maxsize=16)
def _installed(group: str, path: tuple[str, ...]) -> Mapping[str, EntryPoint]:
    """What is installed on this `sys.path`: looking for it reads a file for each package, 20 ms where it is full."""
    del path
    return MappingProxyType({entry.name: entry for entry in sorted(entry_points(group=group), key=lambda e: e.name)})


def _load(group: str, kind: str, name: str) -> Any:
    found = _found(group)
    if name not in found:
        raise FlowbridgeError(f"{kind} {name}: not installed; installed: {', '.join(found) or 'none'}")
    return _imported(found[name], kind)


def _imported(entry: EntryPoint, kind: str) -> Any:
    """What an entry point names. FlowbridgeError when its package is broken, whatever it raises."""
    try:
        return entry.load()
    except FlowbridgeError:
        raise
    except Exception as error:
        raise FlowbridgeError(
            f"{kind} {entry.name}: {entry.value} cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def transports() -> Sequence[str]:
    """The tiers that are installed."""
    return tuple(_found("flowbridge.transports"))


def adapters() -> Sequence[str]:
    """The dialects that are installed."""
    return tuple(_found("flowbridge.adapters"))


def transport(tier: str, clock: Clock, **options: Any) -> Transport:
    """A new transport of a tier. FlowbridgeError naming what is installed, or an option that the tier does not have."""
    factory = _load("flowbridge.transports", "tier", tier)
    try:
        signature(factory).bind(clock, **options)
    except TypeError as error:
        raise FlowbridgeError(f"tier {tier}: takes no such options ({', '.join(options)}): {error}") from error
    return cast("Transport", factory(clock, **options))


def adapter(dialect: str = "yaml") -> FlowAdapter:
    """The front end of a dialect; FlowbridgeError naming what is installed otherwise."""
    return cast("FlowAdapter", _load("flowbridge.adapters", "dialect", dialect)(catalog()))


class Catalog:
    """The built-in operators and those of installed packages; a package cannot replace a built-in one."""

    def __init__(self, builtins: Mapping[str, OperatorSpec], installed: Mapping[str, EntryPoint]) -> None:
        self._specs = dict(builtins)
        self._installed = {name: entry for name, entry in installed.items() if name not in builtins}

    def get(self, name: str) -> OperatorSpec | None:
        """The operator of that name, or None."""
        spec = self._specs.get(name)
        if spec is None and name in self._installed:
            loaded = _imported(self._installed[name], "operator")
            if not isinstance(loaded, OperatorSpec):
                raise FlowbridgeError(f"operator {name}: {self._installed[name].value} is not an OperatorSpec")
            spec = self._specs[name] = loaded
        return spec

    def names(self) -> Sequence[str]:
        """Every name, sorted."""
        return sorted({*self._specs, *self._installed})

    def refusal(self, spec: OperatorSpec, config: Mapping[str, Any]) -> str | None:
        """Why the operator does not accept a configuration, in one line; None when it does or is not to be asked."""
        if not spec.judges:
            return None
        module, _, attr = spec.factory.partition(":")
        try:
            getattr(import_module(module), attr)(**config)
        except FlowbridgeError as error:
            return str(error).partition("\n")[0]
        return None


def catalog() -> OperatorCatalog:
    """Every operator that a flow may name by one word."""
    builtins = cast("Mapping[str, OperatorSpec]", import_module(_BUILTIN_CATALOG).BUILTINS)
    return Catalog(builtins, _found("flowbridge.operators"))
