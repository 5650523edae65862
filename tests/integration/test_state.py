"""Who owns a target, on a real S3: taken once, refused with the commands that help, fenced, never forked."""

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import boto3
import pytest

from accession.artifacts import Store
from accession.errors import FencedError, RefusedError, StoreError
from accession.host import Host
from accession.target import (
    NO_HASH,
    PATH,
    Fence,
    LogRecord,
    Seal,
    State,
    append_record,
    create_state,
    load_state,
    log_path,
    open_target,
    parse_state,
    reopen_head,
    take_over,
)
from accession.target.ownership import CHECK_SECONDS
from accession.target.state import Open

ONE, TWO = "20260105T120000Z-0000000a", "20260106T120000Z-0000000b"


class Process:
    """One process's view of a target: it has a client of its own, and may die in the middle."""

    def __init__(self, library: Any, store: type[Store] = Store) -> None:
        self.store = store(boto3.client("s3"), library.bucket, "book_library", library.environment)


class Died(BaseException):
    pass


class DyingStore(Store):
    """The process dies when it is about to swap state.json."""

    def swap(self, path: str, data: bytes, etag: str) -> None:
        raise Died(path)


@pytest.fixture
def store(library: Any) -> Store:
    store = Process(library).store
    create_state(store)
    return store


def load(store: Store) -> State:
    state = load_state(store)
    assert state is not None
    return state


def commit(store: Store, run: str, epoch: int) -> LogRecord:
    return append_record(
        store,
        action="run",
        by="ann",
        run=run,
        status="verified",
        note="",
        epoch=epoch,
        change=lambda state: {"head": run, "closed": True},
    )


def read_register(store: Store) -> list[LogRecord]:
    """All records, each proved to follow the one before, and the state to end with the last."""
    records, previous = [], NO_HASH
    for number, path in enumerate(store.list("log/"), start=1):
        data = store.get(path)
        record = LogRecord.model_validate_json(data)
        assert (path, record.sequence, record.previous) == (log_path(number), number, previous)
        previous = hashlib.sha256(data).hexdigest()
        records.append(record)
    assert (load(store).log_tail.sequence, load(store).log_tail.sha256) == (len(records), previous)
    return records


def test_a_target_has_one_namespace_however_many_make_it(library: Any) -> None:
    stores = [Process(library).store for _ in range(8)]
    made: list[State] = []
    threads = [threading.Thread(target=lambda store=store: made.append(create_state(store))) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len({state.namespace for state in made}) == 1
    assert load_state(Store(boto3.client("s3"), library.bucket, "book_library", "other")) is None


def test_a_target_is_taken_by_one_run_and_refused_to_others_with_both_commands(store: Store) -> None:
    assert open_target(store, ONE, None).open == Open(run=ONE, epoch=1)
    assert open_target(store, ONE, None).open == Open(run=ONE, epoch=1)
    with pytest.raises(RefusedError) as refused:
        open_target(store, TWO, None)
    environment = store.environment
    assert f"  make migrate ENVIRONMENT={environment} RESUME={ONE}\n" in str(refused.value)
    undo = f'  make rollback RUN={ONE} ENVIRONMENT={environment} CONF=\'{{"approval": "never"}}\''
    assert str(refused.value).endswith(undo), "outside local and dev it would ask, and nobody could answer"
    assert load(store).open == Open(run=ONE, epoch=1)


def test_of_many_that_want_the_target_at_once_one_gets_it(library: Any, store: Store) -> None:
    won: list[str] = []
    lost: list[str] = []

    def take(run: str) -> None:
        try:
            open_target(Process(library).store, run, None)
            won.append(run)
        except RefusedError:
            lost.append(run)

    runs = [f"20260105T12000{n}Z-0000000a" for n in range(6)]
    threads = [threading.Thread(target=take, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(lost) == 5
    assert load(store).open == Open(run=won[0], epoch=1)


def test_a_run_staged_on_what_is_no_longer_the_head_is_refused(store: Store) -> None:
    open_target(store, ONE, None)
    commit(store, ONE, 1)
    assert load(store).head == ONE
    with pytest.raises(RefusedError, match=f"staged on an empty target, but {ONE} came since: nothing was written"):
        open_target(store, TWO, None)
    assert open_target(store, TWO, ONE).open == Open(run=TWO, epoch=2)


def test_a_sealed_target_is_refused_with_who_when_and_why(store: Store) -> None:
    seal = Seal(reason="cutover", by="carla", at="2026-01-05T12:00:00+00:00")
    append_record(
        store, action="seal", by="carla", status="sealed", note="cutover", change=lambda state: {"sealed": seal}
    )
    takes: list[Callable[[], object]] = [lambda: open_target(store, ONE, None), lambda: reopen_head(store, ONE)]
    for take in takes:
        with pytest.raises(RefusedError, match=r"sealed by carla on 2026-01-05 \(cutover\).*give unseal a reason"):
            take()
    append_record(store, action="unseal", by="ann", status="unsealed", note="x", change=lambda state: {"sealed": None})
    open_target(store, ONE, None)


def test_a_take_over_raises_the_epoch_and_is_for_the_owner_only(store: Store) -> None:
    with pytest.raises(RefusedError, match="nobody owns it"):
        take_over(store, ONE)
    open_target(store, ONE, None)
    assert take_over(store, ONE).open == Open(run=ONE, epoch=2, origin=2)
    assert take_over(store, ONE).open == Open(run=ONE, epoch=3, origin=3)
    with pytest.raises(RefusedError, match=f"run {ONE} owns it"):
        take_over(store, TWO)


def test_an_automatic_rollback_takes_over_only_from_its_own_dag_run(store: Store) -> None:
    opened = open_target(store, ONE, None).open
    assert opened
    assert take_over(store, ONE, origin=1).open == Open(run=ONE, epoch=2, origin=1)
    assert take_over(store, ONE, origin=1).open == Open(run=ONE, epoch=3, origin=1), "its retry"
    resumed = take_over(store, ONE).open
    assert resumed
    with pytest.raises(RefusedError, match="Another resume or undo"):
        take_over(store, ONE, origin=1)
    assert load(store).open == resumed


def test_only_the_newest_run_is_undone_and_the_one_on_top_is_named(store: Store) -> None:
    with pytest.raises(RefusedError, match="nothing is left to undo"):
        reopen_head(store, ONE)
    for run, parent in ((ONE, None), (TWO, ONE)):
        opened = open_target(store, run, parent).open
        assert opened
        commit(store, run, opened.epoch)
    with pytest.raises(RefusedError, match=f"run {TWO} stands on it; undo that one first"):
        reopen_head(store, ONE)
    assert reopen_head(store, TWO).open == Open(run=TWO, epoch=3, origin=3)
    assert reopen_head(store, TWO).open == Open(run=TWO, epoch=4, origin=4)


def test_a_fence_stops_its_writer_within_the_check_interval(store: Store) -> None:
    open_target(store, ONE, None)
    now = [100.0]
    store.host = Host(monotonic=lambda: now[0])
    fence = Fence(store, ONE, 1)
    fence.check()
    take_over(store, ONE)
    now[0] += CHECK_SECONDS - 0.001
    fence.check()  # not yet read again
    now[0] += 0.001
    for _ in range(2):
        with pytest.raises(FencedError, match=f"writer of run {ONE} \\(epoch 1\\) stopped"):
            fence.check()
    Fence(store, ONE, 2).check()


def test_a_fence_counts_from_its_question_not_from_the_answer(store: Store) -> None:
    open_target(store, ONE, None)
    now = [0.0]

    class Slow:
        """A store that answers late, and while it does, the target is taken over."""

        host = Host(monotonic=lambda: now[0])

        def find(self, path: str) -> Any:
            found = store.find(path)
            if now[0] == CHECK_SECONDS and path == "state.json":
                now[0] += 40
                take_over(store, ONE)
            return found

    fence = Fence(Slow(), ONE, 1)  # type: ignore[arg-type]
    fence.check()
    now[0] = CHECK_SECONDS
    with pytest.raises(FencedError):
        fence.check()


def test_a_claim_whose_answer_was_lost_is_ours(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What botocore does then: it sends the request again, and is told that the object is there."""
    put = store.client.put_object
    monkeypatch.setattr(store.client, "put_object", lambda **request: (put(**request), put(**request)))
    assert store.claim("lost", b"mine")
    monkeypatch.undo()
    assert not store.claim("lost", b"another's")
    assert store.get("lost") == b"mine"


def test_a_fence_stops_at_once_when_the_target_is_closed_or_anothers(store: Store) -> None:
    with pytest.raises(FencedError):
        Fence(store, ONE, 1).check()
    open_target(store, TWO, None)
    with pytest.raises(FencedError):
        Fence(store, ONE, 1).check()


def test_a_process_that_dies_between_record_and_state_is_made_good(library: Any, store: Store) -> None:
    open_target(store, ONE, None)
    with pytest.raises(Died):
        commit(Process(library, DyingStore).store, ONE, 1)
    assert b'"sequence":0' in store.get(PATH).replace(b" ", b"")
    state = load(store)
    assert (state.head, state.open, state.log_tail.sequence) == (ONE, None, 1)
    assert load(Process(library).store) == state
    append_record(store, action="unseal", by="ann", status="unsealed", note="")
    assert [record.action for record in read_register(store)] == ["run", "unseal"]


def test_racers_neither_lose_nor_fork_a_record(library: Any, store: Store) -> None:
    def race(name: str) -> None:
        own = Process(library).store
        for number in range(10):
            append_record(own, action="seal", by=name, status="sealed", note=f"{name} {number}")

    threads = [threading.Thread(target=race, args=(name,)) for name in ("ann", "bob", "carla")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    notes = [record.note for record in read_register(store)]
    assert sorted(notes) == sorted(f"{name} {number}" for name in ("ann", "bob", "carla") for number in range(10))
    for name in ("ann", "bob", "carla"):
        assert [note for note in notes if note.startswith(name)] == [f"{name} {number}" for number in range(10)]


def test_a_stale_writer_cannot_commit(store: Store) -> None:
    open_target(store, ONE, None)
    take_over(store, ONE)
    with pytest.raises(FencedError, match="no longer owns the target in epoch 1"):
        commit(store, ONE, 1)
    assert read_register(store) == []
    commit(store, ONE, 2)
    assert load(store).head == ONE


def test_a_commit_from_a_process_that_was_frozen_just_before_it_does_not_count(library: Any, store: Store) -> None:
    """It saw itself as the owner, froze, and wakes while an undo is half-way: the undo keeps the target."""

    class FreezingStore(Store):
        def claim(self, path: str, data: bytes) -> bool:
            take_over(store, ONE)  # what happens while this process is frozen
            return super().claim(path, data)

    open_target(store, ONE, None)
    with pytest.raises(FencedError):
        commit(Process(library, FreezingStore).store, ONE, 1)
    state = load(store)
    assert (state.head, state.open) == (None, Open(run=ONE, epoch=2, origin=2))
    Fence(store, ONE, 2).check()
    commit(store, ONE, 2)
    assert load(store).head == ONE
    assert [record.epoch for record in read_register(store)] == [1, 2]


def test_any_byte_of_the_state_that_is_other_is_seen(store: Store) -> None:
    open_target(store, ONE, None)
    commit(store, ONE, 1)
    open_target(store, TWO, ONE)
    data = store.get(PATH)
    assert parse_state(store, data).head == ONE
    for where in range(len(data)):
        for bit in (1, 32):
            altered = data[:where] + bytes([data[where] ^ bit]) + data[where + 1 :]
            with pytest.raises(StoreError, match="changed by hand"):
                parse_state(store, altered)
    for altered in (b"", data[:-1], data + b"\n", b"{}", data.replace(b"\n", b"\r\n"), b"\xff" + data):
        with pytest.raises(StoreError, match="changed by hand"):
            parse_state(store, altered)


def test_a_damaged_state_stops_everybody(store: Store) -> None:
    open_target(store, ONE, None)
    store.put(PATH, store.get(PATH).replace(b'"epoch": 1', b'"epoch": 7'))
    for act in (
        lambda: load_state(store),
        lambda: open_target(store, ONE, None),
        lambda: commit(store, ONE, 7),
        lambda: Fence(store, ONE, 7).check(),
    ):
        with pytest.raises(StoreError, match="Run make audit"):
            act()


def test_a_record_that_does_not_follow_stops_everybody(store: Store) -> None:
    record = commit_free(store)
    forged = record.model_copy(update={"sequence": 2, "previous": "ab" * 32})
    store.put(log_path(2), forged.dump())
    with pytest.raises(StoreError, match="does not follow the register"):
        load_state(store)


def commit_free(store: Store) -> LogRecord:
    return append_record(store, action="unseal", by="ann", status="unsealed", note="")


def test_a_state_that_was_removed_is_not_made_anew_over_a_register(store: Store) -> None:
    """A new namespace would give every row a new id."""
    commit_free(store)
    store.client.delete_object(Bucket=store.bucket, Key=store.prefix + PATH)
    with pytest.raises(StoreError, match="Run make audit"):
        create_state(store)
