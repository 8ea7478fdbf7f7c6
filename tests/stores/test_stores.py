"""What every kind of store promises."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterjob.errors import StoreError
from clusterjob.status import Reason, Status
from clusterjob.store import (
    ONCE_DUE,
    ONCE_STARTED,
    Change,
    Event,
    JobSpec,
    Note,
    Phase,
    Record,
    Store,
    Task,
    open_store,
)
from clusterjob.store.base import VERSION

Opener = Callable[[], Store]


def record(key: str = "k", token: str = "t", **values: object) -> Record:
    return Record(
        key=key,
        token=token,
        name="n",
        backend="b",
        workdir="/w",
        folder="/r",
        spec_json=JobSpec(body="x").to_json(),
        **values,
    )  # type: ignore[arg-type]


def never(old: Record, new: Record) -> bool:
    return False


def put(status: Status) -> Change:
    """Return a change that gives a record a task in this state."""

    def change(stored: Record) -> None:
        stored.task = Task(status)

    return change


def test_a_record_comes_back_as_it_was(store: Store) -> None:
    made = record(
        phase=Phase.SUBMITTED,
        job_id="12",
        member="c",
        created=5.0,
        submitted=(1.0, 2.0),
    )
    made.task = Task(
        Status.FAILED,
        Reason.SIGNAL,
        None,
        9,
        "words",
        1.0,
        2.0,
        "h",
        {"cpu": 1.5},
        runs=3,
        history=[Event(1.0, "FAILED", "w")],
    )
    made.tasks = {3: Task(Status.RUNNING)}
    assert store.claim([made], never) == [made]
    found = store.by_keys(["k"])["k"]
    assert found.to_json() == made.to_json()
    assert found.spec == JobSpec(body="x")
    assert found.task == made.task
    assert found.tasks == made.tasks
    assert not found.to_json().startswith("\x80")


def test_one_record_a_key(store: Store) -> None:
    first = record(token="a")
    assert store.claim([first, record(token="b")], never) == [first, first]
    assert store.claim([record(token="c")], never)[0].token == "a"
    second = record(token="d", created=1.0)
    assert store.claim([second], lambda old, new: True) == [second]
    assert [item.token for item in store.select()] == ["d"]
    assert [item.token for item in store.select(earlier=True)] == ["a", "d"]
    store.discard([second])
    assert [item.token for item in store.select()] == ["a"]


def test_what_is_finished_stays_as_it_is(store: Store) -> None:
    made = record()
    store.claim([made], never)
    store.update([made], put(Status.COMPLETED))
    store.update([made], put(Status.FAILED))
    assert made.status == Status.COMPLETED
    assert store.by_tokens(["t"])["t"].status == Status.COMPLETED

    def change_in_place(stored: Record) -> None:
        stored.task.status = Status.CANCELLED

    store.update([made], change_in_place)
    assert made.status == Status.COMPLETED
    assert store.by_tokens(["t"])["t"].status == Status.COMPLETED


def test_records_are_named_by_id_name_and_key(store: Store) -> None:
    store.claim(
        [
            record("12345678c1", "t1", job_id="12"),
            record("12345678d2", "t2", job_id="12345678c1"),
        ],
        never,
    )
    assert [item.token for item in store.named("12")] == ["t1"]
    assert [item.token for item in store.named("12;cluster")] == ["t1"]
    assert [item.token for item in store.named("n")] == ["t1", "t2"]
    assert [item.token for item in store.named("123456")] == ["t1", "t2"]
    assert [item.token for item in store.named("12345678c1")] == ["t2"]
    # so few may be the id of a job that is not known here
    assert store.named("1") == store.named("12345") == []
    assert store.named("") == store.named("zzzzzz") == []


def test_selecting(store: Store) -> None:
    made = [
        record(
            "a",
            "1",
            created=1.0,
            cluster_id="here",
            phase=Phase.SUBMITTED,
            job_id="5",
        ),
        record("b", "2", created=2.0, cluster_id="there"),
        record("c", "3", created=3.0, cluster_id="here", phase=Phase.DEFERRED),
        record(
            "d",
            "4",
            created=4.0,
            cluster_id="here",
            phase=Phase.SUBMITTED,
            task=Task(Status.FAILED),
        ),
    ]
    store.claim(made, never)
    assert [item.token for item in store.select()] == ["1", "2", "3", "4"]
    assert [item.token for item in store.select(unsent=True)] == ["2", "3"]
    assert [item.token for item in store.select(statuses=[Status.FAILED])] == ["4"]
    assert store.select(name="other") == []
    assert sorted(store.live("here")) == ["1", "3"]

    def accept(stored: Record) -> None:
        stored.phase, stored.job_id = Phase.SUBMITTED, "6"

    store.update([made[2]], accept)
    assert [item.token for item in store.select(unsent=True)] == ["2"]


def test_a_change_by_another_is_noticed_and_ours_is_not(another: Opener) -> None:
    first, second = another(), another()
    first.claim([record()], never)
    before = first.changes()
    seen = second.by_tokens(["t"])["t"]
    second.update([seen], put(Status.RUNNING))
    after = first.changes()
    # two who ask the same store are both told
    assert after != before
    assert first.changes() == after
    assert first.by_tokens(["t"])["t"].status == Status.RUNNING


def test_a_stale_copy_takes_nothing_back(another: Opener) -> None:
    first, second = another(), another()
    first.claim([record(epilogue=ONCE_DUE)], never)
    here, there = first.by_tokens(["t"])["t"], second.by_tokens(["t"])["t"]
    second.update([there], lambda it: setattr(it, "cancel_requested", 5.0))
    assert second.begin(there, "epilogue")
    first.update([here], put(Status.RUNNING))
    stored = another().by_tokens(["t"])["t"]
    for seen in (stored, here):
        assert seen.cancel_requested == 5.0
        assert seen.epilogue is ONCE_STARTED
        assert seen.status == Status.RUNNING
    assert (there.version, here.version, stored.version) == (2, 3, 3)


def test_a_copy_is_brought_up_to_date(another: Opener) -> None:
    first, second = another(), another()
    first.claim([record(), record("k2", "t2")], never)
    copies = list(first.by_tokens(["t", "t2"]).values())
    second.update(second.select()[:1], put(Status.RUNNING))
    first.refresh(copies)
    assert {it.token: it.status for it in copies} == {
        "t": Status.RUNNING,
        "t2": Status.PENDING,
    }


def test_a_change_that_fails_leaves_store_and_copies_as_they_were(
    store: Store,
) -> None:
    made = [record(), record("k2", "t2")]
    store.claim(made, never)

    def change(stored: Record) -> None:
        stored.task.words = "half done"
        if stored.token == "t2":
            raise LookupError

    with pytest.raises(LookupError):
        store.update(made, change)
    assert [it.task.words for it in (*made, *store.select())] == [""] * 4
    assert [it.version for it in (*made, *store.select())] == [0] * 4
    # what says False is not written
    store.update(made, lambda stored: False)
    assert [it.version for it in store.select()] == [0, 0]


def test_a_record_that_is_gone_is_not_written_anew(store: Store) -> None:
    made = record()
    store.claim([made], never)
    assert store.discard([made]) == [made]
    store.update([made], put(Status.RUNNING))
    assert store.select() == []
    assert made.status == Status.PENDING


def test_what_another_wrote_meanwhile_is_not_deleted(another: Opener) -> None:
    first, second = another(), another()
    mine = record()
    first.claim([mine], never)
    theirs = second.by_tokens(["t"])["t"]

    def accept(stored: Record) -> None:
        stored.phase, stored.job_id = Phase.SUBMITTED, "41"

    second.update([theirs], accept)
    assert first.discard([mine]) == []
    assert mine.job_id == "41"
    assert [it.job_id for it in first.select()] == ["41"]


def test_what_again_raises_leaves_the_store_as_it_was(store: Store) -> None:
    store.claim([record()], never)

    def refuse(old: Record, new: Record) -> bool:
        raise LookupError

    with pytest.raises(LookupError):
        store.claim([record("new", "n"), record(token="other")], refuse)
    assert [item.token for item in store.select(earlier=True)] == ["t"]


def test_one_taker_gets_an_open_submission(another: Opener) -> None:
    first, second = another(), another()
    first.claim([record(owner="gone", leased=1.0)], never)
    seen, late = first.select()[0], second.select()[0]
    assert first.take_over([seen], "me", 5.0) == [seen]
    assert (seen.owner, seen.leased, seen.phase) == ("me", 5.0, Phase.SUBMITTING)
    assert second.take_over([late], "him", 6.0) == []
    assert late.owner == "me"
    ended = record("k2", "t2", owner="gone", task=Task(Status.CANCELLED))
    first.claim([ended], never)
    assert second.take_over([ended], "him", 6.0) == []
    assert second.take_over([record("k3", "nowhere")], "him", 6.0) == []


def test_an_epilogue_begins_once(another: Opener) -> None:
    first, second = another(), another()
    first.claim([record(epilogue=ONCE_DUE)], never)
    mine, his = first.select()[0], second.select()[0]
    assert first.begin(mine, "epilogue")
    assert not second.begin(his, "epilogue")
    assert not first.begin(mine, "prologue")


def test_notes_and_polls_are_shared(another: Opener) -> None:
    first, second = another(), another()
    first.note("beat:a", Note(5.0))
    first.note("beat:b", Note(6.0, 1.5))
    first.note("other", Note(7.0))
    assert second.notes("beat:") == {"beat:a": Note(5.0), "beat:b": Note(6.0, 1.5)}
    second.note("beat:a", None)
    assert first.notes("beat:") == {"beat:b": Note(6.0, 1.5)}
    assert first.begin_poll("p", 10.0, 100.0) is None
    first.note("poll:p", Note(100.0, 42.0))
    assert second.begin_poll("p", 10.0, 105.0) == Note(100.0, 42.0)
    assert second.begin_poll("p", 10.0, 111.0) is None
    assert first.begin_poll("p", 10.0, 112.0) == Note(111.0, 42.0)
    assert first.begin_poll("p", 10.0, 50.0) is None, (
        "a clock that went back does not stop the questions"
    )
    assert first.begin_poll("q", 10.0, 50.0) is None


def test_deleting(store: Store) -> None:
    store.claim(
        [record(token="a", created=1.0), record("k2", "b", created=1.0)], never
    )
    store.discard(store.select()[:1])
    assert [item.token for item in store.select(earlier=True)] == ["b"]


def test_records_are_put_in_as_they_are(store: Store) -> None:
    old, new = (
        record(token="old", created=1.0, task=Task(Status.FAILED)),
        record(token="new", created=2.0),
    )
    assert store.import_records([old, new, record("k2", "c", created=3.0)]) == 3
    assert store.import_records([old]) == 0
    assert [item.token for item in store.select()] == ["new", "c"]
    assert store.by_keys(["k"])["k"].token == "new"


def test_values_survive_whatever_they_hold(store: Store) -> None:
    made = record()
    made.task.words = "per cent % and ? and 'quotes' \" \u00fc \U0001f600 \n{}"
    store.claim([made], never)
    assert store.select()[0].task.words == made.task.words
    assert store.named("%") == store.named("?") == []


def _race(url: str, number: int, results: multiprocessing.Queue[list[str]]) -> None:
    made = [record(f"k{key}", f"{number}-{key}") for key in range(50)]
    results.put(
        [winner.token for winner in open_store(url).claim(made, never) if winner]
    )


def test_processes_that_claim_at_once_agree(url: str) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[list[str]] = context.Queue()
    racers = [
        context.Process(target=_race, args=(url, number, results))
        for number in range(4)
    ]
    for racer in racers:
        racer.start()
    answers = [results.get(timeout=30) for _ in racers]
    for racer in racers:
        racer.join()
    assert len(answers[0]) == 50
    assert all(answer == answers[0] for answer in answers)


def test_threads_may_share_it(store: Store) -> None:
    def work(number: int) -> None:
        made = [record(f"{number}-{key}", f"{number}-{key}") for key in range(20)]
        store.claim(made, never)
        store.update(made, put(Status.COMPLETED))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [item.status for item in store.select()] == [Status.COMPLETED] * 80


def test_it_is_healthy(store: Store) -> None:
    store.claim([record(), record("k2", "t2")], never)
    report = store.examine()
    assert (report.broken, report.damaged) == ("", [])
    assert report.facts["records"] == "2"
    assert report.facts["version"] == str(VERSION)


def test_a_store_that_was_closed_opens_again(store: Store) -> None:
    store.claim([record()], never)
    store.close()
    assert len(store.select()) == 1


def _damage(store: Store, token: str) -> None:
    """Write half a record, as a broken disk would leave it."""
    from clusterjob.store.json_files import FileStore
    from clusterjob.store.sql import SqlStore

    if isinstance(store, SqlStore):
        with store._transaction() as connection:
            connection.execute(
                "UPDATE records SET data = substr(data, 1, 40) WHERE token = ?",
                (token,),
            )
    else:
        assert isinstance(store, FileStore)
        path = store._path(token)
        path.write_text(path.read_text().replace('"state"', '"stale"'))


def test_a_damaged_record_harms_only_itself(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.claim(
        [record("k1", "t1"), record("k2", "t2"), record("k3", "t3", created=9.0)],
        never,
    )
    _damage(store, "t2")
    for _ in range(2):
        assert [item.token for item in store.select()] == ["t1", "t3"]
    assert caplog.text.count("the record t2 (job 'n'") == 1
    winners = store.claim(
        [record("k1", "new1"), record("k2", "new2"), record("k4", "new4")],
        lambda old, new: True,
    )
    assert [winner and winner.token for winner in winners] == ["new1", None, "new4"]
    damaged = store.examine().damaged
    assert [(item.token, item.key) for item in damaged] == [("t2", "k2")]
    assert store.quarantine(damaged[0])
    assert store.examine().damaged == []
    assert [
        winner and winner.token
        for winner in store.claim([record("k2", "new2")], never)
    ] == ["new2"]


@pytest.mark.parametrize("length", [0, 20, 100])
def test_a_record_cut_short_is_not_submitted_again(
    tmp_path: Path, length: int
) -> None:
    from clusterjob.store.json_files import FileStore

    store = FileStore(tmp_path / "store")
    store.claim([record("k1", "t1"), record("k2", "t2")], never)
    path = store._path("t2")
    path.write_text(path.read_text()[:length])
    claims = [record("k1", "new1"), record("k2", "new2"), record("k3", "new3")]
    winners = [winner and winner.token for winner in store.claim(claims, never)]
    # where the key was lost too, any new job may be the one
    assert winners == ["t1", None, "new3" if length else None]
    assert store.quarantine(store.examine().damaged[0])
    assert store.claim([record("k3", "new3")], never)[0] is not None


def test_what_cannot_be_reached_is_one_clear_error(tmp_path: object) -> None:
    (file := __import__("pathlib").Path("file")).touch()
    for url in (
        "file/below",
        f"file://{file.absolute()}/below",
        "postgresql:///x?host=/nowhere",
        "mysql://x",
    ):
        with pytest.raises(StoreError) as caught:
            open_store(url).select()
        assert "store" in str(caught.value)


def test_campaigns_are_copied_too(store: Store, tmp_path: Path) -> None:
    from clusterjob.admin import copy_records
    from clusterjob.store.json_files import FileStore

    store.claim([record()], never)
    store.change_campaign("kept", lambda known: {"open": ["step"]})
    target = FileStore(tmp_path / "copy")
    target.change_campaign("mine", lambda known: {"open": []})
    copy_records(store, target)
    assert target.campaigns() == {"kept": {"open": ["step"]}, "mine": {"open": []}}
