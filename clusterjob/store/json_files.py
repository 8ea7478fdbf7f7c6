"""Records in a folder, one JSON file each: for people who want to read, copy and keep them with the
tools of the shell.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clusterjob.errors import StoreError
from clusterjob.plain_files import open_beside
from clusterjob.status import Status
from clusterjob.store.base import (
    OLD_KEYS,
    SHORTEST_KEY,
    VERSION,
    VERSION_OF_KEYS,
    Again,
    Begun,
    CampaignChange,
    Change,
    Damaged,
    Edits,
    End,
    Note,
    Rebuilt,
    Report,
    Settle,
    Store,
    decide_claims,
    has_old_keys,
    newer_version_error,
    read_campaign,
    take_over_one,
)
from clusterjob.store.listed import Listed
from clusterjob.store.owner import (
    check_not_public,
    foreign_error,
    foreign_owner,
    is_missing,
)
from clusterjob.store.record import Record
from clusterjob.store.record_files import (
    Stamp,
    age_of,
    contents_of,
    copy_of,
    read_record_file,
    read_small,
    stamp_of,
    stamp_of_entry,
)
from clusterjob.store.shape import is_note, read_values
from clusterjob.store.task import ONCE_DUE, ONCE_STARTED

_CAMPAIGNS = "campaigns.json"


class FileStore(Store):
    """The store of one folder: ``records/TOKEN.json``, ``notes.json``, and a lock.

    Files are written whole and renamed. Of several submissions of one key the newest is the current
    one. Whoever writes holds a lock on the file ``lock`` (flock(2), which Linux carries over NFS);
    who only reads needs none, because every file is whole at any moment.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.url = f"file://{folder}"
        self._thread_lock = threading.RLock()
        self._files: dict[str, tuple[Stamp, Record | Damaged]] = {}
        self._seen: dict[str, Stamp] | None = None
        self._changes = 0
        self._ready = False

    # -- submitting --------------------------------------------------------------------------------

    def claim(
        self,
        records: Sequence[Record],
        again: Again,
        settle: Settle = lambda records: None,
    ) -> list[Record | None]:
        with self._locked():
            claims = decide_claims(records, self._holders(records), again)
            settle(claims.fresh)
            self._save(claims.fresh)
        mine = {id(record) for record in claims.fresh}

        def own(winner: Record | None) -> Record | None:
            return winner if winner is None or id(winner) in mine else copy_of(winner)

        return [own(winner) for winner in claims.winners]

    def update(self, records: Iterable[Record], change: Change) -> None:
        copies = list(records)
        if not copies:
            return
        edits = Edits(change)
        try:
            with self._locked():
                stored, newer = self._compare(copies)
                for record in copies:
                    if record.token in stored:
                        edits.apply(record, newer.get(record.token))
                self._save(edits.changed)
        except BaseException:
            edits.take_back()
            raise

    def refresh(self, records: Iterable[Record]) -> None:
        copies = list(records)
        _, newer = self._compare(copies)
        for record in copies:
            if record.token in newer:
                record.update_from(newer[record.token])

    def discard(self, records: Iterable[Record]) -> list[Record]:
        copies = list(records)
        if not copies:
            return []
        with self._locked():
            _, newer = self._compare(copies)
            gone = [record for record in copies if record.token not in newer]
            for record in gone:
                self._path(record.token).unlink(missing_ok=True)
        for record in copies:
            if record.token in newer:
                record.update_from(newer[record.token])
        return gone

    def take_over(
        self, records: Sequence[Record], owner: str, now: float
    ) -> list[Record]:
        taken = []
        with self._locked():
            stored = self._read_all()
            for record in records:
                found = stored.get(record.token)
                if isinstance(found, Record) and take_over_one(
                    copy_of(found), record, owner, now
                ):
                    taken.append(record)
            self._save(taken)
        return taken

    def begin(self, record: Record, what: Begun) -> bool:
        with self._locked():
            found = self._read_all().get(record.token)
            if not isinstance(found, Record) or getattr(found, what) is not ONCE_DUE:
                return False
            stored = copy_of(found)
            setattr(stored, what, ONCE_STARTED)
            stored.version += 1
            self._save([stored])
        record.update_from(stored)
        return True

    # -- looking -----------------------------------------------------------------------------------

    def by_keys(self, keys: Sequence[str]) -> dict[str, Record]:
        current = self._current()
        return self._copies({key: current[key] for key in keys if key in current})

    def by_tokens(self, tokens: Iterable[str]) -> dict[str, Record]:
        return self._copies(self._read_all(list(tokens)))

    def select(
        self,
        *,
        statuses: Iterable[int] | None = None,
        name: str | None = None,
        earlier: bool = False,
        unsent: bool = False,
        begun: bool = False,
        campaign: str | None = None,
    ) -> list[Record]:
        allowed = None if statuses is None else set(statuses)

        def is_meant(record: Record) -> bool:
            return (
                (allowed is None or record.status in allowed)
                and (name is None or record.name == name)
                and (campaign is None or record.campaign == campaign)
                and (not unsent or record.unsent)
                and (not begun or record.epilogue is ONCE_STARTED)
            )

        readings = self._read_all() if earlier else self._current()
        found = filter(is_meant, self._good(readings).values())
        return [copy_of(record) for record in sorted(found, key=age_of)]

    def listed(
        self, statuses: Iterable[int] | None = None, earlier: bool = False
    ) -> Iterator[Listed]:
        current = {id(reading) for reading in self._current().values()}
        allowed = None if statuses is None else set(statuses)
        readings = self._good(self._read_all()).values()
        for record in sorted(readings, key=age_of):
            is_current = id(record) in current
            if (earlier or is_current) and (
                allowed is None or record.status in allowed
            ):
                yield Listed.of(record, is_current)

    def live(self, cluster_id: str) -> list[str]:
        return [
            reading.token
            for reading in self._current().values()
            if isinstance(reading, Record)
            and reading.cluster_id == cluster_id
            and not reading.finished
            and not reading.is_held
        ]

    def named(self, word: str, earlier: bool = False) -> list[Record]:
        bare = word.partition(";")[0]
        records = self.select(earlier=earlier) if word else []
        kinds = [
            [record for record in records if record.job_id == bare],
            [record for record in records if record.name == word],
        ]
        if len(word) >= SHORTEST_KEY:
            kinds.append(
                [record for record in records if record.key.startswith(word)]
            )
        return next((found for found in kinds if found), [])

    def changes(self) -> int:
        with self._thread_lock:
            now = self._scan()
            self._changes += now != self._seen
            self._seen = now
            return self._changes

    # -- campaigns ---------------------------------------------------------------------------------

    def campaigns(self) -> dict[str, dict[str, Any]]:
        try:
            text = read_small(self.folder / _CAMPAIGNS)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.folder / _CAMPAIGNS}: {error}") from None
        return {
            name: data
            for name, data in read_campaign(text).items()
            if isinstance(data, dict)
        }

    def change_campaign(
        self, name: str, change: CampaignChange
    ) -> dict[str, Any] | None:
        with self._locked():
            campaigns = self.campaigns()
            data = change(campaigns.pop(name, None))
            if data is not None:
                campaigns[name] = data
            self._write(self.folder / _CAMPAIGNS, json.dumps(campaigns))
        return data

    def held(self, campaign: str) -> list[str]:
        found = [
            record
            for record in self._current_records()
            if record.campaign == campaign
        ]
        return [
            record.token for record in sorted(found, key=age_of) if record.is_held
        ]

    def campaign_counts(self, campaign: str) -> dict[Status, int]:
        found = Counter(
            record.status
            for record in self._current_records()
            if record.campaign == campaign
        )
        return {status: found[status] for status in Status if status in found}

    def live_counts(self, campaign: str | None) -> dict[tuple[str, int], int]:
        return Counter(
            (record.cluster_id, int(record.status))
            for record in self._current_records()
            if not record.finished
            and not record.is_held
            and campaign in (None, record.campaign)
        )

    def ends(self, keys: Sequence[str]) -> dict[str, End]:
        current = self._current()
        found = {key: current[key] for key in keys if key in current}
        return {
            key: End(
                int(record.status),
                not (record.unsent or record.is_held),
                record.cluster_id,
            )
            for key, record in found.items()
            if isinstance(record, Record)
        }

    def _current_records(self) -> list[Record]:
        readings = self._current().values()
        return [reading for reading in readings if isinstance(reading, Record)]

    # -- notes -------------------------------------------------------------------------------------

    def notes(self, prefix: str) -> dict[str, Note]:
        return {
            name: Note(*values)
            for name, values in self._notes().items()
            if name.startswith(prefix)
        }

    def note(self, name: str, note: Note | None) -> None:
        with self._locked():
            notes = self._notes()
            notes.pop(name, None)
            if note is not None:
                notes[name] = [note.at, note.value]
            self._write(self.folder / "notes.json", json.dumps(notes))

    def begin_poll(self, cluster_id: str, interval: float, now: float) -> Note | None:
        name = f"poll:{cluster_id}"
        with self._locked():
            notes = self._notes()
            at, value = notes.get(name, (None, None))
            if at is not None and at <= now < at + interval:
                return Note(at, value)
            notes[name] = [now, value]
            self._write(self.folder / "notes.json", json.dumps(notes))
            return None

    # -- care --------------------------------------------------------------------------------------

    def examine(self) -> Report:
        report = Report(facts={"store": self.url})
        try:
            stored = self._read_all()
            report.facts |= {"version": str(VERSION), "records": str(len(stored))}
            report.damaged = [
                reading for reading in stored.values() if isinstance(reading, Damaged)
            ]
        except StoreError as error:
            report.broken = str(error)
        return report

    def quarantine(self, damaged: Damaged) -> str:
        target = self.folder / "damaged" / f"{damaged.token}.json"
        with self._locked():
            target.parent.mkdir(mode=0o700, exist_ok=True)
            self._path(damaged.token).rename(target)
        return str(target)

    def hold_again(self, keys: Sequence[str]) -> None:
        """The newest one counts here, always."""

    def refile(self, tokens: Sequence[str]) -> None:
        """A file is searched by what it says."""

    def rebuild(self) -> Rebuilt:
        raise StoreError(
            f"{self.url}: there is nothing to rebuild; every record is a file of its own"
        )

    def import_records(self, records: Sequence[Record]) -> int:
        with self._locked():
            known = self._read_all()
            new = [record for record in records if record.token not in known]
            self._save(new)
            if has_old_keys(new):
                self._note_old_keys()
        return len(new)

    @property
    def owner(self) -> str:
        paths = (self.folder, self.folder / "records")
        check_not_public(paths)
        return foreign_owner(paths)

    def exists(self) -> bool:
        folder = self.folder / "records"
        return not is_missing(folder) and folder.is_dir()

    def close(self) -> None:
        with self._thread_lock:
            self._files.clear()
            self._ready = False

    # -- files -------------------------------------------------------------------------------------

    def _path(self, token: str) -> Path:
        return self.folder / "records" / f"{token}.json"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other writers out; a lock of a process that dies is gone with it."""
        with self._thread_lock:
            self._prepare(write=True)
            try:
                descriptor = os.open(
                    self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600
                )
                with os.fdopen(descriptor, "r+") as lock:
                    _wait_for(lock.fileno(), self.url)
                    yield
            except OSError as error:
                raise self._explain(error) from error

    def _prepare(self, write: bool = False) -> None:
        """See that this version can read the folder; who writes makes it where it is not there."""
        if write and self.owner:
            raise foreign_error(self.url, self.owner)
        if write and self._ready and not self.exists():
            raise StoreError(
                f"the store {self.url} was deleted while it was in use, so nothing is written. Put "
                "it back, or close the session and begin again with what is there now"
            )
        if self._ready:
            return
        is_new = is_missing(self.folder / "records")
        if is_new and not write:
            return
        try:
            if is_new:
                self._make()
            stamp = self.folder / "version.json"
            version = 0
            if stamp.exists():
                version = int(read_values(read_small(stamp))["clusterjob"])
            if version < VERSION and not self.owner:
                if 0 < version < VERSION_OF_KEYS:
                    self._note_old_keys()
                self._write(stamp, json.dumps({"clusterjob": VERSION}))
        except OSError as error:
            raise self._explain(error) from error
        except (ValueError, KeyError, TypeError) as error:
            expected = json.dumps({"clusterjob": VERSION})
            raise StoreError(
                f"{self.folder / 'version.json'} is damaged ({error}); expected {expected}"
            ) from error
        if version > VERSION:
            raise newer_version_error(self.url, version)
        self._ready = True

    def _make(self) -> None:
        """Make the folder; one that holds other things is left as it is."""
        self.folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        records = self.folder / "records"
        # another process may be making it: the records are the first that it puts there
        if any(self.folder.iterdir()) and is_missing(records):
            raise StoreError(
                f"{self.folder} is a folder with other things in it, and no store: name one that "
                "is empty, or not there yet"
            )
        records.mkdir(mode=0o700, exist_ok=True)

    def _explain(self, error: OSError) -> StoreError:
        return StoreError(
            f"the store {self.url} cannot be used: {error.strerror or error}. Make room or mend "
            "the permissions, and run again"
        )

    def _save(self, records: Iterable[Record]) -> None:
        for record in records:
            self._write(self._path(record.token), contents_of(record))

    def _write(self, path: Path, text: str) -> None:
        """Write a file whole or not at all, and on disk before it gets its name."""
        descriptor, part = open_beside(path)
        try:
            with os.fdopen(
                descriptor, "w", encoding="utf-8", errors="surrogatepass"
            ) as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            part.rename(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise

    def _scan(self) -> dict[str, Stamp]:
        self._prepare()
        found = {}
        try:
            with os.scandir(self.folder / "records") as entries:
                for entry in entries:
                    if entry.name.endswith(".json") and not entry.name.startswith(
                        "."
                    ):
                        with contextlib.suppress(FileNotFoundError):
                            found[entry.name[:-5]] = stamp_of_entry(entry)
        except FileNotFoundError:  # there is no store yet
            return {}
        except OSError as error:
            raise self._explain(error) from error
        return found

    def _read_all(
        self, tokens: Sequence[str] | None = None
    ) -> dict[str, Record | Damaged]:
        """Read the records, or some of them; a file that has not changed is not read again."""
        with self._thread_lock:
            if tokens is None:
                stats = self._scan()
                for token in self._files.keys() - stats.keys():
                    del self._files[token]
            else:
                self._prepare()
                stats = {}
                for token in tokens:
                    with contextlib.suppress(OSError):
                        stats[token] = stamp_of(self._path(token).stat())
            found: dict[str, Record | Damaged] = {}
            for token, stamp in stats.items():
                known = self._files.get(token)
                if known is None or known[0] != stamp:
                    reading = read_record_file(self._path(token))
                    if reading is None:
                        continue
                    known = self._files[token] = (stamp, reading)
                found[token] = known[1]
            return found

    def _compare(
        self, copies: Sequence[Record]
    ) -> tuple[set[str], dict[str, Record]]:
        """Return the tokens of the copies that are stored, and new readings of those that others
        have written; one that cannot be read is as good as gone.
        """
        stored = self._good(self._read_all([record.token for record in copies]))
        newer = {
            record.token: copy_of(stored[record.token])
            for record in copies
            if record.token in stored
            and stored[record.token].version != record.version
        }
        return set(stored), newer

    def _current(self) -> dict[str, Record | Damaged]:
        """Return the newest record of each key; a damaged one whose key is known holds it."""
        found: dict[str, Record | Damaged] = {}
        for reading in sorted(self._read_all().values(), key=age_of):
            found[reading.key or reading.token] = reading
        return found

    def _holders(self, records: Sequence[Record]) -> dict[str, Record | Damaged]:
        """Return who holds keys; a damaged record that names no job may be any of the new ones'."""
        holders = self._current()
        nameless = [
            reading
            for reading in holders.values()
            if isinstance(reading, Damaged) and not reading.key
        ]
        for reading in list(holders.values()):
            if isinstance(reading, Damaged) and reading.own_key:
                holders.setdefault(reading.own_key, reading)
        if nameless:
            for record in records:
                holders.setdefault(record.key, nameless[0])
        return holders

    def _good(self, readings: Mapping[str, Record | Damaged]) -> dict[str, Record]:
        """Return the readings that are records; the others are named in the log."""
        found = {}
        for name, reading in readings.items():
            if isinstance(reading, Damaged):
                self.warn_of(reading)
            else:
                found[name] = reading
        return found

    def _copies(self, readings: Mapping[str, Record | Damaged]) -> dict[str, Record]:
        return {
            name: copy_of(record) for name, record in self._good(readings).items()
        }

    def _note_old_keys(self) -> None:
        notes = {**self._read_notes(), OLD_KEYS: [0.0, None]}
        self._write(self.folder / "notes.json", json.dumps(notes))

    def _notes(self) -> dict[str, list[Any]]:
        self._prepare()
        return self._read_notes()

    def _read_notes(self) -> dict[str, list[Any]]:
        """Return the notes; what is none is as good as not written."""
        try:
            notes = read_values(read_small(self.folder / "notes.json"))
            return {name: values for name, values in notes.items() if is_note(values)}
        except (FileNotFoundError, ValueError, AttributeError):
            return {}


def _wait_for(descriptor: int, url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StoreError(
                    f"the store {url} was locked by another process for a minute; try again when "
                    "that one is done"
                ) from None
            time.sleep(0.005)
