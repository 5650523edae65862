"""Collations that only the application has, such as Anki's unicase: SQLite cannot compare by them here.

Without a function of that name, SQLite does not even count or scan what is ordered by it. So a stand-in is registered.
It does not know the order, hence nothing may rest on it: each use is noted in `compared`, and staging copies the tables
whose schema names such a collation, in which everything then compares byte by byte.
"""

import logging
import re
import sqlite3
from collections.abc import Iterable, Iterator

from accession.errors import SourceError

log = logging.getLogger(__name__)

MOST_FINDINGS = 2**31 - 1  # of a check, which ends at the first that is no false alarm
KNOWN = {"binary", "nocase", "rtrim"}  # SQLite's own
# Texts, names and comments are matched too, so that no COLLATE is found inside them.
PIECE = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\[[^]]*\]|`[^`]*`|--[^\n]*|/\*.*?\*/
    |\bCOLLATE\s+(?:"(?P<double>[^"]+)"|\[(?P<square>[^]]+)\]|`(?P<tick>[^`]+)`|'(?P<single>[^']+)'|(?P<bare>\w+))""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
# Of tables WITHOUT ROWID, with the query that looks for a NULL: by `typeof`, since SQLite does not even look otherwise.
NOT_NULL_COLUMNS = """
SELECT t.name, c.name,
    printf('SELECT EXISTS (SELECT 1 FROM main."%w" t WHERE typeof(t."%w") = ''null'')', t.name, c.name)
FROM pragma_table_list t JOIN pragma_table_info(t.name) c WHERE t.schema = 'main' AND t.wr AND c."notnull"
"""


class SourceConnection(sqlite3.Connection):
    """A connection to a source or a snapshot. `register_collations` must be called before it is queried.

    `unknown` has the collations that only the application has, `compared` those by which anything was compared.
    """

    unknown: frozenset[str] = frozenset()
    affected: frozenset[str] = frozenset()

    def register_collations(self) -> None:
        """Register a stand-in for each collation that the schema names and SQLite does not know."""
        self.compared: set[str] = set()
        self.text_factory = lambda data: data.decode(errors="replace")  # a schema may have any bytes in a comment
        schema = self.execute("SELECT type, tbl_name, sql FROM main.sqlite_schema WHERE sql IS NOT NULL").fetchall()
        self.text_factory = str
        named = [(kind, table.lower(), find_collations(sql) - KNOWN) for kind, table, sql in schema]
        self.unknown = frozenset().union(*(names for _, _, names in named))
        for name in self.unknown:
            self._register(name)
        if self.unknown:  # a view may read from any table
            self.affected = frozenset(table for kind, table, names in named if names or kind == "view")

    def _register(self, name: str) -> None:
        compared = self.compared

        def compare(one: str, other: str) -> int:
            compared.add(name)
            return (one > other) - (one < other)

        self.create_collation(name, compare)

    def find_damage(self, check: str) -> str | None:
        """Return the first finding of `quick_check` or `integrity_check`, or None.

        An index that is ordered by a collation which only the application has is checked page by page, but not whether
        it agrees with its table. The same goes for the indexes of a table one of which needs a function of that kind.
        """
        if not self.unknown:
            try:
                return next(self._run_check(check), None)
            except sqlite3.OperationalError as error:
                if not _lacks_function(error):
                    raise
        self.execute("PRAGMA ignore_check_constraints = ON")  # they may compare by what only the application has
        unordered = tuple(f"primary key order for {table}" for table in self.affected)
        found = (one for one in self._run_check("quick_check") if not one.lower().endswith(unordered))
        if (first := next(found, None)) is not None or check == "quick_check":
            return first
        self.execute("PRAGMA ignore_check_constraints = OFF")
        tables = [name for (name,) in self.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table'")]
        checks = (self._check_table(table) for table in tables if table.lower() not in self.affected)
        return next(self._filter_findings(one for rows in checks for one in rows), None)

    def _check_table(self, table: str) -> Iterator[str]:
        try:
            for (found,) in self.execute("SELECT integrity_check FROM main.pragma_integrity_check(?)", (table,)):
                yield found
        except sqlite3.OperationalError as error:
            if not _lacks_function(error):
                raise
            log.warning("The indexes of %s cannot be checked: %s, which only the application has", table, error)

    def _run_check(self, check: str) -> Iterator[str]:
        return self._filter_findings(found for (found,) in self.execute(f"PRAGMA {check}({MOST_FINDINGS})"))

    def _filter_findings(self, findings: Iterable[str]) -> Iterator[str]:
        """Leave out false alarms: SQLite 3.40 finds a NULL in each row of a table WITHOUT ROWID in which a column that
        is NOT NULL stands before the key."""
        false: set[str] | None = None
        for found in findings:
            if found.startswith("NULL value in ") and false is None:
                false = set(self._list_false_alarms())
            if found != "ok" and (false is None or found not in false):
                yield found

    def _list_false_alarms(self) -> Iterator[str]:
        for table, column, query in self.execute(NOT_NULL_COLUMNS).fetchall():
            if not self.execute(query).fetchone()[0]:
                yield f"NULL value in {table}.{column}"

    def expect_uncompared(self, where: str) -> None:
        """Raise SourceError if anything was compared by a collation that only the application has."""
        if self.compared:
            raise SourceError(
                f"{where} compares by the collation {', '.join(sorted(self.compared))}, which only the application "
                "has: write COLLATE BINARY or COLLATE NOCASE behind the column there, or leave the comparison out."
            )


def _lacks_function(error: sqlite3.OperationalError) -> bool:
    """Tell whether a check of an index needs a function that only the application has."""
    return "function: " in str(error)  # "no such" or "unknown"


def find_collations(sql: str) -> set[str]:
    """Return the collations that a statement of the schema names, in lower case."""
    return {name.lower() for match in PIECE.finditer(sql) for name in match.groups() if name}
