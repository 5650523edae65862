"""Who has to approve a run: the one rule, for Airflow's approval task, for make and for the commands we print.

It is decided before the target is taken. A rejected run ends without a write.
"""

LOCAL_ENVIRONMENTS = ("local", "dev")  # `auto` never asks a person here


def needs_approval(
    environment: str,
    approval: str = "auto",
    *,
    is_manual: bool = True,
    is_dry_run: bool = False,
    is_resume: bool = False,
    writes: int | None = None,
) -> bool:
    """Return whether a person must approve the run before it writes.

    `always` asks, `never` does not, `auto` asks if a person triggered the run (`is_manual`) in an environment that is
    not local. Whatever the param says, nobody is asked about a dry run, about a resume (the run was approved before),
    or about a plan without `writes`. Leave `writes` out if there is no plan, as in an undo.
    """
    if is_dry_run or is_resume or writes == 0:
        return False
    return approval == "always" or (approval == "auto" and is_manual and environment not in LOCAL_ENVIRONMENTS)
