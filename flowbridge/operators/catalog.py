"""The built-in operators: what a flow may name by one word. Pure data; nothing heavy is loaded here."""

from __future__ import annotations

from typing import Final

from flowbridge.operator_spec import ConfigField, OperatorSpec
from flowbridge.plan import Category, ContentType, Port

_ANY_IN: Final = (Port(name="in", content_type=ContentType.OBJECT),)
_ANY_OUT: Final = (Port(name="out", content_type=ContentType.OBJECT),)

_BATCH_ROWS: Final = ConfigField(
    name="batch_rows", type="int", default=1000, doc="Rows per batch; the last batch may have fewer."
)
_COLUMNS: Final = ConfigField(
    name="columns", type="list", default=None, doc="The columns to read, in this order; all of them when left out."
)


def _read_path(what: str) -> ConfigField:
    return ConfigField(
        name="path", type="path", doc=f"The {what} to read. A missing or empty file fails the node when it starts."
    )


def _write_path(what: str) -> ConfigField:
    return ConfigField(
        name="path",
        type="path",
        doc=f"The {what} to write. Its folder is made if need be. The file appears when the flow has ended, whole: "
        "until then a part file stands beside it, which is removed when the flow fails. "
        "A restart of the node begins the file again.",
    )


_SOURCES: Final = (
    OperatorSpec(
        name="csv_source",
        summary="Reads a CSV file with a header line as Arrow batches.",
        factory="flowbridge.operators.file_source:CsvSource",
        inputs=(),
        config=(
            _read_path("CSV file"),
            _BATCH_ROWS,
            _COLUMNS,
            ConfigField(
                name="on_ragged",
                type="string",
                default="fail",
                choices=("fail", "skip"),
                doc="What a row with too many or too few columns does: `fail` the node, naming the row, or be left out "
                "and counted (`skip`).",
            ),
        ),
    ),
    OperatorSpec(
        name="parquet_source",
        summary="Reads a Parquet file as Arrow batches.",
        factory="flowbridge.operators.file_source:ParquetSource",
        inputs=(),
        config=(_read_path("Parquet file"), _BATCH_ROWS, _COLUMNS),
    ),
    OperatorSpec(
        name="jsonl_source",
        summary="Reads a file with one JSON object per line as Arrow batches; the first MiB decides the columns.",
        factory="flowbridge.operators.file_source:JsonlSource",
        inputs=(),
        config=(_read_path("JSON lines file"), _BATCH_ROWS),
    ),
    OperatorSpec(
        name="sequence",
        summary="Sends start, start + step, ...: ints, or Arrow batches with a column `value`.",
        factory="flowbridge.operators.generator:Sequence",
        inputs=(),
        outputs=_ANY_OUT,
        config=(
            ConfigField(name="count", type="int", default=None, doc="How many numbers; without end when left out."),
            ConfigField(name="start", type="int", default=0, doc="The first number."),
            ConfigField(name="step", type="int", default=1, doc="The difference between two numbers."),
            ConfigField(
                name="batch_rows",
                type="int",
                default=1,
                doc="1 sends single ints; more sends Arrow batches of so many rows with an int64 column `value`.",
            ),
            ConfigField(
                name="every",
                type="duration",
                default=None,
                doc="Time between two messages, by a schedule that does not drift; as fast as possible when left out.",
            ),
        ),
    ),
    OperatorSpec(
        name="timer_source",
        summary="Sends the number of the tick, from 0, at a fixed period; ticks that were missed are skipped.",
        factory="flowbridge.operators.generator:TimerSource",
        inputs=(),
        outputs=_ANY_OUT,
        category=Category.SYSTEM,
        config=(
            ConfigField(name="every", type="duration", doc="The period. Tick n is due at start + n * every."),
            ConfigField(
                name="count", type="int", default=None, doc="How many ticks to send; without end when left out."
            ),
        ),
    ),
)

_TRANSFORMS: Final = (
    OperatorSpec(
        name="map",
        summary="Adds columns computed by expressions, or replaces columns in their place.",
        factory="flowbridge.operators.transform:Map",
        judges=True,
        config=(
            ConfigField(
                name="columns",
                type="map",
                doc="New column to expression. Every expression sees the batch as it came in, not other new ones.",
            ),
        ),
    ),
    OperatorSpec(
        name="filter",
        summary="Lets the rows through for which an expression is true.",
        factory="flowbridge.operators.transform:Filter",
        judges=True,
        config=(
            ConfigField(
                name="where",
                type="expression",
                doc="Rows for which it is false or null are left out. A batch of which nothing is left is not sent.",
            ),
        ),
    ),
    OperatorSpec(
        name="select",
        summary="Keeps some columns, in a given order, or makes a batch of expressions only.",
        factory="flowbridge.operators.transform:Select",
        judges=True,
        config=(
            ConfigField(name="columns", type="any", doc="A list of columns, or a mapping of new column to expression."),
        ),
    ),
    OperatorSpec(
        name="window",
        summary="Aggregates rows per tumbling window of event time and per key.",
        factory="flowbridge.operators.window:Window",
        judges=True,
        config=(
            ConfigField(
                name="time",
                type="string",
                doc="The column with the event time: a timestamp, a date, or a number of nanoseconds. Rows without a "
                "time are counted and left out.",
            ),
            ConfigField(name="every", type="duration", doc="The length of a window; windows start at multiples of it."),
            ConfigField(
                name="aggregate",
                type="map",
                doc="Result column to `count()`, `count(col)`, `sum(col)`, `mean(col)`, `min(col)`, `max(col)`, "
                "`stddev(col)` (of a sample), `first(col)`, `last(col)` or `distinct(col)`. Nulls are passed over.",
            ),
            ConfigField(
                name="by", type="list", default=(), doc="Key columns; a window has one row for each key in it."
            ),
            ConfigField(
                name="lateness",
                type="duration",
                default=0,
                doc="How far the watermark stays behind the greatest time seen. A row whose window is closed is "
                "counted and left out.",
            ),
        ),
    ),
    OperatorSpec(
        name="gather",
        summary="Puts results that come from several workers back into the order in which they were given out.",
        factory="flowbridge.operators.gather:Gather",
        judges=True,
        inputs=_ANY_IN,
        outputs=_ANY_OUT,
        any_inputs=True,
        category=Category.SYSTEM,
        config=(
            ConfigField(
                name="max_pending",
                type="int",
                default=256,
                doc="When so many results wait for one that is missing, that one is given up. A result that comes "
                "after it was given up is counted and left out.",
            ),
        ),
    ),
)

_SINKS: Final = (
    OperatorSpec(
        name="csv_sink",
        summary="Writes Arrow batches to a CSV file with a header line.",
        factory="flowbridge.operators.file_sink:CsvSink",
        outputs=(),
        config=(_write_path("CSV file"),),
    ),
    OperatorSpec(
        name="parquet_sink",
        summary="Writes Arrow batches to a Parquet file.",
        factory="flowbridge.operators.file_sink:ParquetSink",
        outputs=(),
        config=(
            _write_path("Parquet file"),
            ConfigField(
                name="compression",
                type="string",
                default="zstd",
                choices=("zstd", "snappy", "gzip", "lz4", "brotli", "none"),
                doc="How the columns are compressed.",
            ),
        ),
    ),
    OperatorSpec(
        name="jsonl_sink",
        summary="Writes one JSON object per row; any other value becomes one line.",
        factory="flowbridge.operators.file_sink:JsonlSink",
        inputs=_ANY_IN,
        outputs=(),
        config=(_write_path("JSON lines file"),),
    ),
    OperatorSpec(
        name="console",
        summary="Prints a table of the last rows when the flow ends.",
        factory="flowbridge.operators.terminal:Console",
        inputs=_ANY_IN,
        outputs=(),
        any_inputs=True,
        category=Category.SYSTEM,
        config=(
            ConfigField(name="limit", type="int", default=20, doc="How many rows to print."),
            ConfigField(name="title", type="string", default=None, doc="The heading; the node's id when left out."),
        ),
    ),
    OperatorSpec(
        name="null",
        summary="Takes everything and keeps nothing.",
        factory="flowbridge.operators.terminal:Null",
        inputs=_ANY_IN,
        outputs=(),
        any_inputs=True,
        category=Category.SYSTEM,
    ),
)

BUILTINS: Final[dict[str, OperatorSpec]] = {spec.name: spec for spec in (*_SOURCES, *_TRANSFORMS, *_SINKS)}
"""Every built-in operator, by its word."""
