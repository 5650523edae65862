"""The approval rule, shared by Airflow's approval task, `make` and the commands that we print.

It is decided before the target is taken. A rejected run ends without a write.
"""

from collections.abc import Collection

from accession.errors import RefusedError

LOCAL_ENVIRONMENTS = ("local", "dev")  # in which make runs without a word; a deployment of Airflow names its own


def needs_approval(
    approval: str = "auto",
    *,
    is_exempt: bool,
    is_scheduled: bool = False,
    is_dry_run: bool = False,
    writes: int | None = None,
) -> bool:
    """Return whether a person must approve the run before it writes.

    A person is asked unless a schedule started the run or its environment is exempt, and then too if the param says
    `always`. Nobody is asked about a dry run, or about a plan without `writes`; leave `writes` out if there is no plan
    or if the run changes more than the tables, as an undo or a seal does. Raises RefusedError if the param says `never`
    where a person must be asked.
    """
    if is_dry_run or writes == 0:
        return False
    is_asked = not (is_exempt or is_scheduled)
    if is_asked and approval == "never":
        raise RefusedError(
            "Param approval: this deployment asks a person about runs in this environment, so it cannot be never. "
            "Leave it out."
        )
    return is_asked or approval == "always"


def stops_make(environment: str, approval: str = "auto") -> bool:
    """Tell whether `make` refuses to start a run because a person should approve its plan, which needs a UI.

    The person who calls make can approve in advance with `never`.
    """
    return approval == "always" or (approval == "auto" and environment not in LOCAL_ENVIRONMENTS)


def explain_answer(
    person: dict[str, str] | None, triggered_by: str | None, approvers: Collection[str], *, four_eyes: bool
) -> str | None:
    """Return why an approval does not count, or None if it does.

    `person` has the id and the name of who approved, `triggered_by` is the name of who triggered the run, if anybody.
    """
    if person is None:
        return "Nobody is known to have approved this run: trigger it again."
    if approvers and person.get("id") not in approvers:
        return f"{person.get('name')} is not among the approvers of this deployment, so nothing is written."
    if four_eyes and triggered_by is not None and triggered_by in (person.get("id"), person.get("name")):
        return f"{triggered_by} triggered this run, and another person must approve it: nothing is written."
    return None
