"""What a clause is, and the list of all of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    _Run = TypeVar("_Run", bound=Callable[[Any], Awaitable[None]])

SUITES: Final = ("port", "blocking", "bus", "codec", "clock", "runner", "operator")
GUARD_S: Final = 60.0
"""Only ends hangs; nothing is measured by it."""

_MODULES: Final = {
    "port": ("port", "port_credit", "port_many", "port_waiting", "port_books"),
    "blocking": ("port_blocking",),
    "bus": ("bus", "bus_queue", "bus_request", "bus_retry", "bus_drain"),
    "codec": ("codec",),
    "clock": ("clock",),
    "runner": ("operator",),
    "operator": ("operator",),
}
_clauses: dict[str, list[Clause]] = {suite: [] for suite in SUITES}


@dataclass(frozen=True, slots=True)
class Clause:
    """One guarantee and what checks it. `run` gets the maker that its suite describes, and raises when it is broken."""

    suite: str
    name: str
    guarantee: str
    run: Callable[[Any], Awaitable[None]]

    def check(self, maker: Any, run_loop: Callable[..., Any] = asyncio.run) -> None:
        """Run it on a loop of its own; a hang ends after `GUARD_S` as TimeoutError."""

        async def guarded() -> None:
            async with asyncio.timeout(GUARD_S):
                await self.run(maker)

        run_loop(guarded())

    def __str__(self) -> str:
        return f"{self.suite}: {self.name}"


def clause(suite: str) -> Callable[[_Run], _Run]:
    """Register a function: its name is the clause's, its docstring the guarantee."""

    def register(run: _Run) -> _Run:
        name = str(getattr(run, "__name__", "")).replace("_", " ")
        guarantee = " ".join((run.__doc__ or "").split())
        assert guarantee, f"{name}: the docstring is the guarantee"
        _clauses[suite].append(Clause(suite, name, guarantee, run))
        return run

    return register


def clauses(suite: str) -> Sequence[Clause]:
    """Every clause of a suite, in the order they are written. Raises: KeyError for any other word."""
    names = [import_module(f"flowbridge.testing.conformance.{module}").__name__ for module in _MODULES[suite]]
    # One of the modules may have been imported before the others.
    return tuple(sorted(_clauses[suite], key=lambda entry: names.index(entry.run.__module__)))


def guarantees_markdown() -> str:
    """All guarantees as a Markdown table."""
    rows = ["| contract | clause | guarantee |", "|---|---|---|"]
    for suite in SUITES:
        rows += [f"| {entry.suite} | {entry.name} | {entry.guarantee} |" for entry in clauses(suite)]
    return "\n".join(rows) + "\n"
