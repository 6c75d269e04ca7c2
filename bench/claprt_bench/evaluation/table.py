"""Tables with a header: CSV and Parquet. What is in them is checked by who asks for a column."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claprt.extras import BENCH
from claprt.files import read_regular
from claprt_bench.errors import DatasetError

CSV_SUFFIXES, PARQUET_SUFFIXES = (".csv", ".tsv"), (".parquet", ".pq")
_DELIMITERS = ",;\t"
_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Table:
    """Named columns of a file.

    Attributes:
        path: of the file.
        names: the columns' names as the file has them.
        rows: how many rows there are.
        where: what to call row i in a message: "line 7", or "row 6" where there are no lines.
        fetch: reads column j: a value for each row, of strings in a CSV, of any kind in Parquet.
    """

    path: Path
    names: tuple[str, ...]
    rows: int
    where: Callable[[int], str]
    fetch: Callable[[int], Sequence[Any]]

    def find(self, wanted: str | None, known: Sequence[str], option: str) -> int | None:
        """The number of a column.

        Args:
            wanted: the name that the user gave; it must be there.
            known: usual names, the first that is there is taken; without regard to case, spaces are underscores.
            option: with which the user names it.

        Raises:
            DatasetError: the wanted column is not there, or there are two of that name.
        """
        names = [_plain(name) for name in self.names]
        if wanted is not None and wanted in self.names:
            name, names = wanted, list(self.names)
        else:
            candidates = known if wanted is None else [_plain(wanted)]
            found = next((candidate for candidate in candidates if candidate in names), None)
            if found is None and wanted is None:
                return None
            if found is None:
                raise DatasetError(
                    f"there is no such column: {self.path}: {wanted!r}; it has {self.shown}; name one of them with "
                    f"{option}"
                )
            name = found
        if names.count(name) > 1:
            raise DatasetError(f"two columns have one name: {self.path}: {name!r}; rename one of them")
        return names.index(name)

    @property
    def shown(self) -> str:
        """The names of the columns, for messages."""
        text = ", ".join(repr(name[:40]) for name in self.names[:20])
        return text + (f" and {len(self.names) - 20} more" if len(self.names) > 20 else "")


def read_table(path: Path) -> Table:
    """Open a CSV (with commas, semicolons or tabs; UTF-8) or a Parquet file.

    Raises:
        DatasetError: it cannot be read, is not such a table, or has no rows.
        MissingExtraError: pyarrow is not installed, for Parquet.
    """
    table = _parquet(path) if path.suffix.lower() in PARQUET_SUFFIXES else _csv(path)
    if not table.rows:
        raise DatasetError(f"the dataset has no rows: {path}; write one row for each sound")
    return table


def _csv(path: Path) -> Table:
    try:
        data = read_regular(path, _MAX_BYTES)
    except OSError as error:
        raise DatasetError(f"the dataset cannot be read: {path}: {error.strerror}; check the path") from error
    if b"\0" in data:
        raise DatasetError(f"not a CSV in UTF-8: {path}: it has NUL bytes; save it as CSV, UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"not a CSV in UTF-8: {path}: byte {error.start} is 0x{data[error.start]:02x}; convert the file"
        ) from error
    header_line = text.lstrip("\r\n").split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=header_line.count)  # of equals the first: the comma
    rows, lines = [], []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise DatasetError(f"not a CSV: {path}: line {reader.line_num}: {error}; check the quotes there") from error
    if not rows:
        raise DatasetError(f"the dataset is empty: {path}; write a header and one row for each sound")
    header, *rows = rows
    for row, line in zip(rows, lines[1:], strict=True):
        if len(row) != len(header):
            raise DatasetError(
                f"a row does not fit the header: {path}: line {line} has {len(row)} fields, the header {len(header)}; "
                "quote fields that contain the separator"
            )
    names = tuple(name.strip() for name in header)
    return Table(path, names, len(rows), lambda i: f"line {lines[i + 1]}", lambda j: [row[j] for row in rows])


def _parquet(path: Path) -> Table:
    BENCH.require("reading Parquet", "pyarrow")
    import pyarrow
    import pyarrow.parquet

    def failed(error: Exception) -> DatasetError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return DatasetError(f"not a Parquet file that can be read: {path}: {reason[:300]}; check the file")

    try:
        file = pyarrow.parquet.ParquetFile(path)
        names, rows = tuple(file.schema_arrow.names), int(file.metadata.num_rows)
    except Exception as error:  # a damaged file: whatever Arrow raises
        raise failed(error) from error

    def fetch(column: int) -> Sequence[Any]:
        try:
            name = names[column]  # only this one: others may hold the sounds themselves
            values: list[Any] = file.read(columns=[name]).column(name).to_pylist()
        except Exception as error:
            raise failed(error) from error
        return values

    return Table(path, names, rows, lambda i: f"row {i + 1}", fetch)


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")
