"""The functions of the expression language: their signatures, and how each becomes a kernel."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# (pyarrow's stubs leave the parameters of its types open)

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import ast
    from collections.abc import Callable

    from flowbridge.operators.expression_binding import Binder, Term


@dataclass(frozen=True, slots=True)
class Function:
    """One function: `signature` and `doc` are for people, `most` None means any number of arguments."""

    signature: str
    doc: str
    least: int
    most: int | None
    build: Callable[[Binder, ast.AST, list[Term]], Term]


def _kernel(name: str, options: Callable[[], Any] | None = None) -> Callable[[Binder, ast.AST, list[Term]], Term]:
    def build(binder: Binder, node: ast.AST, terms: list[Term]) -> Term:
        return binder.apply(node, name, *terms, options=options() if options is not None else None)

    return build


def _float_kernel(name: str) -> Callable[[Binder, ast.AST, list[Term]], Term]:
    def build(binder: Binder, node: ast.AST, terms: list[Term]) -> Term:
        import pyarrow as pa

        floats = [binder.cast(node, t, pa.float64()) if pa.types.is_integer(t.type) else t for t in terms]
        return binder.apply(node, name, *floats)

    return build


def _pattern(name: str) -> Callable[[Binder, ast.AST, list[Term]], Term]:
    def build(binder: Binder, node: ast.AST, terms: list[Term]) -> Term:
        import pyarrow.compute as pc

        text, pattern = terms
        options = pc.MatchSubstringOptions(binder.literal(pattern, str, "the second argument"))
        return binder.apply(node, name, text, options=options)

    return build


def _round(binder: Binder, node: ast.AST, terms: list[Term]) -> Term:
    import pyarrow.compute as pc

    digits = binder.literal(terms[1], int, "the number of digits") if len(terms) == 2 else 0
    return binder.apply(node, "round", terms[0], options=pc.RoundOptions(digits, "half_to_even"))


def _length(binder: Binder, node: ast.AST, terms: list[Term]) -> Term:
    import pyarrow as pa

    kind: Any = terms[0].type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return binder.apply(node, "binary_length", *terms)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return binder.apply(node, "list_value_length", *terms)
    return binder.apply(node, "utf8_length", *terms)


def _substring(binder: Binder, node: ast.AST, terms: list[Term]) -> Term:
    import pyarrow.compute as pc

    start = binder.literal(terms[1], int, "the start")
    stop = binder.literal(terms[2], int, "the end") if len(terms) == 3 else None
    return binder.apply(node, "utf8_slice_codeunits", terms[0], options=pc.SliceOptions(start, stop))


_TIMESTAMP: Final = re.compile(r"timestamp\[(s|ms|us|ns), *(?:tz=)?([^\]]+)\]")


def _cast(binder: Binder, node: ast.AST, terms: list[Term]) -> Term:
    import pyarrow as pa
    import pyarrow.compute as pc

    word = binder.literal(terms[1], str, "the type")
    zoned = _TIMESTAMP.fullmatch(word)
    try:
        unit: Any = zoned and zoned[1]
        target: Any = pa.timestamp(unit, zoned[2].strip()) if zoned else pa.type_for_alias(word)
    except ValueError:
        raise binder.fault(terms[1].node, f"there is no type {word}") from None
    if terms[0].type.equals(target):
        return terms[0]
    # 1.7 to int64 is 1, as int() has it; a number too large for its new type stays an error.
    return binder.apply(node, "cast", terms[0], options=pc.CastOptions(target, allow_float_truncate=True))


def _date(binder: Binder, node: ast.AST, terms: list[Term]) -> Term:
    import pyarrow as pa

    return binder.cast(node, terms[0], pa.date32())


def _to_timestamp(binder: Binder, node: ast.AST, terms: list[Term]) -> Term:
    import pyarrow as pa
    import pyarrow.compute as pc

    word = binder.literal(terms[1], str, "the format or unit") if len(terms) == 2 else None
    if pa.types.is_integer(terms[0].type):
        if word not in ("s", "ms", "us", "ns"):
            raise binder.fault(node, 'a number needs its unit: to_timestamp(x, "s"), or "ms", "us", "ns"')
        return binder.cast(node, binder.cast(node, terms[0], pa.int64()), pa.timestamp(word))
    if word is None:
        return binder.cast(node, terms[0], pa.timestamp("us"))
    return binder.apply(node, "strptime", terms[0], options=pc.StrptimeOptions(word, "us", error_is_null=False))


def _f(
    signature: str,
    doc: str,
    least: int,
    most: int | None,
    build: Callable[[Binder, ast.AST, list[Term]], Term],
) -> tuple[str, Function]:
    return signature.partition("(")[0], Function(signature, doc, least, most, build)


FUNCTIONS: Final[dict[str, Function]] = dict(
    [
        _f("abs(x)", "the value without its sign", 1, 1, _kernel("abs_checked")),
        _f("round(x, digits=0)", "rounded, halves to the even neighbour", 1, 2, _round),
        _f("floor(x)", "rounded down", 1, 1, _kernel("floor")),
        _f("ceil(x)", "rounded up", 1, 1, _kernel("ceil")),
        _f("min(a, b, ...)", "the least of a row, nulls skipped", 2, None, _kernel("min_element_wise")),
        _f("max(a, b, ...)", "the greatest of a row, nulls skipped", 2, None, _kernel("max_element_wise")),
        _f("sqrt(x)", "square root; NaN below zero", 1, 1, _float_kernel("sqrt")),
        _f("log(x)", "natural logarithm; -inf at zero, NaN below", 1, 1, _float_kernel("ln")),
        _f("exp(x)", "e to the x", 1, 1, _float_kernel("exp")),
        _f("power(x, y)", "x to the y", 2, 2, _kernel("power_checked")),
        _f("sin(x)", "sine of radians", 1, 1, _float_kernel("sin")),
        _f("cos(x)", "cosine of radians", 1, 1, _float_kernel("cos")),
        _f("lower(text)", "in lower case", 1, 1, _kernel("utf8_lower")),
        _f("upper(text)", "in upper case", 1, 1, _kernel("utf8_upper")),
        _f("length(x)", "characters of a text, bytes, or members of a list", 1, 1, _length),
        _f('starts_with(text, "x")', "whether it begins so", 2, 2, _pattern("starts_with")),
        _f('ends_with(text, "x")', "whether it ends so", 2, 2, _pattern("ends_with")),
        _f('contains(text, "x")', "whether it holds that", 2, 2, _pattern("match_substring")),
        _f('matches(text, "regex")', "whether an RE2 pattern is found in it", 2, 2, _pattern("match_substring_regex")),
        _f("substring(text, start, end)", "characters from start (0 is the first) up to end", 2, 3, _substring),
        _f('cast(x, "type")', "as another type, such as int64, double, string, timestamp[us]", 2, 2, _cast),
        _f("coalesce(a, b, ...)", "the first that is not null", 1, None, _kernel("coalesce")),
        _f("if_null(x, y)", "y where x is null", 2, 2, _kernel("coalesce")),
        _f("year(time)", "the year", 1, 1, _kernel("year")),
        _f("month(time)", "1 to 12", 1, 1, _kernel("month")),
        _f("day(time)", "1 to 31", 1, 1, _kernel("day")),
        _f("hour(time)", "0 to 23", 1, 1, _kernel("hour")),
        _f("minute(time)", "0 to 59", 1, 1, _kernel("minute")),
        _f("day_of_week(time)", "0 is Monday", 1, 1, _kernel("day_of_week")),
        _f("date(time)", "the day, without the time of day", 1, 1, _date),
        _f(
            'to_timestamp(x, "format")',
            "of ISO 8601 text, of text by a format, of a number by its unit",
            1,
            2,
            _to_timestamp,
        ),
    ]
)
