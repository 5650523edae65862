"""The artifacts of a run on S3: the store, and the model of each stored document."""

from accession.artifacts.attempts import Attempt, PartStep, parse_attempts
from accession.artifacts.auditor import auditor_path, place_auditor
from accession.artifacts.change_set import (
    Change,
    Counts,
    Part,
    PartWriter,
    StagedEntity,
    encode_change,
    encode_put,
    split_put,
)
from accession.artifacts.document import Document, run_path
from accession.artifacts.execution import Execution, TableLimit, WriteConflict
from accession.artifacts.id_map import (
    RESOLVING,
    Entry,
    EntryState,
    add_entries,
    attach,
    copy_tombstones,
    count_entries,
    create_id_map,
    declare_keys,
    finish_id_map,
    has_changed,
    mark_conflicts,
    open_id_map,
    sample_keys,
)
from accession.artifacts.manifest import Manifest, SnapshotRef
from accession.artifacts.map_union import gather_id_maps, merge_id_maps
from accession.artifacts.plan import EntityPlan, Plan
from accession.artifacts.rejects import RejectedRow, add_rejects, compare_rejects, list_rejects
from accession.artifacts.report import GOOD, Amount, EntityReport, Report, SourceAtEnd, Status, Step, TableReport
from accession.artifacts.rollback import Rollback, Undone
from accession.artifacts.run_folder import RunFolder
from accession.artifacts.s3 import client_config, fetch_object, peek_object, place_object
from accession.artifacts.store import Changed, Found, Store, list_environments
from accession.artifacts.verification import PROBLEMS, Problem, Verification

__all__ = [
    "GOOD",
    "PROBLEMS",
    "RESOLVING",
    "Amount",
    "Attempt",
    "Change",
    "Changed",
    "Counts",
    "Document",
    "EntityPlan",
    "EntityReport",
    "Entry",
    "EntryState",
    "Execution",
    "Found",
    "Manifest",
    "Part",
    "PartStep",
    "PartWriter",
    "Plan",
    "Problem",
    "RejectedRow",
    "Report",
    "Rollback",
    "RunFolder",
    "SnapshotRef",
    "SourceAtEnd",
    "StagedEntity",
    "Status",
    "Step",
    "Store",
    "TableLimit",
    "TableReport",
    "Undone",
    "Verification",
    "WriteConflict",
    "add_entries",
    "add_rejects",
    "attach",
    "auditor_path",
    "client_config",
    "compare_rejects",
    "copy_tombstones",
    "count_entries",
    "create_id_map",
    "declare_keys",
    "encode_change",
    "encode_put",
    "fetch_object",
    "finish_id_map",
    "gather_id_maps",
    "has_changed",
    "list_environments",
    "list_rejects",
    "mark_conflicts",
    "merge_id_maps",
    "open_id_map",
    "parse_attempts",
    "peek_object",
    "place_auditor",
    "place_object",
    "run_path",
    "sample_keys",
    "split_put",
]
