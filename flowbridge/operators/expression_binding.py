"""An expression bound to a schema: a tree of closures that call pyarrow.compute kernels, with every constant ready.

Types are found by running each kernel once on columns of no rows, so that what does not fit is reported with its place
in the text, before any data is touched.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownLambdaType=false
# (pyarrow's stubs leave the parameters of its types open)

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from flowbridge.operators.expression_function import FUNCTIONS
from flowbridge.operators.fault import ExpressionError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbridge.operators.expression import Expression

_NOT_OURS: Final = (pa.ArrowException, TypeError, ValueError, OverflowError)

_ARITHMETIC: Final[dict[type[ast.AST], str]] = {
    ast.Add: "add_checked",
    ast.Sub: "subtract_checked",
    ast.Mult: "multiply_checked",
}
_COMPARISON: Final[dict[type[ast.AST], str]] = {
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
}


class Term(NamedTuple):
    """A bound part: `run` takes a batch; `sample` is its result without rows, a scalar when it is constant."""

    run: Callable[[Any], Any]
    sample: Any
    node: ast.AST

    @property
    def type(self) -> Any:
        """Its Arrow type."""
        return self.sample.type

    @property
    def is_constant(self) -> bool:
        """True when it does not depend on the batch."""
        return isinstance(self.sample, pa.Scalar)


class BoundExpression:
    """Evaluates one expression on batches of one schema; `type` is that of the result."""

    def __init__(self, expression: Expression, schema: pa.Schema) -> None:
        self._text: Final = expression.text
        term = Binder(expression, schema).bind(expression.tree)
        self.type: Final[pa.DataType] = term.type
        self._run: Final = _broadcast(term) if term.is_constant else term.run

    def __call__(self, batch: pa.RecordBatch) -> Any:
        """An array with one value per row. ExpressionError when the data does not allow it."""
        try:
            return self._run(batch)
        except _NOT_OURS as error:
            raise ExpressionError(self._text, str(error)) from error


def _broadcast(term: Term) -> Callable[[Any], Any]:
    scalar = term.sample

    def repeat(batch: Any) -> Any:
        return pa.repeat(scalar, batch.num_rows)

    return repeat


class Binder:
    """Turns the syntax tree of one expression into terms."""

    def __init__(self, expression: Expression, schema: pa.Schema) -> None:
        self._expression = expression
        self._schema = schema

    # --- what functions build with -------------------------------------------------------------------------------

    def fault(self, node: ast.AST, message: str) -> ExpressionError:
        """An error that points at a part of the expression."""
        return self._expression.fault(node, message)

    def constant(self, value: Any, node: ast.AST, type_: Any = None) -> Term:
        """A term that always has this value."""
        try:
            scalar: Any = pa.scalar(value, type=type_)
        except _NOT_OURS as error:
            raise self.fault(node, str(error)) from error
        return Term(lambda _: scalar, scalar, node)

    def apply(self, node: ast.AST, name: str, *terms: Term, options: Any = None) -> Term:
        """The call of one kernel."""
        function: Any = pc.get_function(name)
        call = function.call
        try:
            sample = call([term.sample for term in terms], options)
        except _NOT_OURS as error:
            raise self.fault(node, _plainly(name, terms, error)) from error
        if isinstance(sample, pa.Scalar):
            return Term(lambda _: sample, sample, node)
        runs = [term.run for term in terms]
        if len(runs) == 1:
            (only,) = runs
            return Term(lambda batch: call([only(batch)], options), sample, node)
        if len(runs) == 2:
            left, right = runs
            return Term(lambda batch: call([left(batch), right(batch)], options), sample, node)
        return Term(lambda batch: call([run(batch) for run in runs], options), sample, node)

    def cast(self, node: ast.AST, term: Term, type_: Any) -> Term:
        """The term as another type; the same term when it is that already."""
        if term.type.equals(type_):
            return term
        return self.apply(node, "cast", term, options=pc.CastOptions(type_))

    def literal(self, term: Term, kind: type, what: str) -> Any:
        """The Python value of a term that must be a literal."""
        value = term.sample.as_py() if term.is_constant else None
        if type(value) is not kind:
            raise self.fault(term.node, f"{what} must be a literal {kind.__name__}")
        return value

    # --- the tree -------------------------------------------------------------------------------------------------

    def bind(self, node: ast.AST) -> Term:
        """The term of any node that `Expression` let through."""
        visit: Callable[[Any], Term] = getattr(self, f"_bind_{type(node).__name__.lower()}")
        return visit(node)

    def _bind_constant(self, node: ast.Constant) -> Term:
        return self.constant(node.value, node)

    def _bind_name(self, node: ast.Name) -> Term:
        return self._column(node, node.id)

    def _column(self, node: ast.AST, name: str) -> Term:
        index = self._schema.get_field_index(name)
        if index < 0:
            names = list(self._schema.names)
            if name in names:
                raise self.fault(node, f"the batch has more than one column {name}")
            raise self.fault(node, f"the batch has no column {name}{did_you_mean(name, names)}")
        type_: Any = self._schema.field(index).type
        if isinstance(type_, pa.DictionaryType):
            sample: Any = pa.array([], type_.value_type)
            return Term(lambda batch: batch.column(index).dictionary_decode(), sample, node)
        return Term(lambda batch: batch.column(index), pa.array([], type_), node)

    def _bind_call(self, node: ast.Call) -> Term:
        assert isinstance(node.func, ast.Name), "checked when the expression was read"
        if node.func.id == "col":
            name = node.args[0]
            assert isinstance(name, ast.Constant), "checked when the expression was read"
            return self._column(node, str(name.value))
        function = FUNCTIONS[node.func.id]
        return function.build(self, node, [self.bind(argument) for argument in node.args])

    def _bind_binop(self, node: ast.BinOp) -> Term:
        left, right = self.bind(node.left), self.bind(node.right)
        name = _ARITHMETIC.get(type(node.op))
        if name == "add_checked" and _is_text(left.type) and _is_text(right.type):
            return self.apply(node, "binary_join_element_wise", left, right, self.constant("", node, left.type))
        if name is not None:
            return self.apply(node, name, left, right)
        divisor = self._nonzero(node, right)
        if isinstance(node.op, ast.Div):
            return self._quotient(node, left, divisor)
        if pa.types.is_integer(left.type) and pa.types.is_integer(right.type):
            return self._whole(node, left, divisor, remainder=isinstance(node.op, ast.Mod))
        floor = self.apply(node, "floor", self._quotient(node, left, divisor))
        if isinstance(node.op, ast.FloorDiv):
            return floor
        return self.apply(node, "subtract_checked", left, self.apply(node, "multiply_checked", floor, divisor))

    def _nonzero(self, node: ast.AST, term: Term) -> Term:
        """The divisor with null in place of zero; a constant other than zero stays as it is."""
        if term.is_constant and term.sample.as_py() not in (0, None):
            return term
        zero = self.constant(0, node)
        is_zero = self.apply(node, "equal", term, zero)
        return self.apply(node, "if_else", is_zero, self.constant(None, node, term.type), term)

    def _quotient(self, node: ast.AST, left: Term, right: Term) -> Term:
        if pa.types.is_integer(left.type):
            left = self._as_float(node, left)
        if pa.types.is_integer(right.type):
            right = self._as_float(node, right)
        return self.apply(node, "divide", left, right)

    def _as_float(self, node: ast.AST, term: Term) -> Term:
        return self.apply(node, "cast", term, options=pc.CastOptions(pa.float64(), allow_float_truncate=True))

    def _whole(self, node: ast.AST, left: Term, right: Term, *, remainder: bool) -> Term:
        """Python's // and % from a kernel that rounds towards zero."""
        quotient = self.apply(node, "divide_checked", left, right)
        rest = self.apply(node, "subtract_checked", left, self.apply(node, "multiply_checked", quotient, right))
        zero = self.constant(0, node)
        signs = self.apply(node, "xor", self.apply(node, "less", rest, zero), self.apply(node, "less", right, zero))
        off = self.apply(node, "and", signs, self.apply(node, "not_equal", rest, zero))
        if remainder:
            return self.apply(node, "if_else", off, self.apply(node, "add_checked", rest, right), rest)
        lower = self.apply(node, "subtract_checked", quotient, self.constant(1, node))
        return self.apply(node, "if_else", off, lower, quotient)

    def _bind_unaryop(self, node: ast.UnaryOp) -> Term:
        operand = self.bind(node.operand)
        if isinstance(node.op, ast.Not):
            return self.apply(node, "invert", self._truth(operand, "not"))
        return self.apply(node, "negate_checked", operand) if isinstance(node.op, ast.USub) else operand

    def _bind_boolop(self, node: ast.BoolOp) -> Term:
        word, name = ("and", "and_kleene") if isinstance(node.op, ast.And) else ("or", "or_kleene")
        result, *rest = (self._truth(self.bind(value), word) for value in node.values)
        for term in rest:
            result = self.apply(node, name, result, term)
        return result

    def _bind_ifexp(self, node: ast.IfExp) -> Term:
        test = self._truth(self.bind(node.test), "if")
        return self.apply(node, "if_else", test, self.bind(node.body), self.bind(node.orelse))

    def _truth(self, term: Term, word: str) -> Term:
        if pa.types.is_boolean(term.type) or pa.types.is_null(term.type):
            return self.cast(term.node, term, pa.bool_())
        raise self.fault(term.node, f"`{word}` needs true or false, not {term.type}")

    def _bind_compare(self, node: ast.Compare) -> Term:
        left = self.bind(node.left)
        result: Term | None = None
        for operator, comparator in zip(node.ops, node.comparators, strict=True):
            if isinstance(operator, (ast.In, ast.NotIn)):
                return self._member(node, left, comparator, negated=isinstance(operator, ast.NotIn))
            if isinstance(operator, (ast.Is, ast.IsNot)):
                return self.apply(node, "is_null" if isinstance(operator, ast.Is) else "is_valid", left)
            right = self.bind(comparator)
            one, other = self._alike(left, right), self._alike(right, left)
            step = self.apply(node, _COMPARISON[type(operator)], one, other)
            result = step if result is None else self.apply(node, "and_kleene", result, step)
            left = right
        assert result is not None, "a comparison has an operator"
        return result

    def _alike(self, term: Term, other: Term) -> Term:
        """A text literal beside a time becomes one."""
        if term.is_constant and _is_text(term.type) and pa.types.is_temporal(other.type):
            try:
                return self.cast(term.node, term, other.type)
            except ExpressionError:
                raise self.fault(term.node, f"{term.sample.as_py()!r} is no {other.type}") from None
        return term

    def _member(self, node: ast.Compare, term: Term, members: ast.expr, *, negated: bool) -> Term:
        assert isinstance(members, (ast.Tuple, ast.List, ast.Set)), "checked when the expression was read"
        values = [ast.literal_eval(member) for member in members.elts]
        try:
            value_set: Any = pa.array(values)
            if not value_set.type.equals(term.type):
                value_set = value_set.cast(term.type)
        except _NOT_OURS:
            raise self.fault(members, f"the list does not fit a column of type {term.type}") from None
        found = self.apply(node, "is_in", term, options=pc.SetLookupOptions(value_set, skip_nulls=False))
        return self.apply(node, "invert", found) if negated else found


def _is_text(type_: Any) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _plainly(name: str, terms: tuple[Term, ...], error: BaseException) -> str:
    """Arrow's message, or a shorter one when it is only that the types do not go together."""
    if isinstance(error, pa.ArrowNotImplementedError):
        word = "compare" if name in _COMPARISON.values() else name.removesuffix("_checked").replace("_", " ")
        return f"cannot {word} {' and '.join(str(term.type) for term in terms)}"
    return str(error)
