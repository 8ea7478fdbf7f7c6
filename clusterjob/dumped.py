"""A record in a file of its own: what ``AsyncResult.dump`` writes and ``load`` reads."""

from __future__ import annotations

import json
import os
from pathlib import Path

from clusterjob.errors import StoreError
from clusterjob.plain_files import open_beside, read_text
from clusterjob.store import Record, foreign_owner


def write_dump(path: str | os.PathLike[str], url: str, record: Record) -> None:
    """Write a record to a file of JSON, with the place of its store."""
    contents = {
        "clusterjob": 1,
        "store": url,
        "record": json.loads(record.to_json()),
        "spec": json.loads(record.spec_json),
    }
    target = Path(path)
    descriptor, part = open_beside(target)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(json.dumps(contents, indent=1))
    part.replace(target)


def read_dump(path: str | os.PathLike[str]) -> tuple[str, Record]:
    """Return the place of the store, and the record. Raises :class:`StoreError`."""
    try:
        _check_own(path)
        text = read_text(path, errors="surrogateescape")
        _check_no_pickle(path, text)
        data = json.loads(text)
        record = Record.from_json(
            json.dumps(data["record"]), json.dumps(data["spec"])
        )
        url = data["store"]
        if not isinstance(url, str) or "\0" in url:
            raise ValueError(f"{url!r} names no store")
        return url, record
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(
            f"{path} is not a dumped result: {type(error).__name__}: {error}"
        ) from error


def _check_own(path: str | os.PathLike[str]) -> None:
    """Refuse the file of another user: a record names commands, which are run for its job."""
    owner = foreign_owner([path])
    if owner:
        raise StoreError(
            f"{path} belongs to {owner}: what it names would be run as you. Copy it, if you trust "
            "who made it as much as the author of a script that you run"
        )


def _check_no_pickle(path: str | os.PathLike[str], text: str) -> None:
    """Refuse what the clusterjob of 2018 dumped: pickles are programs, and are not run."""
    if text[:1] in ("\udc80", "(", "c"):
        raise StoreError(
            f"{path} is a pickle, as the clusterjob of 2018 wrote them, which is not read: "
            "submit the job again, with the same cache_id where there was one"
        )
