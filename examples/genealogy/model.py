"""The values of a genealogy: events, persons, families, witnesses, and Sosa numbers.

Every value is frozen and refers to other values directly: a family holds its persons, not their names or numbers.
A person is equal to another by first name, surname and occurrence alone; the occurrence tells namesakes apart.

Sosa (Ahnentafel) numbers name the ancestors of one root person: the root is 1, the father of n is 2n, the mother 2n+1.
"""

from __future__ import annotations

import graphlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum
from typing import Final
from urllib.parse import quote, unquote

NAME_LENGTH: Final = 64
# Letters of any script, joined by one space, apostrophe or hyphen. No dot, slash or percent sign: a key joins names
# with dots and is part of a URL.
NAME: Final = re.compile(r"[^\W\d_]+(?:[ '\u2019-][^\W\d_]+)*")
DATE: Final = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?", re.ASCII)


class Sex(StrEnum):
    """What the records say; unknown where they say nothing."""

    MALE = "male"
    FEMALE = "female"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Event:
    """A birth, death or marriage. `date` is as precise as is known: `1901`, `1901-03` or `1901-03-14` (ISO 8601).

    Raises ValueError for anything else, and for a day that no calendar has.
    """

    date: str | None = None
    place: str | None = None

    def __post_init__(self) -> None:
        if self.date is None:
            return
        match = DATE.fullmatch(self.date)
        if match is None:
            raise ValueError(f"{self.date!r} is no date: write YYYY, YYYY-MM or YYYY-MM-DD")
        year, month, day = match.groups(default="1")
        try:
            date(int(year), int(month), int(day))
        except ValueError as error:
            raise ValueError(f"{self.date!r} is no date: {error}") from None


def canonical_key(key: str) -> str:
    """The form of a key that `Person.key` has, from that or from the one with its names spelled out.

    That cannot be ambiguous, as no name has a percent sign.
    """
    return quote(unquote(key), safe="")


@dataclass(frozen=True, slots=True)
class Person:
    """One human being. Only the first three fields take part in equality and hashing.

    Raises ValueError for a name that is no name, and for a negative occurrence.
    """

    first_name: str
    surname: str
    occurrence: int = 0
    sex: Sex = field(default=Sex.UNKNOWN, compare=False)
    birth: Event | None = field(default=None, compare=False)
    death: Event | None = field(default=None, compare=False)
    occupation: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name in (self.first_name, self.surname):
            if len(name) > NAME_LENGTH or NAME.fullmatch(name) is None:
                raise ValueError(f"{name!r} is no name: use letters, single spaces, apostrophes and hyphens")
        if self.occurrence < 0:
            raise ValueError("an occurrence is 0 or more")

    @property
    def name(self) -> str:
        """As one would say it, without the occurrence."""
        return f"{self.first_name} {self.surname}"

    @property
    def key(self) -> str:
        """`first.occurrence.surname`, percent-encoded (RFC 3986), so that it is one segment of a URL's path."""
        return canonical_key(f"{self.first_name}.{self.occurrence}.{self.surname}")


@dataclass(frozen=True, slots=True)
class Witness:
    """A person who stood by at a marriage, and as what."""

    person: Person
    role: str = "witness"


@dataclass(frozen=True, slots=True)
class Family:
    """Two partners, or one of whom the other is unknown, and their children, eldest first.

    Raises ValueError where there is no partner, or one person is in it twice.
    """

    husband: Person | None
    wife: Person | None
    children: tuple[Person, ...] = ()
    marriage: Event | None = None
    witnesses: tuple[Witness, ...] = ()

    def __post_init__(self) -> None:
        if not self.partners:
            raise ValueError("a family has at least one partner")
        members = self.partners + self.children
        if len(set(members)) < len(members):
            raise ValueError(f"the family of {self.partners[0].name} names one person twice")

    @property
    def partners(self) -> tuple[Person, ...]:
        """Husband and wife, as far as they are known."""
        return tuple(partner for partner in (self.husband, self.wife) if partner is not None)

    @property
    def persons(self) -> tuple[Person, ...]:
        """All that this family refers to: partners, children, witnesses."""
        return self.partners + self.children + tuple(witness.person for witness in self.witnesses)

    def with_person(self, person: Person) -> Family:
        """This family, with `person` in the place of the one that is equal to it."""

        def swap(member: Person) -> Person:
            return person if member == person else member

        return replace(
            self,
            husband=self.husband and swap(self.husband),
            wife=self.wife and swap(self.wife),
            children=tuple(map(swap, self.children)),
            witnesses=tuple(replace(witness, person=swap(witness.person)) for witness in self.witnesses),
        )


@dataclass(frozen=True, slots=True)
class Genealogy:
    """A closed set of persons and families: whoever a family refers to is among the persons.

    Raises ValueError where that is not so, where a person is there twice or is a child of two families, and where
    somebody would be an ancestor of himself.
    """

    persons: tuple[Person, ...] = ()
    families: tuple[Family, ...] = ()
    _by_key: Mapping[str, Person] = field(init=False, repr=False, compare=False)
    _parents: Mapping[Person, Family] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_key = {person.key: person for person in self.persons}
        if len(by_key) < len(self.persons):
            raise ValueError("a person is there twice: give one of them another occurrence")
        parents: dict[Person, Family] = {}
        for family in self.families:
            for person in family.persons:
                if by_key.get(person.key) is not person:
                    raise ValueError(f"{person.name} is in a family, but not among the persons")
            for child in family.children:
                if parents.setdefault(child, family) is not family:
                    raise ValueError(f"{child.name} is a child of two families")
        try:
            graphlib.TopologicalSorter(
                {child: family.partners for child, family in parents.items()}
            ).prepare()
        except graphlib.CycleError as error:
            raise ValueError(f"{error.args[1][0].name} would be an ancestor of himself") from None
        # The indexes are made once here, as the value never changes; a frozen value is filled in this way alone.
        object.__setattr__(self, "_by_key", by_key)
        object.__setattr__(self, "_parents", parents)

    def person(self, key: str) -> Person | None:
        """The person whose key this is, in either form that `canonical_key` knows."""
        return self._by_key.get(canonical_key(key))

    def parents_of(self, person: Person) -> Family | None:
        """The family that the person was born into."""
        return self._parents.get(person)

    def families_of(self, person: Person) -> tuple[Family, ...]:
        """The families that the person founded."""
        return tuple(family for family in self.families if person in family.partners)

    def with_person(self, person: Person) -> Genealogy:
        """A genealogy with `person` added, or in the place of the one equal to it, in its families too."""
        if person.key not in self._by_key:
            return replace(self, persons=(*self.persons, person))
        return Genealogy(
            persons=tuple(person if other == person else other for other in self.persons),
            families=tuple(family.with_person(person) for family in self.families),
        )

    def without_person(self, person: Person) -> Genealogy:
        """A genealogy without `person`; ValueError while a family refers to the person."""
        if any(person in family.persons for family in self.families):
            raise ValueError(f"{person.name} belongs to a family")
        return replace(self, persons=tuple(other for other in self.persons if other != person))

    def ancestors(self, root: Person, generations: int) -> Iterator[tuple[int, Person]]:
        """Sosa number and person, in ascending order: the root itself as 1, then `generations` generations.

        Where cousins married, one person comes under several numbers.
        """
        generation = {1: root}
        yield from generation.items()
        for _ in range(generations):
            generation = {
                number: parent
                for child_number, child in generation.items()
                for number, parent in self._numbered_parents(child_number, child)
            }
            yield from generation.items()

    def ancestor(self, root: Person, number: int) -> Person | None:
        """The person who has this Sosa number as seen from `root`, or None where nobody is known.

        After its leading 1, each binary digit of the number is a step: 0 to the father, 1 to the mother.
        Raises ValueError for a number below 1.
        """
        if number < 1:
            raise ValueError("Sosa numbers begin with 1")
        person = root
        for step in f"{number:b}"[1:]:
            family = self.parents_of(person)
            if family is None:
                return None
            parent = family.husband if step == "0" else family.wife
            if parent is None:
                return None
            person = parent
        return person

    def _numbered_parents(self, number: int, child: Person) -> Iterator[tuple[int, Person]]:
        family = self.parents_of(child)
        if family is None:
            return
        if family.husband is not None:
            yield 2 * number, family.husband
        if family.wife is not None:
            yield 2 * number + 1, family.wife
