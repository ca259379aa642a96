"""What the compiler must know of an operator without importing it: ports, configuration, declared shape."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from flowbridge.plan import Category, ContentType, Port

REQUIRED: Final = object()
"""The default of a configuration field that has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigField:
    """One key of a node's `with:`.

    `type` is one of ``string int float bool duration bytes path expression list map any``; ``duration`` reaches the
    operator as integer nanoseconds, ``bytes`` as an integer, ``path`` as a string made absolute from the flow's folder.
    """

    name: str
    type: str
    doc: str
    default: Any = REQUIRED
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSpec:
    """An operator that a flow may name by one word.

    `factory` is ``module:attr``, imported when a node starts; it is called with the `with:` values as keywords.
    `judges` says that constructing it touches nothing but memory, so that `check` may let it judge a configuration.
    `any_inputs` accepts input names beyond `inputs`; `any_outputs` likewise.
    """

    name: str
    summary: str
    factory: str
    inputs: tuple[Port, ...] = (Port(name="in", content_type=ContentType.ARROW),)
    outputs: tuple[Port, ...] = (Port(name="out", content_type=ContentType.ARROW),)
    config: tuple[ConfigField, ...] = ()
    category: Category = Category.BUSINESS
    any_inputs: bool = False
    any_outputs: bool = False
    judges: bool = False
    extra: str = field(default="")  # the optional part it needs

    @property
    def is_source(self) -> bool:
        """True when it starts messages by itself."""
        return not self.inputs and not self.any_inputs
