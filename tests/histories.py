"""Random histories of a target, lived through the steps of real runs, and the folder that a download of it makes."""

import gzip
import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

from accession.artifacts import PartStep
from accession.cli.sample import write_sample
from accession.errors import AccessionError
from accession.params import MigrateParams
from accession.run import Run
from accession.run.attempt import begin_attempt
from accession.target import load_state, unseal_target
from conftest import Library
from driver import BY, Driver, seal_target

KEYS = {"user": "user_id", "book": "book_id", "user_book": "user_book_id"}


class History:
    """One target and its source. `live` chooses what happens, by the seed."""

    def __init__(self, library: Library, folder: Path, seed: int) -> None:
        self.library, self.chance = library, Random(seed)
        self.dynamodb = library.aws.client("dynamodb")
        counts = {name: self.chance.randint(3, 5) for name in ("users", "books", "user_books")}
        self.source = write_sample(folder / "site.db", **counts, orphans=self.chance.randint(0, 2), odd=0)
        self.store = Driver(library, self.source).store
        self.edits = 0

    def live(self) -> list[str]:
        """Live through a few events, and return their names."""
        choices = [
            self.run, self.run_again, self.meet_conflict, self.write_twice, self.resume, self.lose_target,
            self.undo_open, self.undo_head, self.dry_run, self.seal, self.seal_as_before,
        ]  # fmt: skip
        events = [self.run, *self.chance.choices(choices, k=self.chance.randint(0, 4))]
        if self.chance.random() < 0.3:
            events.append(self.chance.choice([self.die_staged, self.die_open]))
        for event in events:
            event()
        return [event.__name__ for event in events]

    def make_driver(self, **params: Any) -> Driver:
        chosen = {
            "on_conflict": self.chance.choice(["keep", "keep", "overwrite"]),
            "deletes": self.chance.choice(["delete", "delete", "keep"]),
            "rows_per_part": self.chance.choice([100, 10000]),
            "max_rejects": 99,
        }
        return Driver(self.library, self.source, **{**chosen, **params})

    def edit_source(self) -> None:
        """Add, edit and delete rows, and use row ids again."""
        self.edits += 1
        statements = [
            f"UPDATE book SET title = 'Title {self.edits}' WHERE id = 1",
            f"UPDATE user SET username = 'user{self.edits}' WHERE id = (SELECT max(id) FROM user)",
            "DELETE FROM user_book WHERE id = (SELECT max(id) FROM user_book)",
            "DELETE FROM user_book WHERE id = (SELECT min(id) FROM user_book)",
            f"INSERT INTO book (title, author, isbn) VALUES ('New {self.edits}', 'A', '97800000{self.edits:05d}')",
            "UPDATE book SET title = NULL WHERE id = 2",
        ]
        with closing(sqlite3.connect(self.source)) as db:
            for statement in self.chance.sample(statements, self.chance.randint(1, 4)):
                try:
                    with db:
                        db.execute(statement)
                except sqlite3.IntegrityError:
                    pass

    def edit_items(self) -> None:
        """Edit, delete or add an item, as the application does."""
        entity = self.chance.choice(list(KEYS))
        items, table = self.library.scan(entity), self.library.tables[entity]
        if not items:
            return
        item = self.chance.choice(sorted(items, key=str))
        match self.chance.choice(["attribute", "number", "delete", "add"]):
            case "attribute":
                self.dynamodb.put_item(TableName=table, Item={**item, "note": {"S": "é\n\x7f\u2028"}})
            case "number":
                value = {"M": {"n": {"N": "1.50"}, "s": {"NS": ["2", "10", "1E+50"]}, "l": {"L": [{"NULL": True}]}}}
                self.dynamodb.put_item(TableName=table, Item={**item, "mixed": value})
            case "delete":
                self.dynamodb.delete_item(TableName=table, Key={KEYS[entity]: item[KEYS[entity]]})
            case "add":
                self.add_item(entity)

    def add_item(self, entity: str = "book") -> None:
        """Add an item, as the application does."""
        item = {KEYS[entity]: {"S": f"theirs-{self.edits}"}, "title": {"S": "Theirs"}}
        self.dynamodb.put_item(TableName=self.library.tables[entity], Item=item)

    def run(self) -> None:
        """Run on an edited source, now and then with the application at work before."""
        if self.is_blocked():
            return
        self.edit_source()
        if self.has_head() and self.chance.random() < 0.5:
            self.edit_items()
        self.finish(self.make_driver())

    def run_again(self) -> None:
        """Run on the same source."""
        if not self.is_blocked():
            self.finish(self.make_driver())

    def dry_run(self) -> None:
        """Run without writing."""
        if not self.is_blocked():
            self.edit_source()
            self.make_driver(dry_run=True).run()

    def meet_conflict(self) -> None:
        """Let the application write between staging and writing."""
        if not self.is_blocked():
            self.edit_source()
            self.finish(self.make_driver(), self.edit_items)

    def finish(self, driver: Driver, between: Any = lambda: None) -> None:
        """Take a run to its end, and undo it if a step fails."""
        try:
            driver.stage_all()
            driver.plan()
            if driver.steps.open_run().epoch is not None:
                state = load_state(self.store)
                assert state is not None and state.open is not None
                driver.epoch = state.open.epoch
                between()
                driver.migrate_all()
                for name in driver.mapping.order:
                    driver.verify(name)
            driver.end()
        except AccessionError as error:
            driver.end(is_verified=False, failure=str(error))
            state = load_state(self.store)
            if state is not None and state.open is not None:
                driver.undo(accept_conflicts=True)

    def write_twice(self) -> None:
        """Let a worker die in the first part, so that another one writes it, and wake when the run has ended."""
        if self.is_blocked():
            return
        self.edit_source()
        driver = self.make_driver()
        at = PartStep(driver.mapping.order[0], 0, "migrate")

        def die() -> None:
            part = driver.index(at.entity).parts[0]
            if part.put or part.update:
                assert driver.epoch is not None
                begin_attempt(driver.steps.folder, at, driver.epoch)

        self.finish(driver, die)
        folder = driver.steps.folder
        if len(attempts := folder.list_attempts(at).get(at, [])) > 1:
            result = self.store.get(folder.path_of_execution(attempts[-1]))
            self.store.put(folder.path_of_execution(attempts[0]), result.replace(b'"written": ', b'"written": 1'))
            problems = gzip.compress(b"", mtime=self.edits)
            self.store.put(folder.path_of_problems(at.entity, hashlib.sha256(problems).hexdigest()), problems)

    def start(self) -> Driver | None:
        """Stage a run, open the target and write only its first entity."""
        if self.is_blocked():
            return None
        self.edit_source()
        driver = self.make_driver()
        driver.stage_all()
        if driver.plan().is_empty:
            driver.end()
            return None
        driver.open()
        driver.migrate(driver.mapping.order[0])
        if self.chance.random() < 0.5:
            driver.end(is_verified=False, failure="The worker was killed.")
        return driver

    def resume(self, between: Any = lambda driver: None) -> None:
        """Start a run, and finish it under a new epoch."""
        if driver := self.start():
            params = MigrateParams(**{**driver.manifest.params, "resume": driver.run_name})
            run = Run.load(self.store, driver.mapping, driver.run_name, driver.connect(), params)
            epoch = run.open_run().epoch
            between(driver)
            driver.epoch = epoch
            driver.migrate_all()
            for name in driver.mapping.order:
                driver.verify(name)
            driver.end(by=BY)

    def lose_target(self) -> None:
        """Start a run, and let its DAG run end when a resume has taken the target."""
        self.resume(lambda driver: driver.end(is_verified=False, failure="The worker was frozen."))

    def undo_open(self) -> None:
        """Start a run and undo it."""
        if driver := self.start():
            driver.undo(accept_conflicts=True)

    def undo_head(self) -> None:
        """Undo the run that was committed last."""
        state = load_state(self.store)
        if state is not None and state.head is not None and not self.is_blocked():
            driver = self.make_driver()
            driver.run_name = state.head
            driver.undo(accept_conflicts=True)

    def seal(self) -> None:
        """Seal the target with a run, or remove the seal."""
        state = load_state(self.store)
        if state is not None and state.sealed is not None:
            unseal_target(self.store, "a correction", BY)
        elif not self.is_blocked():
            self.finish(self.make_driver(seal="cutover", accept_drift=True))

    def seal_as_before(self) -> None:
        """Seal the target by a record of its own, as version 0.1.0 did."""
        if not self.is_blocked():
            seal_target(self.store, "cutover", BY)

    def die_staged(self) -> None:
        """Die before the target is taken."""
        if not self.is_blocked():
            self.edit_source()
            self.make_driver().stage_all()

    def die_open(self) -> None:
        """Die with the target open."""
        self.start()

    def is_blocked(self) -> bool:
        state = load_state(self.store)
        return state is not None and (state.sealed is not None or state.open is not None)

    def has_head(self) -> bool:
        state = load_state(self.store)
        return state is not None and state.head is not None

    def download(self, folder: Path) -> Path:
        """Write every object of the target below a folder, and return it."""
        for path in self.store.list():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self.store.get(path))
        return folder

    def list_states(self) -> list[bytes]:
        """Return all that state.json ever was, before what it is now."""
        s3, key = self.library.aws.client("s3"), f"{self.store.prefix}state.json"
        found = s3.list_object_versions(Bucket=self.library.bucket, Prefix=key)["Versions"]
        older = [version["VersionId"] for version in found if not version["IsLatest"]]
        return [s3.get_object(Bucket=self.library.bucket, Key=key, VersionId=v)["Body"].read() for v in older]

    def export(self, folder: Path) -> dict[str, Path]:
        """Write each table as a full export in DynamoDB JSON, and return the folders by entity."""
        for entity in KEYS:
            data = folder / entity / "data"
            data.mkdir(parents=True)
            with gzip.open(data / "a.json.gz", "wt") as lines:
                lines.writelines(json.dumps({"Item": item}) + "\n" for item in self.library.scan(entity))
        return {entity: folder / entity for entity in KEYS}
