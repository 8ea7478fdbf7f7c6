"""One job script, many parameters: a job for each row of a table."""

from __future__ import annotations

import csv
import hashlib
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias

from clusterjob.errors import SettingsError, shorten
from clusterjob.plain_files import expand
from clusterjob.script import JobScript

_LONGEST_NAME = 80  # characters of a job's name
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(
    rf"(?:{_WHOLE.pattern}(?:\.[0-9]+)?|-?\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
)
_ODD = re.compile(r"[^A-Za-z0-9_.+-]+")

Row: TypeAlias = Mapping[str, object]


class Table(Protocol):
    """What has rows: a data frame of pandas or polars, for example."""

    def to_dict(self, orient: str, /) -> object:
        """Return a list of mappings from column to value, for ``"records"``."""


# rows of parameters: mappings, the path of a CSV file with a header, or a table
Rows: TypeAlias = Iterable[Row] | Table | str | os.PathLike[str]


def sweep(
    job: JobScript,
    rows: Rows | None = None,
    /,
    *,
    zipped: bool = False,
    **values: Iterable[object],
) -> Iterator[JobScript]:
    """Yield a copy of a job for each row of parameters, named after them; lazily.

    ``values`` are lists, and the rows all their combinations (the last one changes fastest); with
    ``zipped`` the first of each, the second of each, and so on. ``rows`` are mappings from names to
    values, the path of a CSV file with a header (``0.10`` and ``1e-3`` in it are numbers, ``05`` is
    text), or a data frame; each is combined with ``values``. A name may be a
    parameter of the body, an attribute or a resource: ``ppn=[1, 2, 4]``. Templates may also stand
    in ``workdir``, ``stdout``, ``stderr``, ``inputs`` and ``outputs``: ``workdir="T{{ T }}"``.

    Raises :class:`SettingsError`, as far as can be told before the first job.

    ::

        results = submit(sweep(job, T=[10, 20, 50], lambda_a=[0.1, 0.2]))
    """
    if not isinstance(job, JobScript):
        raise SettingsError(f"{job!r} is no job script: make one with JobScript(...)")
    combined = _combine(values, zipped)
    if rows is None:
        if not values:
            raise SettingsError(
                "a sweep needs parameters: sweep(job, T=[10, 20]), or rows of them"
            )
        return (_vary(job, row) for row in combined)
    each = _rows_of(rows)
    return (_vary(job, {**row, **more}) for row in each for more in combined)


def _combine(
    values: Mapping[str, Iterable[object]], zipped: bool
) -> list[dict[str, object]]:
    """Return the rows of lists of values."""
    lists = {name: _list_of(name, given) for name, given in values.items()}
    if zipped:
        lengths = {name: len(given) for name, given in lists.items()}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{name} {count}" for name, count in lengths.items())
            raise SettingsError(
                f"zipped lists must be of one length; there are {counts}"
            )
        tuples: Iterable[Sequence[object]] = zip(*lists.values(), strict=True)
        if not lists:
            tuples = [()]
    else:
        tuples = itertools.product(*lists.values())
    return [dict(zip(lists, row, strict=True)) for row in tuples]


def _list_of(name: str, given: object) -> list[object]:
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise SettingsError(
            f"{name} = {given!r}: expected a list of values, [{given!r}] for one alone"
        )
    found = list(given)
    if not found:
        raise SettingsError(f"{name} has no values: there would be no job")
    return found


def _rows_of(rows: Rows) -> Iterable[Row]:
    """Return rows that may be many, one by one."""
    if isinstance(rows, (str, os.PathLike)):
        return read_csv(rows)
    given: object = rows
    to_dict = getattr(rows, "to_dict", None)
    if to_dict is not None and not isinstance(rows, Mapping):
        given = to_dict("records")
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise SettingsError(
            f"{shorten(repr(rows))} are no rows: expected a list of mappings, the path of a CSV "
            "file, or a table with to_dict('records')"
        )
    return map(_check_row, given)


def _check_row(row: object) -> Row:
    if not isinstance(row, Mapping) or not all(isinstance(name, str) for name in row):
        raise SettingsError(
            f"{shorten(repr(row))} is no row: expected a mapping from names to values"
        )
    return row


def read_csv(path: str | os.PathLike[str]) -> list[Row]:
    """Return the rows of a CSV file with a header, whose values are :func:`parse_value`'s.

    Raises :class:`SettingsError`.
    """
    file = expand(path)
    try:
        with open(file, newline="", encoding="utf-8-sig") as text:
            reader = csv.reader(text, strict=True)
            header = next(reader, [])
            rows: list[Row] = []
            for values in reader:
                if not values:
                    continue
                if len(values) != len(header):
                    raise SettingsError(
                        f"line {reader.line_num} has {len(values)} values, and the header "
                        f"{len(header)} names",
                        file=file,
                    )
                rows.append(dict(zip(header, map(parse_value, values), strict=True)))
    except csv.Error as error:
        raise SettingsError(
            f"line {reader.line_num}: {error} (is a quote not closed?)", file=file
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"it cannot be read: {error}", file=file) from None
    wrong = [name for name in header if not name.isidentifier()]
    if wrong or not header or len(set(header)) < len(header):
        what = repr(wrong[0]) if wrong else repr(header)
        raise SettingsError(
            "its first line must name the parameters, each once (letters, digits and _), not "
            f"{what}",
            file=file,
        )
    if not rows:
        raise SettingsError("it has a header, and no rows", file=file)
    return rows


def parse_value(text: str) -> object:
    """Return the number or truth value that a text is, else the text.

    ``0.10`` and ``1e-3`` are numbers, ``True`` and ``False`` are what they are in Python; ``007``,
    ``1_000``, ``+5``, ``true`` and ``nan`` stay texts.
    """
    if text in ("True", "False"):
        return text == "True"
    if not _NUMBER.fullmatch(text):
        return text
    if _WHOLE.fullmatch(text):
        return int(text)
    value = float(text)
    return value if math.isfinite(value) else text


def _vary(job: JobScript, row: Row) -> JobScript:
    """Return a copy of a job with the values of a row, and a name made of them."""
    return job.with_row(row, name_of(str(job.jobname or "job"), row))


def name_of(base: str, row: Row) -> str:
    """Return a name that says the parameters, of characters that every scheduler takes.

    Where that is less than the parameters say, it ends with their digest: rows that differ have
    names that do.
    """
    if "{{" in base:  # it says them itself
        return base
    words = [f"{name}{value}" for name, value in row.items()]
    name = "_".join([base, *(_ODD.sub("-", word) for word in words)])
    whole = "_".join([base, *words])
    if name == whole and len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name[: _LONGEST_NAME - 9]}_{digest}"
