"""A small expression language over the columns of a batch, compiled to pyarrow.compute.

The syntax is a part of Python's: names are columns (``col("any name")`` for those that are no identifiers), literals,
``+ - * / // %``, comparisons (chains too), ``and or not``, ``in``, ``is None``, ``a if c else b`` and the functions of
`expression_function`. It is parsed by `ast` and never run as Python.

Null in, null out, with these exceptions: ``and``/``or`` follow Kleene (``null or true`` is true), ``x in (...)`` is
false for a null x unless the list holds None, ``min``/``max`` skip nulls. Dividing by zero gives null. Integer overflow
is an error.
"""

from __future__ import annotations

import ast
import warnings
from typing import TYPE_CHECKING, Any, Final

from flowbridge.operators.expression_function import FUNCTIONS
from flowbridge.operators.fault import ExpressionError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

    from flowbridge.operators.expression_binding import BoundExpression

CHARACTERS_MAX: Final = 4_096
DEPTH_MAX: Final = 64

_WHITELIST: Final = (
    ast.Name,
    ast.Constant,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.IfExp,
    ast.Call,
)
_OPERATORS: Final = (
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod),
    *(ast.USub, ast.UAdd, ast.Not, ast.And, ast.Or),
    *(ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.Is, ast.IsNot),
)
_NAMES: Final[dict[type[ast.AST], str]] = {
    ast.Attribute: "an attribute (a.b)",
    ast.Subscript: "indexing (a[b])",
    ast.Lambda: "lambda",
    ast.JoinedStr: "an f-string",
    ast.NamedExpr: "an assignment",
    ast.Starred: "a starred argument",
    ast.Await: "await",
    ast.Pow: "** (write power(a, b))",
    ast.BitAnd: "& (write and)",
    ast.BitOr: "| (write or)",
    ast.BitXor: "^",
    ast.Invert: "~ (write not)",
    ast.List: "a list outside `in`",
    ast.Tuple: "a tuple outside `in`",
    ast.Set: "a set outside `in`",
    ast.Dict: "a dictionary",
}


class Expression:
    """One expression, checked as far as that goes without a batch.

    Raises: ExpressionError when it is not of the language; the message points at the place.
    """

    def __init__(self, text: Any) -> None:
        if not isinstance(text, str) or not text.strip():
            raise ExpressionError(str(text), "is empty" if isinstance(text, str) else "is no text; write it in quotes")
        self.text: Final = " ".join(text.strip().splitlines())
        if len(self.text) > CHARACTERS_MAX:
            shown = self.text[:40] + "..."
            raise ExpressionError(shown, f"has {len(self.text)} characters; at most {CHARACTERS_MAX} are allowed")
        self.tree: Final = self._parse()
        names: dict[str, None] = {}
        self._check(self.tree, 1, names)
        self.columns: Final = tuple(names)

    def bind(self, schema: pa.Schema) -> BoundExpression:
        """Fix column positions and types for batches of one schema.

        Raises: ExpressionError for a column that is not there and for types that do not go together.
        """
        from flowbridge.operators.expression_binding import BoundExpression

        return BoundExpression(self, schema)

    def fault(self, node: ast.AST, message: str) -> ExpressionError:
        """An error that points at a part of this expression."""
        offset = getattr(node, "col_offset", None)
        if offset is None:
            return ExpressionError(self.text, message)
        before = self.text.encode()[:offset].decode(errors="replace")  # `ast` counts bytes
        return ExpressionError(self.text, message, len(before) + 1)

    def _parse(self) -> ast.expr:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "\d" in a pattern is meant as it stands
                return ast.parse(self.text, mode="eval").body
        except SyntaxError as error:
            column = min(error.offset or len(self.text), len(self.text))  # none, or 0, means that the text just ends
            raise ExpressionError(self.text, f"cannot be read: {error.msg}", column) from None
        except (ValueError, MemoryError, RecursionError) as error:
            raise ExpressionError(self.text, f"cannot be read: {str(error) or 'nested too deeply'}") from None

    def _check(self, node: ast.expr, depth: int, names: dict[str, None]) -> None:
        if depth > DEPTH_MAX:
            raise self.fault(node, f"is nested more than {DEPTH_MAX} deep")
        if isinstance(node, ast.Constant):
            self._check_constant(node)
            return
        if isinstance(node, ast.Name):
            names.setdefault(node.id)
            return
        if not isinstance(node, _WHITELIST):
            raise self.fault(node, f"{_NAMES.get(type(node), type(node).__name__)} is not part of the language")
        if isinstance(node, ast.Call):
            self._check_call(node, depth, names)
            return
        if isinstance(node, ast.Compare):
            self._check_compare(node, depth, names)
            return
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._check(child, depth + 1, names)
            elif not isinstance(child, _OPERATORS):
                raise self.fault(node, f"{_NAMES.get(type(child), type(child).__name__)} is not part of the language")

    def _check_constant(self, node: ast.Constant) -> None:
        value: Any = node.value
        if value is not None and not isinstance(value, (bool, int, float, str)):
            raise self.fault(node, f"a literal of type {type(value).__name__} is not part of the language")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise self.fault(node, "the number does not fit 64 bits")

    def _check_call(self, node: ast.Call, depth: int, names: dict[str, None]) -> None:
        if not isinstance(node.func, ast.Name):
            raise self.fault(node.func, "only functions of the language can be called")
        word = node.func.id
        if node.keywords:
            raise self.fault(node.keywords[0].value, f"{word} takes no named arguments")
        if word == "col":
            if len(node.args) != 1 or not isinstance(node.args[0], ast.Constant) or type(node.args[0].value) is not str:
                raise self.fault(node, 'write col("name of the column")')
            names.setdefault(node.args[0].value)
            return
        function = FUNCTIONS.get(word)
        if function is None:
            raise self.fault(node, f"there is no function {word}{did_you_mean(word, [*FUNCTIONS, 'col'])}")
        count = len(node.args)
        if count < function.least or (function.most is not None and count > function.most):
            raise self.fault(node, f"{word} got {count} arguments; it is {function.signature}")
        for argument in node.args:
            self._check(argument, depth + 1, names)

    def _check_compare(self, node: ast.Compare, depth: int, names: dict[str, None]) -> None:
        self._check(node.left, depth + 1, names)
        for operator, right in zip(node.ops, node.comparators, strict=True):
            nothing = isinstance(right, ast.Constant) and right.value is None
            if isinstance(operator, (ast.In, ast.NotIn)):
                self._check_members(right)
            elif isinstance(operator, (ast.Is, ast.IsNot)) and not nothing:
                raise self.fault(right, "`is` goes with None only; write ==")
            elif isinstance(operator, (ast.Eq, ast.NotEq)) and nothing:
                raise self.fault(right, "nothing equals None; write `is None` or `is not None`")
            else:
                self._check(right, depth + 1, names)
        special = any(isinstance(operator, (ast.In, ast.NotIn, ast.Is, ast.IsNot)) for operator in node.ops)
        if special and len(node.ops) > 1:
            raise self.fault(node, "`in` and `is` cannot stand in a chain of comparisons; use `and`")

    def _check_members(self, node: ast.expr) -> None:
        if not isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            raise self.fault(node, 'after `in` comes a list of literals, as in ("AA", "UA")')
        for member in node.elts:
            inner = member.operand if isinstance(member, ast.UnaryOp) and isinstance(member.op, ast.USub) else member
            if not isinstance(inner, ast.Constant):
                raise self.fault(member, "only literals may stand in the list after `in`")
            self._check_constant(inner)
