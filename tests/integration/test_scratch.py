import sqlite3
from contextlib import closing
import pytest
from accession.mapping import load_mapping
from driver import Driver
from tables import create_tables, edit, later, read, scan_all, select

def make(library, tmp_path, schema, entities):
    source, mapping = tmp_path / "w.db", tmp_path / "w.yaml"
    with closing(sqlite3.connect(source)) as db, db:
        db.executescript(schema)
    mapping.write_text("name: w\nentities:\n" + entities)
    loaded = load_mapping(mapping)
    create_tables(library.aws.client("dynamodb"), loaded, source, library.environment)
    return Driver(library, source, mapping=loaded, max_rejects=99)

ACC = ("CREATE TABLE account (id INTEGER PRIMARY KEY, email TEXT, up INTEGER); INSERT INTO account VALUES (1,'a',1),(2,'b',2),(3,'c',3);",
"""  account:
    source: {table: account, key: id}
    target: {table: "Accounts-{environment}", key: {pk: "A#{email}"}}
    attributes:
      up: {column: up, references: account, optional: true}
""")

def test_s1(library, tmp_path):
    d = make(library, tmp_path, ACC[0], ACC[1])
    d.run()
    edit(d, "UPDATE account SET email='b' WHERE id=1; INSERT INTO account VALUES (4,'a',NULL); ")
    s = later(d, max_rejects=9)
    r = s.run()
    assert set(s.rejects("account")) == {1, 4}
    assert r.status == "unchanged"

def test_s2(library, tmp_path):
    d = make(library, tmp_path, ACC[0], ACC[1])
    d.run()
    edit(d, "UPDATE account SET email='z', up=99 WHERE id=1; UPDATE account SET email='a' WHERE id=2; UPDATE account SET email='b', up=NULL WHERE id=3")
    s = later(d, max_rejects=9)
    s.run()
    assert set(s.rejects("account")) == {1, 2, 3}

def test_s3(library, tmp_path):
    d = make(library, tmp_path, """CREATE TABLE p (id INTEGER PRIMARY KEY, email TEXT, c INTEGER); CREATE TABLE c (id INTEGER PRIMARY KEY, p INTEGER, t TEXT);
    INSERT INTO p VALUES (1,'a',1),(2,'b',NULL); INSERT INTO c VALUES (1,1,'x'),(2,2,'y');""", """  p:
    source: {table: p, key: id}
    target: {table: "P-{environment}", key: {pk: "A#{email}"}}
    attributes:
      c: {column: c, references: {entity: c, part: sk}, optional: true}
  c:
    source: {table: c, key: id}
    target: {table: "C-{environment}", key: {pk: "{@p}", sk: "K#{t}"}}
    attributes:
      p: {column: p, references: p}
""")
    d.run()
    # p 1 wants b, is held at a. c 1 stays at A#a; a new child of 2 has the key that c 1 would have had with b
    edit(d, "UPDATE p SET email='b' WHERE id=1; INSERT INTO c VALUES (3,2,'x'); INSERT INTO c VALUES (4,1,'x')")
    s = later(d, max_rejects=9)
    s.run()
    assert set(s.rejects("p")) == {1}
    assert set(s.rejects("c")) == {1, 3, 4}
    assert set(read(s, "c", "pk", "sk")) == {("A#a", "K#x"), ("A#b", "K#y")}

def test_s4(library, tmp_path):
    d = make(library, tmp_path, "CREATE TABLE t (id INTEGER PRIMARY KEY, s TEXT); INSERT INTO t VALUES (1,'x'),(2,'y');", """  t:
    source: {table: t, key: id}
    target: {table: "T-{environment}", key: {pk: "{id}", sk: "S#{s}"}}
""")
    d.run()
    edit(d, "UPDATE t SET s='z' WHERE id=1")
    later(d, deletes="keep").run()
    edit(d, "UPDATE t SET s='x' WHERE id=1")
    s = later(d, deletes="keep")
    s.run()
    assert set(read(s, "t", "pk", "sk")) == {("1", "S#x"), ("1", "S#z"), ("2", "S#y")}
    s = later(d)
    s.run()
    assert set(read(s, "t", "pk", "sk")) == {("1", "S#x"), ("2", "S#y")}

def test_s5(library, tmp_path):
    d = make(library, tmp_path, "CREATE TABLE t (id INTEGER PRIMARY KEY, s TEXT); INSERT INTO t VALUES (1,'x'),(2,'y');", """  t:
    source: {table: t, key: id}
    target: {table: "T-{environment}", key: {pk: "S#{s}", sk: new_id}}
    attributes:
      s: {column: s, type: string}
""")
    d.run()
    edit(d, "UPDATE t SET s='z' WHERE id=1")
    s = later(d)
    s.run()
    assert sorted(pk for pk, _ in read(s, "t", "pk", "sk")) == ["S#y", "S#z"]
