"""The built-in operators that transform, held to the clauses every operator keeps."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from flowbridge.operators.transform import Filter, Map, Select
from flowbridge.operators.window import Window
from flowbridge.testing.conformance import Clause, clauses
from flowbridge.testing.conformance.operator import OperatorCase

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND_NS = 10**9
BATCHES = [
    pa.record_batch({"at": [second * SECOND_NS for second in range(start, start + 4)], "x": [start, 1, 2, 3]})
    for start in (0, 4, 8, 12)
]
OPERATORS: dict[str, Callable[[], Any]] = {
    "map": lambda: Map(columns={"y": "x * 2"}),
    "filter": lambda: Filter(where="x > 1"),
    "select": lambda: Select(columns=["x"]),
    "window": lambda: Window(time="at", every=3 * SECOND_NS, by=[], aggregate={"n": "count()", "most": "max(x)"}),
}


@pytest.mark.parametrize("clause", clauses("operator"), ids=lambda clause: str(clause.name).replace(" ", "_"))
@pytest.mark.parametrize("name", OPERATORS)
def test_a_built_in_operator_keeps_the_clause(name: str, clause: Clause) -> None:
    clause.check(lambda: OperatorCase(OPERATORS[name], [("in", batch) for batch in BATCHES]))
