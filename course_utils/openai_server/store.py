"""What the service remembers: documents in SQLite, and the bytes of files and adapters beside it.

Whatever a client was told exists is on the disk before it is told so. Bytes are written beside their place and renamed, the
document that names them is committed after that, and what no document names is removed at the next start. Several processes
work on one store: the server, and the workers that validate and train.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import sqlite3
import string
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from course_utils.errors import CourseError
from course_utils.files import to_disk

LETTERS = string.ascii_letters + string.digits
BUSY_SECONDS = 30
DATABASE = "service.sqlite"
VERSION = 1  # of the database's form: raise it when an older program could not work with it
# Ids as the hosted service forms them: prefix and number of letters.
FORMS = {
    "file": ("file-", 22),
    "job": ("ftjob-", 24),
    "event": ("ftevent-", 24),
    "checkpoint": ("ftckpt_", 24),
    "permission": ("cp_", 24),
}
SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    parent TEXT NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (kind, id)
);
CREATE INDEX IF NOT EXISTS by_parent ON documents (kind, parent, number);
CREATE TABLE IF NOT EXISTS deleted (kind TEXT NOT NULL, id TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (kind, id));
"""


# Folders, and those of them whose contents can't be made again.
PARTS = ("files", "models", "jobs")
KEPT = ("files", "models")


PLACES = ("documents", "deleted")  # tables that know where a document stands or stood


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room left to write."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        return code is not None and code & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_busy(error: BaseException) -> bool:
    """Whether an error says that another process held the database for too long."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def new_id(kind: str) -> str:
    """An id of the form that the hosted service gives to this kind."""
    prefix, length = FORMS[kind]
    return prefix + random_letters(length)


def random_letters(length: int) -> str:
    """Letters and digits that can't be guessed."""
    return "".join(secrets.choice(LETTERS) for _ in range(length))


class Store:
    """Documents by kind and id, in the order in which they came.

    Args:
        folder: where everything lies; made if it is not there, for its owner alone.

    Raises:
        CourseError: the database is damaged, a newer program's, or missing while there are files or models.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).resolve()
        self._local = threading.local()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for part in PARTS:
            (self.folder / part).mkdir(exist_ok=True, mode=0o700)
            (self.folder / part).chmod(0o700)  # one of an earlier version was open to all
        self.database.touch(mode=0o600)
        self.database.chmod(0o600)  # SQLite gives its side files the same
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            if is_full(error) or is_busy(error):
                raise CourseError(f"cannot open {self.database}: {error}; see that there is room, and try again") from error
            raise self._damaged(error) from error

    @property
    def database(self) -> Path:
        """The file with the documents."""
        return self.folder / DATABASE

    def _prepare(self) -> None:
        with self.transaction() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise CourseError(
                    f"{self.database} was written by a newer version of the course (its form is {version}, this one knows "
                    f"{VERSION}): update the course, or choose another --folder"
                )
            tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'documents'").fetchone()[0]
            # What no document names is removed at a start: with a new database that would be everything.
            kept = [part for part in KEPT if any((self.folder / part).iterdir())]
            if kept and not tables:
                raise CourseError(
                    f"{self.database} is empty or missing, but there is something in {' and '.join(kept)}: put a copy of "
                    "the database back, or move these folders away or choose another --folder to begin anew"
                )
            for statement in SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")

    def check(self) -> None:
        """Look through the whole database.

        Raises:
            CourseError: it is damaged.
        """
        try:
            found = self._connection().execute("PRAGMA quick_check(1)").fetchone()[0]
            for (body,) in self._connection().execute("SELECT body FROM documents"):
                json.loads(body)
        except (sqlite3.DatabaseError, ValueError) as error:
            raise self._damaged(error) from error
        if found != "ok":
            raise self._damaged(found.splitlines()[-1])

    def _damaged(self, reason: object) -> CourseError:
        return CourseError(
            f"{self.database} is damaged ({reason}): put a copy of it back, or choose another --folder to begin anew; the "
            f"uploads and adapters in {self.folder} are not touched"
        )

    # -- documents ----------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that happens inside is on the disk afterwards, or nothing of it. May be entered again within itself."""
        connection = self._connection()
        if connection.in_transaction:
            yield connection
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")  # may fail too, on a full disk, and would leave the transaction open
        except BaseException:
            if connection.in_transaction:  # SQLite ends it by itself after some errors
                connection.execute("ROLLBACK")
            raise

    def add(self, kind: str, id: str, body: dict[str, Any], parent: str = "") -> dict[str, Any]:
        """Write a new document; returns it."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO documents (kind, id, parent, body) VALUES (?, ?, ?, ?)", (kind, id, parent, json.dumps(body))
            )
        return body

    def get(self, kind: str, id: str) -> dict[str, Any] | None:
        """A document, or None."""
        found = self._connection().execute("SELECT body FROM documents WHERE kind = ? AND id = ?", (kind, id)).fetchone()
        return json.loads(found[0]) if found else None

    def document(self, kind: str, id: str) -> dict[str, Any]:
        """A document that is known to be there.

        Raises:
            KeyError: it is not.
        """
        found = self.get(kind, id)
        if found is None:
            raise KeyError(f"{kind} {id}")
        return found

    def update(self, kind: str, id: str, **changes: Any) -> dict[str, Any] | None:
        """Change fields of a document; returns it as it is then, or None if there is none."""
        with self.transaction() as connection:
            body = self.get(kind, id)
            if body is None:
                return None
            body |= changes
            connection.execute("UPDATE documents SET body = ? WHERE kind = ? AND id = ?", (json.dumps(body), kind, id))
        return body

    def delete(self, kind: str, id: str) -> bool:
        """Remove a document; returns whether it was there. Where it stood is kept: a page may have to begin there."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO deleted SELECT kind, id, number FROM documents WHERE kind = ? AND id = ?", (kind, id)
            )
            return connection.execute("DELETE FROM documents WHERE kind = ? AND id = ?", (kind, id)).rowcount > 0

    def all(self, kind: str, parent: str = "", newest_first: bool = False) -> list[dict[str, Any]]:
        """All documents of a kind under a parent."""
        return self.page(kind, parent, limit=-1, newest_first=newest_first)[0]

    def page(
        self,
        kind: str,
        parent: str = "",
        after: str | None = None,
        limit: int = 20,
        newest_first: bool = True,
        where: Mapping[str, Any] | None = None,
    ) -> tuple[list[dict[str, Any]], bool]:
        """Some documents in order, and whether there are more.

        Args:
            kind: of the documents.
            parent: under which they stand.
            after: id of the one before the first, which may be deleted by now; one that is unknown counts as none.
            limit: how many; negative for all.
            newest_first: the order.
            where: top-level fields, or "metadata.key", and the values that they must have.
        """
        connection = self._connection()
        text, values = "SELECT body FROM documents WHERE kind = ? AND parent = ?", [kind, parent]
        if after:
            places = " UNION ALL ".join(f"SELECT number FROM {table} WHERE kind = ? AND id = ?" for table in PLACES)
            start = connection.execute(places, (kind, after) * len(PLACES)).fetchone()
            if start:
                text += f" AND number {'<' if newest_first else '>'} ?"
                values.append(start[0])
        for field, value in (where or {}).items():
            path = "$" + "".join(f'."{part}"' for part in field.split(".", 1))
            if '"' in field.replace(".", "", 1) or "\0" in field:
                return [], False
            text += " AND json_extract(body, ?) = ?"
            values += [path, value]
        text += f" ORDER BY number {'DESC' if newest_first else 'ASC'} LIMIT ?"
        rows = connection.execute(text, [*values, limit + 1 if limit >= 0 else -1]).fetchall()
        more = 0 <= limit < len(rows)
        return [json.loads(row[0]) for row in (rows[:limit] if more else rows)], more and limit > 0

    def _connection(self) -> sqlite3.Connection:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.database, timeout=BUSY_SECONDS, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            self._local.connection = connection
        return connection

    # -- events -------------------------------------------------------------------------------------------------------

    def add_event(self, job_id: str, message: str, level: str = "info", data: dict[str, Any] | None = None) -> None:
        """Note what happened to a job."""
        event: dict[str, Any] = {
            "id": new_id("event"),
            "object": "fine_tuning.job.event",
            "created_at": int(time.time()),
            "level": level,
            "message": message,
            "type": "message" if data is None else "metrics",
            "data": data or {},
        }
        self.add("event", event["id"], event, parent=job_id)

    # -- bytes --------------------------------------------------------------------------------------------------------

    def file_path(self, file_id: str) -> Path:
        """Where a file's bytes lie. Its name is our own id; the client's name for it is data and never a path."""
        return self.folder / "files" / file_id

    def job_folder(self, job_id: str) -> Path:
        """Where a job keeps its data and checkpoints while it lasts."""
        return self.folder / "jobs" / job_id

    def model_folder(self, folder: str) -> Path:
        """Where an adapter lies."""
        return self.folder / "models" / folder

    def add_file(self, source: Path, filename: str, purpose: str, expires_at: int | None = None) -> dict[str, Any]:
        """Take over a file that lies in this store's folder already; returns its document once it is safe."""
        body: dict[str, Any] = {
            "id": new_id("file"),
            "object": "file",
            "bytes": source.stat().st_size,
            "created_at": int(time.time()),
            "filename": filename,
            "purpose": purpose,
            "status": "processed",
        }
        if expires_at is not None:
            body["expires_at"] = expires_at
        to_disk(source)
        place = self.file_path(body["id"])
        os.replace(source, place)
        try:
            to_disk(self.folder / "files")
            return self.add("file", body["id"], body)
        except BaseException:
            place.unlink(missing_ok=True)
            raise

    def delete_file(self, file_id: str) -> bool:
        """Forget a file, then remove its bytes."""
        found = self.delete("file", file_id)
        if found:
            with suppress(OSError):  # bytes that nobody names go at the next start
                self.file_path(file_id).unlink(missing_ok=True)
        return found

    def scratch(self, name: str) -> Path:
        """A path for something half-written, on the same disk as where it will lie."""
        return self.folder / "files" / f".partial-{name}-{random_letters(12)}"

    def tidy(self) -> None:
        """Remove bytes that no document names: of uploads, deletions and checkpoints that a kill interrupted.

        To be called by the one server that owns the folder, before it takes requests.
        """
        known = {
            "files": {body["id"] for body in self.all("file")},
            "models": {body["_folder"] for body in self.all("model")},
            "jobs": {body["id"] for body in self.all("job") if not body["finished_at"]},
        }
        for part, names in known.items():
            for entry in (self.folder / part).iterdir():
                if entry.name in names:
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)
