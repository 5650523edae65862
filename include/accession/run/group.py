"""Survey the rows of a group, whose entities are staged together."""

from collections.abc import Collection, Iterator

from accession.items import ItemKey, Reject, RowKey
from accession.progress import Progress
from accession.run.source_rows import SourceRows
from accession.run.survey import Survey, Surveyed
from accession.run.table_keys import TableKeys


def survey_rows(survey: Survey, members: list[SourceRows], tables: Collection[TableKeys]) -> None:
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
    spread_rejects(survey, members, tables)


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


def spread_rejects(survey: Survey, members: list[SourceRows], tables: Collection[TableKeys]) -> None:
    """Reject the rows of a group that refer to rejected ones, or that have the key of an item which a rejected row
    keeps, and so on."""
    sharing = [keys.members for keys in tables if keys.can_collide]
    while True:
        if survey.has_removed:
            for rows in members:
                for name, parent in rows.list_links():
                    survey.add_links(rows.entity.name, parent, rows.read_links(name))
            survey.spread()
        elif _correct_keys(survey, members):
            for names in sharing:
                survey.reject_collisions(names)
        elif survey.has_kept:
            survey.reject_takers(sharing)
        else:
            return


def _correct_keys(survey: Survey, members: list[SourceRows]) -> bool:
    """Find the keys again that are made of the keys of rejected parents, which keep the keys that they had. Return
    whether any of them changed."""
    moved, has_changed = set(survey.moved), False
    survey.moved.clear()
    for rows in members:  # parents before those whose keys are made of theirs
        name, rejected = rows.entity.name, list[RowKey]()
        if moved.intersection(rows.entity.key_parents) and survey.correct(name, _list_keys(survey, rows, rejected)):
            moved.add(name)
            has_changed = True
        survey.reject(name, rejected)
    return has_changed


def _list_keys(survey: Survey, rows: SourceRows, rejected: list[RowKey]) -> Iterator[tuple[RowKey, ItemKey]]:
    """Yield the key of each valid row. Add those that cannot have it to `rejected`."""
    for row in rows.read():
        if survey.is_valid(rows.entity.name, row.old_key):
            try:
                yield row.old_key, rows.make(row).entry.new_id
            except Reject:
                rejected.append(row.old_key)
