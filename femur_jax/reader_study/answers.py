"""Readers, their sessions and their answers: one SQLite file in the study's folder.

Write-ahead logging with full synchronisation: what was acknowledged survives the death of the
server and of the machine.
"""

import contextlib
import datetime
import json
import re
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from femur_jax.errors import UserError
from femur_jax.reader_study.design import Item, schedule
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
    """The item is not the reader's next one: another window of the same reader went on."""


@dataclass(frozen=True)
class Answered:
    """What a reader answered to one item.

    Attributes:
        item: The item.
        answers: By question.
        milliseconds: How long the reader looked at it, without pauses.
        final: Whether the reader went on; else a draft.
    """

    item: Item
    answers: dict[str, Any]
    milliseconds: int
    final: bool


class AnswerStore:
    """The answers of a study. One connection, to be used from one thread."""

    def __init__(self, study: Study):
        """Opens the answers of a study, or begins them.

        Raises:
            UserError: The study is not the one that the readers began, or the file is damaged.
        """
        self._study = study
        path = study.folder / ANSWERS
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            begun = self._begin()
        except sqlite3.DatabaseError as error:
            self.close()
            raise UserError(
                f"{path} cannot be used ({error}); make room on its disk, or restore it."
            ) from error
        if begun != study.fingerprint:
            self.close()
            raise UserError(
                f"{study.folder} was changed after its readers began; restore it from a copy, or "
                "build a new study for new readers."
            )

    def _begin(self) -> str:
        """Prepares the file; returns the fingerprint of the study that it was begun with."""
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.executescript(_SCHEMA)
        with self._transaction():
            begun = self._db.execute("SELECT fingerprint FROM study").fetchone()
            if begun is None:
                begun = (self._study.fingerprint,)
                self._db.execute("INSERT INTO study VALUES (?)", begun)
        return begun[0]

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def invite(self, reader: str) -> None:
        """Adds a reader and fixes the order of the session; a known one stays as it is.

        Raises:
            UserError: The name is not made of 1 to 40 letters, digits, '-' and '_'.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", reader):
            raise UserError(
                f"{reader!r} cannot name a reader; give a code of letters, digits, '-' and '_'."
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
        """All or nothing; another process waits meanwhile."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back already
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def readers(self) -> dict[str, str]:
        """Tokens by reader."""
        return dict(self._db.execute("SELECT name, token FROM readers ORDER BY rowid"))

    def reader_of(self, token: str) -> str | None:
        """The reader to whom a token was given."""
        query = "SELECT name FROM readers WHERE token = ?"
        found = self._db.execute(query, (token,)).fetchone()
        return found[0] if found else None

    def items(self, reader: str) -> list[Item]:
        """A reader's session."""
        query = "SELECT block, images FROM items WHERE reader = ? ORDER BY number"
        return [
            Item(block, tuple(json.loads(images)))
            for block, images in self._db.execute(query, (reader,))
        ]

    def answered(self, reader: str) -> list[Answered]:
        """A reader's answers in the order of the session; the last may be a draft."""
        query = """
            SELECT block, images, answers, milliseconds, final
            FROM answers JOIN items USING (reader, number) WHERE reader = ? ORDER BY number
        """
        return [
            Answered(Item(block, tuple(json.loads(images))), json.loads(answers), ms, bool(final))
            for block, images, answers, ms, final in self._db.execute(query, (reader,))
        ]

    def next_number(self, reader: str) -> int:
        """The first item without a final answer; the number of items at the end."""
        query = "SELECT count(*) FROM answers WHERE reader = ? AND final"
        return self._db.execute(query, (reader,)).fetchone()[0]

    def save(
        self, reader: str, number: int, answers: dict[str, Any], milliseconds: int, *, final: bool
    ) -> None:
        """Keeps answers; when this returns they are on the disk.

        Saving the same final answers again does nothing, for a page repeats what was not
        acknowledged.

        Raises:
            OutOfTurnError: The item is not the next one.
            sqlite3.OperationalError: The disk is full; what was saved before is kept.
        """
        text = json.dumps(answers, sort_keys=True)
        with self._transaction():
            if number != self.next_number(reader):
                if final and self._final(reader, number) == text:
                    return
                raise OutOfTurnError(number)
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            self._db.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
                (reader, number, text, milliseconds, final, now),
            )

    def _final(self, reader: str, number: int) -> str | None:
        query = "SELECT answers FROM answers WHERE reader = ? AND number = ? AND final"
        found: Sequence[str] | None = self._db.execute(query, (reader, number)).fetchone()
        return found[0] if found else None
