"""What a run leaves on S3: the store, and the model of each stored document."""

from accession.artifacts.change_set import (
    MAX_PARTS,
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
from accession.artifacts.execution import Execution, WriteConflict
from accession.artifacts.id_map import (
    RESOLVING,
    Entry,
    EntryState,
    RejectedRow,
    add_entries,
    add_rejects,
    attach,
    compare_rejects,
    copy_tombstones,
    count_entries,
    create_id_map,
    finish_id_map,
    has_changed,
    list_rejects,
    mark_conflicts,
    open_id_map,
)
from accession.artifacts.manifest import Manifest, SnapshotRef
from accession.artifacts.plan import EntityPlan, Plan
from accession.artifacts.report import GOOD, Amount, EntityReport, Report, Status, Step
from accession.artifacts.rollback import Rollback, Undone
from accession.artifacts.run_folder import RunFolder
from accession.artifacts.s3 import client_config, fetch_object, place_object
from accession.artifacts.store import Changed, Store, list_environments
from accession.artifacts.verification import PROBLEMS, Problem, Verification

__all__ = [
    "GOOD",
    "MAX_PARTS",
    "PROBLEMS",
    "RESOLVING",
    "Amount",
    "Change",
    "Changed",
    "Counts",
    "Document",
    "EntityPlan",
    "EntityReport",
    "Entry",
    "EntryState",
    "Execution",
    "Manifest",
    "Part",
    "PartWriter",
    "Plan",
    "Problem",
    "RejectedRow",
    "Report",
    "Rollback",
    "RunFolder",
    "SnapshotRef",
    "StagedEntity",
    "Status",
    "Step",
    "Store",
    "Undone",
    "Verification",
    "WriteConflict",
    "add_entries",
    "add_rejects",
    "attach",
    "client_config",
    "compare_rejects",
    "copy_tombstones",
    "count_entries",
    "create_id_map",
    "encode_change",
    "encode_put",
    "fetch_object",
    "finish_id_map",
    "has_changed",
    "list_environments",
    "list_rejects",
    "mark_conflicts",
    "open_id_map",
    "place_object",
    "run_path",
    "split_put",
]
