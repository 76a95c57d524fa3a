"""The genealogy that a server holds while it runs: one reference to a frozen value, swapped at each change."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from model import Genealogy, Person
from wire import read_genealogy, write_genealogy

BUILT_IN: Final = Path(__file__).with_name("families.json")


class ConflictError(Exception):
    """The change contradicts what is there; the message says how."""


class Archive:
    """Persons and families in memory, and in `file` where one is given: it is written again at each change.

    A file that does not exist yet begins as the built-in family. Raises OSError or ValueError where it cannot be read.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        source = file if file is not None and file.exists() else BUILT_IN
        self._genealogy = read_genealogy(source.read_bytes())

    @property
    def genealogy(self) -> Genealogy:
        """What is held now; it never changes under its reader."""
        return self._genealogy

    def free_occurrence(self, first_name: str, surname: str) -> int:
        """The lowest occurrence that no namesake has."""
        namesake = Person(first_name, surname)
        while self._genealogy.person(namesake.key) is not None:
            namesake = Person(first_name, surname, namesake.occurrence + 1)
        return namesake.occurrence

    def add(self, person: Person) -> None:
        """Takes in a new person. Raises ConflictError where an equal one is there already."""
        if self._genealogy.person(person.key) is not None:
            raise ConflictError(f"{person.key} is there already")
        self._swap(self._genealogy.with_person(person))

    def put(self, person: Person) -> None:
        """Takes in the person, in the place of an equal one where there is one."""
        self._swap(self._genealogy.with_person(person))

    def remove(self, person: Person) -> None:
        """Lets go of the person. Raises ConflictError while a family refers to the person."""
        try:
            genealogy = self._genealogy.without_person(person)
        except ValueError as error:
            raise ConflictError(str(error)) from None
        self._swap(genealogy)

    def _swap(self, genealogy: Genealogy) -> None:
        if self._file is not None:
            _replace(self._file, write_genealogy(genealogy))
        self._genealogy = genealogy


def _replace(file: Path, content: bytes) -> None:
    """Writes the whole file anew beside the old one, then renames it over: a reader sees one of the two."""
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as temporary:
        try:
            temporary.write(content)
            temporary.flush()
            os.fsync(temporary.fileno())
            Path(temporary.name).replace(file)
        except OSError:
            Path(temporary.name).unlink(missing_ok=True)
            raise
