"""Survey the rows of a group, whose entities are staged together."""

from collections.abc import Iterable, Iterator

from accession.items import Reject
from accession.progress import Progress
from accession.run.source_rows import SourceRows
from accession.run.survey import Survey, Surveyed
from accession.run.table_keys import TableKeys


def survey_rows(survey: Survey, members: list[SourceRows], tables: Iterable[TableKeys]) -> None:
    """Find the keys and the rejects of all rows of a group."""
    for rows in members:
        survey.create_map(rows.entity.name, rows.query.find_key_affinities())
    unknown = set(survey.members)
    for rows in members:
        survey.add(rows.entity.name, _survey(rows, frozenset(unknown)))
        unknown.remove(rows.entity.name)
    for keys in tables:
        if keys.can_collide:
            survey.reject_collisions(keys.members)
    for rows in members:
        for name, _ in rows.list_links():
            orphans = (link.old_key for link in rows.read_links(name) if link.parent_key is None)
            survey.reject(rows.entity.name, orphans)
    spread_rejects(survey, members)


def _survey(rows: SourceRows, unknown: frozenset[str]) -> Iterator[Surveyed]:
    progress = Progress(f"survey {rows.entity.name}", rows.count, "rows")
    for row in rows.read(guessed=unknown):
        held = row.held.new_id if row.held is not None else None
        try:
            entry = rows.make(row).entry
            yield Surveyed(entry.old_key, entry.new_id, held, is_valid=True)
        except Reject:
            yield Surveyed(row.old_key, held, held, is_valid=False)
        progress.add(1)
    progress.finish()


def spread_rejects(survey: Survey, members: list[SourceRows]) -> None:
    """Reject the rows of a group that refer to rejected ones."""
    if survey.has_removed:
        for rows in members:
            for name, parent in rows.list_links():
                survey.add_links(rows.entity.name, parent, rows.read_links(name))
        survey.spread()
