"""The clauses of whatever runs an operator, on the bench that comes with the suite."""

from __future__ import annotations

import pytest

from flowbridge.testing.conformance import Clause, clauses
from flowbridge.testing.operator_bench import run_through


@pytest.mark.parametrize("clause", clauses("runner"), ids=lambda clause: str(clause.name).replace(" ", "_"))
def test_the_bench_runs_an_operator_as_promised(clause: Clause) -> None:
    clause.check(run_through)
