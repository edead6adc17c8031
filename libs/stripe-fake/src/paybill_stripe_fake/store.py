"""All resources of the account, in memory and in a journal that survives a restart."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from paybill_stripe_fake.errors import ApiError

Resource: TypeAlias = dict[str, Any]
"""A JSON object. A stored resource is never changed in place, only replaced, so that events may share it."""

_HEADER = {"format": "paybill-stripe-fake", "version": 1}


class StateFileError(Exception):
    """Raised when the state file cannot be used; the message names the next step."""


class Store:
    """Resources by kind and id, in the order of their creation.

    With a path, every transaction is one line appended to that file by one write, so that a killed process loses
    nothing that it acknowledged; a start compacts the file.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._kinds: dict[str, dict[str, Resource]] = {}
        self._undo: dict[tuple[str, str], Resource | None] | None = None
        self._journal = None if path is None else _Journal(path)
        if self._journal is not None:
            for changes in self._journal.read():
                for kind, identifier, value in changes:
                    self._set(kind, identifier, value)
            self._journal.rewrite(
                [kind, identifier, value]
                for kind, resources in self._kinds.items()
                for identifier, value in resources.items()
            )

    def find(self, kind: str, identifier: str) -> Resource | None:
        """Returns the resource, or None."""
        return self._kinds.get(kind, {}).get(identifier)

    def oldest_first(self, kind: str) -> list[Resource]:
        """Returns all resources of a kind, in the order of creation."""
        return list(self._kinds.get(kind, {}).values())

    def newest_first(self, kind: str) -> list[Resource]:
        """Returns all resources of a kind, newest first: the order of Stripe's lists."""
        return list(reversed(self._kinds.get(kind, {}).values()))

    def put(self, kind: str, identifier: str, value: Resource) -> None:
        """Creates or replaces a resource; only inside a transaction."""
        self._remember(kind, identifier)
        self._set(kind, identifier, value)

    def delete(self, kind: str, identifier: str) -> None:
        """Deletes a resource, if it exists; only inside a transaction."""
        if self.find(kind, identifier) is not None:
            self._remember(kind, identifier)
            self._set(kind, identifier, None)

    def clear(self) -> None:
        """Deletes everything; only inside a transaction."""
        for kind, resources in self._kinds.items():
            for identifier in list(resources):
                self.delete(kind, identifier)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commits all changes made inside, or none if an exception is raised (except an ApiError with `keep`)."""
        self._undo = {}
        try:
            try:
                yield
            except ApiError as error:
                if error.keep:
                    self._commit()
                raise
            self._commit()
        finally:
            for (kind, identifier), value in reversed(self._undo.items()):
                self._set(kind, identifier, value)
            self._undo = None

    @contextmanager
    def dry_run(self) -> Iterator[None]:
        """Rolls back all changes made inside, in any case; only inside a transaction."""
        outer, self._undo = self._undo, {}
        try:
            yield
        finally:
            for (kind, identifier), value in reversed(self._undo.items()):
                self._set(kind, identifier, value)
            self._undo = outer

    def close(self) -> None:
        """Releases the state file for another process."""
        if self._journal is not None:
            self._journal.close()

    def _remember(self, kind: str, identifier: str) -> None:
        if self._undo is None:
            raise RuntimeError("a change outside a transaction")
        self._undo.setdefault((kind, identifier), self.find(kind, identifier))

    def _set(self, kind: str, identifier: str, value: Resource | None) -> None:
        resources = self._kinds.setdefault(kind, {})
        if value is None:
            resources.pop(identifier, None)
        else:
            resources[identifier] = value

    def _commit(self) -> None:
        undo = self._undo or {}
        if undo and self._journal is not None:
            self._journal.append([[kind, identifier, self.find(kind, identifier)] for kind, identifier in undo])
        undo.clear()


class _Journal:
    """A file of JSON lines, each with the changes of one transaction; locked by one process at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1
        try:
            self._lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateFileError(
                f"cannot keep state in {path}: {error.strerror}; choose a path in a writable folder"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StateFileError(
                f"{path} is in use by another stripe-fake; stop it or choose another --state"
            ) from error

    def read(self) -> Iterator[list[list[Any]]]:
        """Returns every complete transaction; a last line torn by a kill was never acknowledged."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise StateFileError(f"cannot read {self._path}: {error.strerror}") from error
        lines = content.split(b"\n")[:-1]
        for number, line in enumerate(lines, start=1):
            try:
                entry = json.loads(line)
                if number > 1:
                    yield [[str(kind), str(identifier), value] for kind, identifier, value in entry]
            except (ValueError, TypeError) as error:
                raise StateFileError(
                    f"{self._path} is damaged in line {number}; move it away to start with an empty account"
                ) from error
            if number == 1 and entry != _HEADER:
                raise StateFileError(f"{self._path} is not a state file of this version; choose another --state")

    def rewrite(self, changes: Iterator[list[Any]]) -> None:
        """Replaces the file atomically by one that holds only these entries."""
        fresh = self._path.with_name(f"{self._path.name}.new")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(_line(_HEADER))
                file.writelines(_line([change]) for change in changes)
            fresh.replace(self._path)
        except OSError as error:
            raise StateFileError(f"cannot write {self._path}: {error.strerror}") from error
        self._file = descriptor

    def append(self, changes: list[list[Any]]) -> None:
        """Appends one transaction, in full or not at all."""
        size = os.fstat(self._file).st_size
        line = _line(changes)
        try:
            written = os.write(self._file, line)
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError:
            os.ftruncate(self._file, size)
            raise

    def close(self) -> None:
        os.close(self._file)
        os.close(self._lock)


def _line(entry: Any) -> bytes:
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"
