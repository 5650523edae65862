"""The keys of a table whose rows can take over keys: which row had a key in the last run, and which has it now."""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import Self

from accession.artifacts import open_id_map
from accession.items import ItemKey
from accession.run.match import Recorded
from accession.run.source_rows import SourceRows
from accession.run.survey import Survey

FIELDS = ", ".join(Recorded._fields)


class TableKeys:
    """The keys of the table that these entities of a group share. Files are open until the `with` block ends.

    Without a survey there is one entity, and no two of its rows can have one key: a row can only go back to a key that
    it had before, and whose item was kept.
    """

    def __init__(self, survey: Survey | None, members: Sequence[SourceRows]) -> None:
        self._survey = survey
        self.members = tuple(rows.entity.name for rows in members)
        self.can_collide = len(members) > 1 or not all(rows.entity.has_unique_key for rows in members)
        self._can_take = self.can_collide or not all(rows.entity.has_fixed_key for rows in members)
        self._taken: set[ItemKey] = set()  # without a survey
        with ExitStack() as opening:
            self._heads = [opening.enter_context(closing(open_id_map(rows.head))) for rows in members if rows.head]
            self._files = opening.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def find_former(self, key: ItemKey) -> Recorded | None:
        """Return the head's record of a key that another row has now; None if no row had it.

        The survey rejects every row whose key another one still has, so the former row has given it up.
        """
        if not self._can_take:
            return None
        query = f"SELECT {FIELDS} FROM id_map WHERE new_id = ? AND state != 'tombstone'"
        found = (head.execute(query, (key,)).fetchone() for head in self._heads)
        former = next((Recorded(*record) for record in found if record is not None), None)
        if former is not None and self._survey is None:
            self._taken.add(key)
        return former

    def find_taker(self, key: ItemKey) -> str | None:
        """Return the entity of the row that has a key in this run; None if there is none.

        Without a survey this is known when all rows are staged.
        """
        if not self._can_take:
            return None
        if self._survey is None:
            return self.members[0] if key in self._taken else None
        return next((member for member in self.members if self._survey.has_key(member, key)), None)


def open_keys(survey: Survey, members: Sequence[SourceRows], files: ExitStack) -> dict[str, TableKeys]:
    """Return the keys of each table of a group, by its name. They are open until `files` are closed."""
    tables = {rows.table.name: [other for other in members if other.table == rows.table] for rows in members}
    return {name: files.enter_context(TableKeys(survey, sharing)) for name, sharing in tables.items()}
