"""An application whose sessions are found by their tokens: who knows one is logged in, so the keys are secret."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

from accession.mapping import Mapping, load_mapping
from conftest import Library
from tables import create_tables

SCHEMA = """
CREATE TABLE session (token TEXT PRIMARY KEY, user TEXT, expires);
CREATE TABLE visit (token TEXT, nr INTEGER, page TEXT, PRIMARY KEY (token, nr));
CREATE TABLE lock (token TEXT PRIMARY KEY, held INTEGER);
CREATE TABLE event (id INTEGER PRIMARY KEY, token TEXT, copy TEXT, what TEXT);
"""
MAPPING = """
name: sessions
entities:
  session:
    source: {table: session, key: token}
    target: {table: "Sessions-{environment}", key: {token: keep}}
    attributes:
      user: {column: user, type: string}
      expires: {column: expires, type: number}
      link: {value: "/in?{token}", type: string}
    indexes: {by-user: [user]}
    secret: true
  visit:
    source: {table: visit, key: [token, nr]}
    target: {table: "Visits-{environment}", key: {pk: "S#{@session}", nr: keep}}
    attributes:
      session: {column: token, references: session}
      nr: {column: nr, type: number}
      page: {column: page, type: string}
    secret: true
  lock:
    source: {table: lock, key: token}
    target: {table: "Locks-{environment}", key: lock_id}
    attributes: {held: {column: held, type: number}}
    secret: true
  event:
    source: {table: event, key: id}
    target: {table: "Events-{environment}", key: {id: keep}}
    attributes:
      session: {column: token, references: session}
      lock: {column: copy, references: lock, optional: true}
      what: {column: what, type: string}
      title: {value: "{what} in {@session}", type: string}
"""
SECRET = re.compile(r"tok-|[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-")  # a token, or an id that was made of one
TOKENS = [f"tok-{letter}" for letter in "abcdefghijkl"]


def write_sessions(folder: Path, library: Library) -> tuple[Path, Mapping]:
    """Write a source and `sessions.yaml`, and create the tables. Two sessions are invalid, and four rows of others."""
    source, file = folder / "site.db", folder / "sessions.yaml"
    with closing(sqlite3.connect(source)) as db, db:
        db.executescript(SCHEMA)
        for n, token in enumerate(TOKENS):
            db.execute("INSERT INTO session VALUES (?, ?, ?)", (token, f"user{n}", "soon" if n == 7 else n))
            db.execute("INSERT INTO visit VALUES (?, 1, 'a')", (token,))
            db.execute("INSERT INTO lock VALUES (?, ?)", (token, n))
            db.execute("INSERT INTO event VALUES (?, ?, ?, 'in')", (n, token, token))
        db.execute("INSERT INTO event VALUES (99, 'tok-gone', NULL, 'out')")
        db.execute("INSERT INTO session VALUES ('tok-' || char(0xD800), 'x', 1)")
    file.write_text(MAPPING)
    mapping = load_mapping(file)
    create_tables(library.aws.client("dynamodb"), mapping, source, library.environment)
    return source, mapping
