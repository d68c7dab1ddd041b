"""Readers, their sessions and their answers, in one SQLite file in the study's folder.

SQLite uses a write-ahead log with full synchronisation, so acknowledged answers survive a crash of
the server or the machine.
"""

import contextlib
import datetime
import json
import os
import re
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from femur_jax.errors import UserError
from femur_jax.reader_study.design import Item, schedule
from femur_jax.reader_study.questions import well_formed
from femur_jax.reader_study.study import ANSWERS, Study

_SCHEMA = """
CREATE TABLE IF NOT EXISTS study (fingerprint TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS readers (name TEXT PRIMARY KEY, token TEXT UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS items (
    reader TEXT NOT NULL REFERENCES readers, number INTEGER NOT NULL,
    block TEXT NOT NULL, images TEXT NOT NULL,
    PRIMARY KEY (reader, number)
);
CREATE TABLE IF NOT EXISTS answers (
    reader TEXT NOT NULL, number INTEGER NOT NULL,
    answers TEXT NOT NULL, milliseconds INTEGER NOT NULL, final INTEGER NOT NULL,
    saved TEXT NOT NULL,
    PRIMARY KEY (reader, number), FOREIGN KEY (reader, number) REFERENCES items
);
"""


class OutOfTurnError(Exception):
    """The item is not the current one: it was answered in another window of the same reader."""


@dataclass(frozen=True)
class Answered:
    """A reader's answers to one item.

    Attributes:
        item: The item of the session.
        answers: Answers by question.
        milliseconds: Reading time without pauses.
        final: Whether the answers are final. Otherwise they are a draft.
    """

    item: Item
    answers: dict[str, Any]
    milliseconds: int
    final: bool


class AnswerStore:
    """Answers of a study. It holds one database connection, for use from one thread."""

    def __init__(self, study: Study):
        """Opens the answers of a study, or creates the file.

        Raises:
            UserError: The study was changed after its readers started, or the file is damaged.
        """
        self._study = study
        path = study.folder / ANSWERS
        os.close(os.open(path, os.O_CREAT, 0o600))  # SQLite gives its further files this mode
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            fingerprint = self._prepare()
            self._opened = self._files()
        except sqlite3.DatabaseError as error:
            self.close()
            raise UserError(
                f"{path} cannot be opened ({error}); free disk space, or restore it from a copy."
            ) from error
        if fingerprint != study.fingerprint:
            self.close()
            raise UserError(
                f"{study.folder} was changed after its readers started; restore it from a copy, or "
                "build a new study for new readers."
            )

    def _prepare(self) -> str:
        """Prepares the file; returns the fingerprint of the study for which it was created."""
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.executescript(_SCHEMA)
        with self._transaction():
            row = self._db.execute("SELECT fingerprint FROM study").fetchone()
            if row is None:
                row = (self._study.fingerprint,)
                self._db.execute("INSERT INTO study VALUES (?)", row)
        return row[0]

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def invite(self, reader: str) -> None:
        """Adds a reader and fixes the order of the session. A known reader does not change.

        Raises:
            UserError: The code does not consist of 1 to 40 letters, digits, '-' and '_'.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", reader):
            raise UserError(
                f"{reader!r} is not a valid reader code; use 1 to 40 letters, digits, '-' and '_'."
            )
        items = schedule(self._study.design, self._study.cases, reader)
        rows = [(reader, n, item.block, json.dumps(item.images)) for n, item in enumerate(items)]
        with self._transaction():
            if reader not in self.readers():
                token = secrets.token_urlsafe(16)
                self._db.execute("INSERT INTO readers VALUES (?, ?)", (reader, token))
                self._db.executemany("INSERT INTO items VALUES (?, ?, ?, ?)", rows)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commits all changes or none. Other processes wait until it ends."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(
                sqlite3.Error
            ):  # with a full disk, SQLite has already rolled back
                self._db.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _present(self) -> Iterator[None]:
        """Checks before and after that the open files are those of the folder.

        SQLite writes into a deleted file without an error.
        """
        self._require_present()
        yield
        self._require_present()

    def _require_present(self) -> None:
        files = self._files()
        same = [file[:2] for file in files] == [file[:2] for file in self._opened]
        if not same or files[0][2] < self._opened[0][2]:
            raise sqlite3.OperationalError(
                f"{ANSWERS} was removed, replaced or cut off while it was in use; stop the server "
                "and restore the study from a copy"
            )
        self._opened = files

    def _files(self) -> list[tuple[int, int, int]]:
        """Device, number and size of the database, its log and the index of the log."""
        path = self._study.folder / ANSWERS
        paths = [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")]
        files = [path.stat() for path in paths if path.exists()]
        return [(status.st_dev, status.st_ino, status.st_size) for status in files]

    def readers(self) -> dict[str, str]:
        """Returns the readers' tokens, by reader."""
        return dict(self._db.execute("SELECT name, token FROM readers ORDER BY rowid"))

    def reader_of(self, token: str) -> str | None:
        """Returns the reader who has a token, or None."""
        query = "SELECT name FROM readers WHERE token = ?"
        row = self._db.execute(query, (token,)).fetchone()
        return row[0] if row else None

    def items(self, reader: str) -> list[Item]:
        """Returns the items of a reader's session."""
        query = "SELECT block, images FROM items WHERE reader = ? ORDER BY number"
        return [
            Item(block, tuple(json.loads(images)))
            for block, images in self._db.execute(query, (reader,))
        ]

    def answered(self, reader: str) -> list[Answered]:
        """Returns a reader's answers in the order of the session. The last may be a draft."""
        query = """
            SELECT block, images, answers, milliseconds, final
            FROM answers JOIN items USING (reader, number) WHERE reader = ? ORDER BY number
        """
        return [
            Answered(Item(block, tuple(json.loads(images))), _loads(answers), ms, bool(final))
            for block, images, answers, ms, final in self._db.execute(query, (reader,))
        ]

    def next_number(self, reader: str) -> int:
        """Returns the number of the current item: the first one without final answers."""
        query = "SELECT count(*) FROM answers WHERE reader = ? AND final"
        return self._db.execute(query, (reader,)).fetchone()[0]

    def save(
        self, reader: str, number: int, answers: dict[str, Any], milliseconds: int, *, final: bool
    ) -> None:
        """Saves answers. They are on disk when this returns.

        Saving the same final answers again has no effect, since the page repeats requests that were
        not acknowledged.

        Raises:
            OutOfTurnError: The item is not the current one.
            sqlite3.Error: The disk is full, or somebody removed or cut off the file of answers
                since it was opened. Earlier answers are kept.
        """
        text = json.dumps(answers, sort_keys=True)
        with self._present(), self._transaction():
            if number != self.next_number(reader):
                if final and self._final_answers(reader, number) == text:
                    return
                raise OutOfTurnError(number)
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            self._db.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
                (reader, number, text, milliseconds, final, now),
            )

    def _final_answers(self, reader: str, number: int) -> str | None:
        query = "SELECT answers FROM answers WHERE reader = ? AND number = ? AND final"
        row: Sequence[str] | None = self._db.execute(query, (reader, number)).fetchone()
        return row[0] if row else None


def _loads(text: str) -> dict[str, Any]:
    """Answers from their JSON; a text that no file can hold, as old versions saved, is mended."""
    return {
        name: well_formed(answer) if isinstance(answer, str) else answer
        for name, answer in json.loads(text).items()
    }
