"""The attacks that tests/dags/test_attacks.py tries, and the sentence that ends each: the table in SECURITY.md."""

ATTACKS = {
    "foreign_file": (
        "Read a SQLite file elsewhere on the worker, such as Airflow's own database",
        "Param source: this deployment does not allow",
    ),
    "dots": ("Leave the folder of the source by `..`", "Param source: this deployment does not allow"),
    "symlink": (
        "Name a symlink in the folder of the source that leads out of it",
        "Param source: this deployment does not allow",
    ),
    "swapped_link": (
        "Turn the symlink round once the params are checked",
        "Param source: this deployment does not allow",
    ),
    "s3_prefix": (
        "Name a bucket or prefix on S3 that begins like an allowed one",
        "Param source: this deployment does not allow",
    ),
    "foreign_bucket": (
        "Send backup and change set to a bucket of one's own",
        "Param bucket: this deployment does not allow",
    ),
    "odd_bucket": ("Name a bucket with percent signs, dots or `*`", "Param bucket: must be the name of a bucket"),
    "foreign_environment": (
        "Write to the environment of another team, if `allowed_environments` is set",
        "Param environment: this deployment does not allow other-team",
    ),
    "code_execution": (
        "Restore a backup that is a ZIP as well into the DAGs folder, so that Airflow runs it",
        "Param restore_to: this deployment does not allow",
    ),
    "foreign_restore": (
        "Restore a backup over another object, such as the state of a target",
        "Param restore_to: this deployment does not allow",
    ),
    "overwritten_file": (
        "Restore a backup over a file that is not a database, where restores are allowed",
        "is not a SQLite database, so no backup is put in its place",
    ),
    "overwritten_object": (
        "The same on S3",
        "is not a SQLite database, so no backup is put in its place",
    ),
    "planted_wal": (
        "Restore a backup as the `-wal` or `-journal` of another database",
        "Param restore_to: this deployment does not allow",
    ),
    "forged_manifest": (
        "Change the manifest in the bucket, so that a file among the DAGs was the source of the run",
        "Param restore_to: this deployment does not allow",
    ),
    "no_path": ("Give `true` or a number as a path", "Param restore_to: must be text"),
    "unasked": (
        "Write to prod unasked: materialise the asset, trigger by an operator, backfill",
        "Nobody has approved run",
    ),
    "never": ("Set `approval` to `never`", "so it cannot be never"),
    "marked_success": (
        "Mark the task `approve` as successful, or clear the tasks before it so that another plan is written",
        "Nobody has approved run",
    ),
    "self_approval": (
        "Approve one's own run, if `four_eyes` is set",
        "mallory triggered this run, and another person must approve it",
    ),
    "wrong_approver": (
        "Approve without being among the `approvers`",
        "bob is not among the approvers of this deployment",
    ),
    "own_approver": (
        "Trigger a run as its only approver, if `four_eyes` is set",
        "mallory triggered this run and is its only approver",
    ),
    "no_answer": (
        "Leave a question open, so that others wait",
        "Rejected by the time-out, since nobody answered. Nothing was written.",
    ),
    "unsealed": (
        "Unseal a target in a run that nobody approves, so that the next scheduled run writes",
        "Nobody has approved run",
    ),
    "second_run": (
        "Stage two runs of a target at once, and write the second over the first",
        "came since: nothing was written. Trigger a new run.",
    ),
    "app_url": (
        "Request an address of the worker's network, or one that begins like an allowed one",
        "Param app_url: this deployment does not allow",
    ),
    "foreign_resume": (
        "Resume a run whose manifest was changed to name a foreign bucket or URL",
        "this deployment does not allow",
    ),
    "other_manifest": ("Put the manifest of another environment into the bucket", "is of another run or target"),
    "gzip_bomb": (
        "Put a part into the bucket that unpacks to a line of a gigabyte",
        "is damaged: a line has more than",
    ),
}
ENDS = {name: end for name, (_, end) in ATTACKS.items()}


def write_table() -> list[str]:
    """Return the lines of the table in SECURITY.md."""
    rows = [f"| {attack} | … {end}{'' if end.endswith('.') else ' …'} |" for attack, end in ATTACKS.values()]
    return ["| attack | ends with |", "| --- | --- |", *rows]
