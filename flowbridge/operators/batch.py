"""What every operator on Arrow batches does first: know its node, and look at the schema only when it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from flowbridge.errors import SchemaMismatchError
from flowbridge.operators.fault import not_a_batch

if TYPE_CHECKING:
    from flowbridge.contracts import OperatorContext


def is_batch(value: Any) -> bool:
    """Whether a value is an Arrow record batch, without loading pyarrow to find out."""
    return hasattr(value, "num_rows") and hasattr(value, "schema") and hasattr(value, "slice")


class BatchOperator:
    """The part that map, filter, select, window and the sinks of files share."""

    def __init__(self) -> None:
        self._node = "(not opened)"
        self._context: OperatorContext | None = None

    def open(self, context: OperatorContext) -> None:
        """Remember the node for messages."""
        self._node = context.node
        self._context = context

    def _seq(self) -> int | None:
        envelope = self._context.envelope if self._context is not None else None
        return None if envelope is None else envelope.seq

    def _refuse(self, port: str, value: Any) -> NoReturn:
        raise not_a_batch(self._node, port, value)

    def _mismatch(self, port: str, message: str) -> SchemaMismatchError:
        return SchemaMismatchError(self._node, message, port=port, seq=self._seq())


def schema_change(old: Any, new: Any) -> str:
    """In which column two schemas first differ."""
    for name in old.names:
        if name not in new.names:
            return f"column {name} is missing"
        if not new.field(name).type.equals(old.field(name).type):
            return f"column {name} is {new.field(name).type} and was {old.field(name).type}"
    extra = [name for name in new.names if name not in old.names]
    return f"column {extra[0]} is new" if extra else "the columns are in another order"
