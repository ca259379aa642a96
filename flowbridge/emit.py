"""What an operator yields or returns when a bare value does not say enough."""

from __future__ import annotations

from typing import Any


class Emit:
    """A value for a named port.

    `deadline_ns` is absolute (monotonic) and can only tighten what the message inherits; `priority` can only lower
    it. A source's messages inherit from the node, so there both are simply set within the node's own.
    """

    __slots__ = ("deadline_ns", "port", "priority", "value")

    def __init__(
        self, value: Any, port: str = "out", *, deadline_ns: int | None = None, priority: int | None = None
    ) -> None:
        self.value = value
        self.port = port
        self.deadline_ns = deadline_ns
        self.priority = priority

    def __repr__(self) -> str:
        return f"Emit({self.value!r}, port={self.port!r})"
