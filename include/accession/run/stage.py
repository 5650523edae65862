"""Stage: read the snapshot, make and check every item, compare it with the head, and write ID map and change set.

From the second run on, items that are about to be changed or created are read from the target with strong consistency.
An item that is found there is the before image, or a conflict.

The entities of a group are staged together, by the task of its first one, after a survey of all their rows.
"""

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Self

from accession.artifacts import (
    Counts,
    Part,
    PartWriter,
    RunFolder,
    StagedEntity,
    compare_rejects,
    copy_tombstones,
    create_id_map,
    finish_id_map,
    has_changed,
    open_id_map,
    sample_keys,
)
from accession.digest import hash_file
from accession.errors import RefusedError
from accession.items import Reject, RowKey, is_same_thing
from accession.progress import Progress
from accession.run.context import RunContext
from accession.run.group import spread_rejects, survey_rows
from accession.run.inputs import fetch_inputs
from accession.run.match import Recorded
from accession.run.reconcile import Reconciler
from accession.run.source_rows import SourceRows
from accession.run.survey import Survey
from accession.run.table_keys import TableKeys, open_keys
from accession.source import explaining, open_snapshot
from accession.target import load_state

SAMPLED_KEYS = 100  # of each entity; a later run that finds no change in the source looks their items up


def stage_entity(run: RunContext, name: str, id_maps: Mapping[str, str]) -> StagedEntity:
    """Write the ID map and the change set of one entity, and of its whole group. `id_maps` has the S3 address of the
    map of each parent outside the group.

    Safe to repeat: the result of an earlier attempt is used again. Nothing is written to DynamoDB. Raises RefusedError
    if this run has the target open.
    """
    found = run.folder.find_staged(name)
    if found is not None:
        return found
    state = load_state(run.store)
    if state is not None and state.open is not None and state.open.run == run.name:
        raise RefusedError(f"Run {run.name} has the target open: it cannot be staged again. Resume or undo it.")
    if run.manifest.unchanged and run.head is not None:
        run.store.claim(run.folder.path_of_staged(name), _repeat_head(run.head, name).dump())
        return run.folder.load_staged(name)
    with tempfile.TemporaryDirectory(prefix="accession-") as folder, explaining(run.manifest.source):
        staging = _stage_group if run.mapping.needs_survey(name) else _stage_alone
        # The first of a group comes last: its task is done when all have their results, and else stages all again.
        for staged in reversed(staging(run, name, id_maps, Path(folder))):
            run.store.claim(run.folder.path_of_staged(staged.entity), staged.dump())
    return run.folder.load_staged(name)


def _repeat_head(head: RunFolder, name: str) -> StagedEntity:
    """Return the result of staging if nothing changed since the head: no parts, and the ID map of the head."""
    now = head.store.host.timestamp()
    staged = head.load_staged(name)
    samples, outdated = staged.samples, staged.counts.outdated
    if samples is None:  # staged by version 0.1.0
        with tempfile.TemporaryDirectory(prefix="accession-") as folder:
            file = head.store.download(head.store.path(staged.id_map), Path(folder, "id_map.db"), staged.id_map_sha256)
            with closing(open_id_map(file)) as id_map:
                samples = sample_keys(id_map, SAMPLED_KEYS)
                [outdated] = id_map.execute("SELECT count(*) FROM rejects WHERE held").fetchone()
    counts, rejects = staged.counts, staged.rejects
    return staged.model_copy(
        update={
            "counts": Counts(
                source_rows=counts.source_rows,
                unchanged=counts.source_rows - counts.rejected,
                rejected=counts.rejected,
                outdated=outdated,
                adjusted=counts.adjusted,
                item_bytes=counts.item_bytes,
            ),
            "records_changed": False,
            "samples": samples,
            "rejects": {"new": 0, "remaining": rejects["new"] + rejects["remaining"], "resolved": 0},
            "parts": [],
            "started_at": now,
            "ended_at": now,
        }
    )


def _stage_alone(run: RunContext, name: str, id_maps: Mapping[str, str], folder: Path) -> list[StagedEntity]:
    """Stage an entity whose parents are all staged. Its parts are uploaded as they are written."""
    inputs = fetch_inputs(run, name, folder, id_maps)
    with SourceRows(inputs, name) as rows, TableKeys(None, [rows]) as keys, _Stager(run, rows, folder, keys) as stager:
        stager.stage()
        return [stager.publish()]


def _stage_group(run: RunContext, name: str, id_maps: Mapping[str, str], folder: Path) -> list[StagedEntity]:
    """Stage the group of an entity. Nothing is uploaded before all of it is staged."""
    group = run.mapping.find_group(name)
    with closing(open_snapshot(run.folder.fetch_backup(run.manifest, folder))) as snapshot:
        encoding = snapshot.execute("PRAGMA encoding").fetchone()[0]
    masks = {member: run.find_mask(member) for member in group}
    with Survey(folder / "survey.db", masks, encoding) as survey, ExitStack() as files:
        inputs = {member: fetch_inputs(run, member, folder, id_maps) for member in group}
        members = [files.enter_context(SourceRows(inputs[member], member, survey)) for member in group]
        keys = open_keys(survey, members, files)
        survey_rows(survey, members, keys.values())
        while True:
            with ExitStack() as attempt:
                stagers = [attempt.enter_context(_Stager(run, rows, folder, keys[rows.table.name])) for rows in members]
                for stager in stagers:
                    stager.stage()
                late = {stager.name: stager.late for stager in stagers if stager.late}
                if not late:
                    return [stager.publish() for stager in stagers]
            # Their items are larger than the survey could know. Each turn rejects at least one row more.
            for member, old_keys in late.items():
                survey.reject(member, old_keys)
            spread_rejects(survey, members, keys.values())


class _Stager:
    """Stage the rows of one entity: write its ID map and its change set. Files are open until the `with` block ends.

    In a group, `late` has the keys of rows that the survey took for valid and that were rejected.
    """

    def __init__(self, run: RunContext, rows: SourceRows, folder: Path, keys: TableKeys) -> None:
        self.rows, self.run, self.name, self.folder = rows, run, rows.entity.name, folder
        self.survey = rows.survey
        self.started = self.run.host.timestamp()
        self.read_units = 0.0
        self.late: list[RowKey] = []
        self.kept: list[tuple[Part, Path]] = []  # the parts of a group, which are uploaded last
        self.map_file = self.folder / f"{self.name}.db"
        with ExitStack() as opening:
            encoding = rows.snapshot.execute("PRAGMA encoding").fetchone()[0]
            affinities = rows.query.find_key_affinities()
            self.id_map = opening.enter_context(closing(create_id_map(self.map_file, affinities, encoding)))
            file, most = self.folder / f"{self.name}.jsonl.gz", self.run.params.rows_per_part
            self.parts = opening.enter_context(PartWriter(file, most, rows.most_lines, self._take_part))
            self.files = opening.pop_all()
        self.reconciler = Reconciler(self.run, rows.builder, self.id_map, self.parts, rows.attributes, rows.table, keys)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.files.close()

    def _take_part(self, part: Part, file: Path) -> None:
        if self.survey is None:
            self.run.store.upload(self.run.folder.path_of_part(self.name, part), file)
        else:
            self.kept.append((part, file.rename(self.folder / f"{self.name}-{part.name}")))

    def stage(self) -> None:
        """Stage all rows, then the records of the head that have no row in the source."""
        units_before = self.run.dynamodb.consumed_read_units
        has_rowid = self.rows.entity.source.has_rowid
        progress = Progress(f"stage {self.name}", self.rows.count, "rows")
        for row in self.rows.read():
            try:
                made = self.rows.make(row)
            except Reject as reject:
                self.reconciler.reject(row.old_key, self.rows.explain(row, reject), row.held)
                if self.survey is not None and not row.repeats and self.survey.is_valid(self.name, row.old_key):
                    self.late.append(row.old_key)
            else:
                if made.adjusted:
                    self.reconciler.counts["adjusted"] += made.adjusted
                if has_rowid and row.recorded is not None:
                    self._count_renumbered(row.recorded, made.entry.identity)
                self.reconciler.add(made.match, made.entry, made.prepared)
            progress.add(1)
        for old_key, recorded, latest in self.rows.read_gone():
            self.reconciler.add_gone(old_key, recorded, latest)
        progress.finish()
        self.rows.snapshot.expect_uncompared(f"entities.{self.name}.source")
        self.reconciler.close()
        self.closed = self.parts.close()
        self.read_units = self.run.dynamodb.consumed_read_units - units_before

    def _count_renumbered(self, recorded: Recorded, identity: bytes) -> None:
        """Count a row whose row id the head has, and whether it is another thing than was recorded for it."""
        if recorded.state != "tombstone":
            self.reconciler.counts["matched"] += 1
            if self.rows.shares_identity and not is_same_thing(recorded.identity, identity):
                self.reconciler.counts["renumbered"] += 1

    def publish(self) -> StagedEntity:
        """Upload the ID map, and the parts that are not uploaded yet. Return the result of staging."""
        rows, head = self.rows, self.rows.head
        if head is not None and rows.entity.new_id is not None:
            copy_tombstones(self.id_map, head)
        samples = sample_keys(self.id_map, SAMPLED_KEYS)
        finish_id_map(self.id_map, rows.table.mask)
        for part, file in self.kept:
            self.run.store.upload(self.run.folder.path_of_part(self.name, part), file)
        digest = hash_file(self.map_file)
        map_path = self.run.folder.path_of_id_map(self.name, digest)
        self.run.store.upload(map_path, self.map_file)
        return StagedEntity(
            entity=self.name,
            table=rows.table.name,
            key=rows.table.key,
            kept=rows.entity.new_id is None,
            counts=Counts(
                source_rows=rows.count,
                read_units=self.read_units,
                **self.reconciler.counts,
            ),
            rejects=compare_rejects(self.map_file, head),
            identity=rows.entity.identity,
            attributes=tuple(sorted(rows.attributes)),
            samples=samples,
            records_changed=any(part.writes for part in self.closed) or has_changed(self.map_file, head),
            id_map=self.run.store.uri(map_path),
            id_map_sha256=digest,
            parts=self.closed,
            started_at=self.started,
            ended_at=self.run.host.timestamp(),
        )
