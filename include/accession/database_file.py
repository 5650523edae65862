"""The files of a SQLite database, as sqlite.org describes them in "Database File Format" and "Temporary Files"."""

MAGIC = b"SQLite format 3\0"  # a database begins with it
SIDE_FILES = ("-wal", "-shm", "-journal")  # SQLite applies them to the database whose name they begin with
LASTING_SIDE_FILES = ("-wal", "-journal")  # a -shm holds nothing that is not in the -wal
