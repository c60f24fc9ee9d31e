"""The service's storage: documents in SQLite, and the bytes of files and adapters next to it.

Before a client is told that something exists, it is on disk. Bytes are written to a temporary path and renamed into place,
and the document that refers to them is committed after that; bytes that no document refers to are removed at the next start.
Several processes use one store: the server, and the workers that validate and train.
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
SCHEMA_VERSION = 1  # of the database schema: raise it when older programs can't work with it any more
# As the hosted service has them: the name of each kind of document, and the prefix and number of letters of its ids.
FORMATS = {
    "file": ("file", "file-", 22),
    "job": ("fine_tuning.job", "ftjob-", 24),
    "event": ("fine_tuning.job.event", "ftevent-", 24),
    "checkpoint": ("fine_tuning.job.checkpoint", "ftckpt_", 24),
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
FOLDERS = ("files", "models", "jobs")


def is_full(error: BaseException) -> bool:
    """Return whether an error means that the disk is full."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        return code is not None and code & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_busy(error: BaseException) -> bool:
    """Return whether an error means that another process has locked the database for too long."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def new_document(kind: str, **fields: Any) -> dict[str, Any]:
    """Return a document of a kind with a new id, in the hosted service's format, and the given fields; it is not stored."""
    name, prefix, length = FORMATS[kind]
    return {"id": prefix + random_letters(length), "object": name, "created_at": int(time.time()), **fields}


def public(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document without the fields that only the server uses."""
    return {name: value for name, value in document.items() if not name.startswith("_")}


def random_letters(length: int) -> str:
    """Return random letters and digits that cannot be guessed."""
    return "".join(secrets.choice(LETTERS) for _ in range(length))


class Store:
    """Stores documents by kind and id, in the order in which they were added, and the bytes of files and models.

    Args:
        folder: folder for everything; it is created if it is missing, and only its owner has access.

    Raises:
        CourseError: the database is damaged, was written by a newer program, or is missing while there are files or models.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).resolve()
        self._local = threading.local()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for part in FOLDERS:
            (self.folder / part).mkdir(exist_ok=True, mode=0o700)
        self.database.touch(mode=0o600)  # SQLite gives its auxiliary files the same mode
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            if is_full(error) or is_busy(error):
                raise CourseError(
                    f"cannot open {self.database}: {error}; make sure that there is free disk space, and try again"
                ) from error
            raise self._damaged(error) from error

    @property
    def database(self) -> Path:
        """The file that holds the documents."""
        return self.folder / DATABASE

    def _prepare(self) -> None:
        with self.transaction() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise CourseError(
                    f"{self.database} was written by a newer version of the course (its schema version is {version}, this "
                    f"one supports {SCHEMA_VERSION}): update the course, or choose another --folder"
                )
            tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'documents'").fetchone()[0]
            # Bytes that no document refers to are removed at start-up: with a new database that would be everything.
            non_empty = [part for part in ("files", "models") if any((self.folder / part).iterdir())]
            if non_empty and not tables:
                raise CourseError(
                    f"{self.database} is empty or missing, but there is data in {' and '.join(non_empty)}: put a copy of "
                    "the database back; to start afresh, move these folders away or choose another --folder"
                )
            for statement in SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def check(self) -> None:
        """Check the whole database.

        Raises:
            CourseError: the database is damaged.
        """
        try:
            result = self._connection().execute("PRAGMA quick_check(1)").fetchone()[0]
            for (body,) in self._connection().execute("SELECT body FROM documents"):
                json.loads(body)
        except (sqlite3.DatabaseError, ValueError) as error:
            raise self._damaged(error) from error
        if result != "ok":
            raise self._damaged(result.splitlines()[-1])

    def _damaged(self, reason: object) -> CourseError:
        return CourseError(
            f"{self.database} is damaged ({reason}): put a copy of it back, or choose another --folder to start afresh; the "
            f"uploads and adapters in {self.folder} are left as they are"
        )

    # -- documents ----------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Return a context manager for a transaction, which may be nested.

        Afterwards either all changes made inside are on disk, or none.
        """
        connection = self._connection()
        if connection.in_transaction:
            yield connection
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")  # may fail on a full disk, and then leaves the transaction open
        except BaseException:
            if connection.in_transaction:  # SQLite rolls it back on its own after some errors
                connection.execute("ROLLBACK")
            raise

    def add(self, kind: str, body: dict[str, Any], parent: str = "") -> dict[str, Any]:
        """Add a new document, and return it; `parent` is the id of the document that it belongs to, or ""."""
        values = (kind, body["id"], parent, json.dumps(body))
        with self.transaction() as connection:
            connection.execute("INSERT INTO documents (kind, id, parent, body) VALUES (?, ?, ?, ?)", values)
        return body

    def get(self, kind: str, id: str) -> dict[str, Any] | None:
        """Return a document, or None if there is none with this id."""
        row = self._connection().execute("SELECT body FROM documents WHERE kind = ? AND id = ?", (kind, id)).fetchone()
        return json.loads(row[0]) if row else None

    def document(self, kind: str, id: str) -> dict[str, Any]:
        """Return a document that must exist.

        Raises:
            KeyError: it does not exist.
        """
        body = self.get(kind, id)
        if body is None:
            raise KeyError(f"{kind} {id}")
        return body

    def update(self, kind: str, id: str, **changes: Any) -> dict[str, Any]:
        """Change fields of a document, which must exist; return the changed document."""
        with self.transaction() as connection:
            body = self.document(kind, id) | changes
            connection.execute("UPDATE documents SET body = ? WHERE kind = ? AND id = ?", (json.dumps(body), kind, id))
        return body

    def delete(self, kind: str, id: str) -> bool:
        """Delete a document, and return whether it existed.

        Its position is kept, since a page may have to start after it.
        """
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO deleted SELECT kind, id, number FROM documents WHERE kind = ? AND id = ?", (kind, id)
            )
            return connection.execute("DELETE FROM documents WHERE kind = ? AND id = ?", (kind, id)).rowcount > 0

    def all(self, kind: str, parent: str = "", newest_first: bool = False) -> list[dict[str, Any]]:
        """Return all documents of a kind that belong to a parent, the oldest first unless `newest_first`."""
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
        """Return a page of documents in order, and whether there are more.

        Args:
            kind: kind of the documents.
            parent: id of the document that they belong to.
            after: id of the document before the page, which may have been deleted; an unknown id is ignored.
            limit: maximum number of documents; a negative number for all.
            newest_first: whether the newest documents come first.
            where: top-level fields, or "metadata.key", and the values that they must have.
        """
        connection = self._connection()
        query, values = "SELECT body FROM documents WHERE kind = ? AND parent = ?", [kind, parent]
        if after:
            same = "WHERE kind = :kind AND id = :id"  # current or deleted
            position = f"SELECT number FROM documents {same} UNION ALL SELECT number FROM deleted {same}"
            start = connection.execute(position, {"kind": kind, "id": after}).fetchone()
            if start:
                query += f" AND number {'<' if newest_first else '>'} ?"
                values.append(start[0])
        for field, value in (where or {}).items():
            if '"' in field or "\0" in field:  # a key that can't be looked for, and that no document here has
                return [], False
            path = "$" + "".join(f'."{part}"' for part in field.split(".", 1))
            query += " AND json_extract(body, ?) = ?"
            values += [path, value]
        query += f" ORDER BY number {'DESC' if newest_first else 'ASC'} LIMIT ?"
        rows = connection.execute(query, [*values, limit + 1 if limit >= 0 else -1]).fetchall()
        has_more = 0 <= limit < len(rows)
        return [json.loads(row[0]) for row in (rows[:limit] if has_more else rows)], has_more and limit > 0

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
        """Add an event to a job's log."""
        kind = "message" if data is None else "metrics"
        self.add("event", new_document("event", level=level, message=message, type=kind, data=data or {}), parent=job_id)

    # -- bytes --------------------------------------------------------------------------------------------------------

    def file_path(self, file_id: str) -> Path:
        """Return the path of a file's bytes.

        It is named by our own id; the client's file name is data and is never used as a path.
        """
        return self.folder / "files" / file_id

    def job_folder(self, job_id: str) -> Path:
        """Return the folder of a job's data and checkpoints, which exists until the job ends."""
        return self.folder / "jobs" / job_id

    def model_folder(self, folder: str) -> Path:
        """Return the path of an adapter's folder."""
        return self.folder / "models" / folder

    def add_file(self, source: Path, filename: str, purpose: str, expires_at: int | None = None) -> dict[str, Any]:
        """Take over a file that is already in this store's folder; return its document once both are safely on disk."""
        size, expiry = source.stat().st_size, {} if expires_at is None else {"expires_at": expires_at}
        body = new_document("file", bytes=size, filename=filename, purpose=purpose, status="processed", **expiry)
        to_disk(source)
        target = self.file_path(body["id"])
        os.replace(source, target)
        try:
            to_disk(self.folder / "files")
            return self.add("file", body)
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    def delete_file(self, file_id: str) -> bool:
        """Delete a file's document and then its bytes; return whether the file existed."""
        deleted = self.delete("file", file_id)
        if deleted:
            with suppress(OSError):  # bytes without a document are removed at the next start
                self.file_path(file_id).unlink(missing_ok=True)
        return deleted

    def delete_model(self, name: str) -> bool:
        """Delete a checkpoint, or a job's fine-tuned model with all its checkpoints; return whether it existed.

        The hosted service documents nothing of the checkpoints; whoever deletes a model because of what it was trained on
        wants none of its weights left.
        """
        with self.transaction():
            model = self.get("model", name)
            if model is None:
                return False
            job = [other for other in self.all("model") if other["_job"] == model["_job"]]
            deleted = {other["id"] for other in job if other["id"] == name or not model["_checkpoint"]}
            for one in deleted:
                self.delete("model", one)
            for checkpoint in self.all("checkpoint", model["_job"]):
                if checkpoint["fine_tuned_model_checkpoint"] in deleted:
                    self.delete("checkpoint", checkpoint["id"])
        in_use = {other["_folder"] for other in job if other["id"] not in deleted}
        for folder in {other["_folder"] for other in job} - in_use:  # what is left of them is removed at the next start
            shutil.rmtree(self.model_folder(folder), ignore_errors=True)
        return True

    def scratch(self, name: str) -> Path:
        """Return a temporary path, on the same disk as the final one."""
        return self.folder / "files" / f".partial-{name}-{random_letters(12)}"

    def tidy(self, *parts: str) -> None:
        """Remove bytes that no document refers to, left by uploads, deletions or checkpoints that were interrupted.

        Must be called by the one server that owns the folder: before it accepts requests, or while nothing is written there.

        Args:
            *parts: those of `FOLDERS` to look through; all if none is given.
        """
        named = {
            "files": {body["id"] for body in self.all("file")},
            "models": {body["_folder"] for body in self.all("model")},
            "jobs": {body["id"] for body in self.all("job") if not body["finished_at"]},
        }
        for part in parts or FOLDERS:
            for entry in (self.folder / part).iterdir():
                if entry.name in named[part]:
                    continue
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink()
