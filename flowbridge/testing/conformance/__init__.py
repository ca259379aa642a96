"""The contracts in executable form: clauses that any implementation can be held to, with any test runner.

    for clause in clauses("port"):
        clause.check(maker)

What a maker is depends on the suite:

port      ``(qos, clock) -> async context manager of a DataPort``
blocking  as of port, for ports whose ends are a `BlockingSource` and a `BlockingSink`
bus       ``(clock) -> async context manager of an EventBus``
codec     ``() -> Codec``
clock     ``() -> async context manager of a ClockBench``
runner    ``(operator, messages) -> awaitable of what was emitted``: whatever takes an operator through its life
operator  ``() -> OperatorCase``

Does not promise: anything about the time that something takes.
"""

from flowbridge.testing.conformance.clause import GUARD_S, SUITES, Clause, clause, clauses, guarantees_markdown
from flowbridge.testing.conformance.expect import ClauseFailed

__all__ = ["GUARD_S", "SUITES", "Clause", "ClauseFailed", "clause", "clauses", "guarantees_markdown"]
