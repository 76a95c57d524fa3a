"""JSON in and out: the bodies that are read, and the views that are shown, over HTTP and MCP alike.

Whatever refers to a person by key does so here only: reading a body turns each key into the person itself.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
from model import Event, Family, Genealogy, Person, Sex, Witness

# The standard library's TypedDict is not read by pydantic, which the MCP SDK uses, before Python 3.12.
from typing_extensions import TypedDict


class PersonBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole person, as it is created, replaced or stored."""

    first_name: str
    surname: str
    occurrence: int = 0
    sex: Sex = Sex.UNKNOWN
    birth: Event | None = None
    death: Event | None = None
    occupation: str | None = None


class PersonPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A merge patch (RFC 7396) of all that is not the person's identity."""

    sex: Sex | msgspec.UnsetType = msgspec.UNSET
    birth: Event | msgspec.UnsetType | None = msgspec.UNSET
    death: Event | msgspec.UnsetType | None = msgspec.UNSET
    occupation: str | msgspec.UnsetType | None = msgspec.UNSET


class WitnessBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A witness, by key."""

    person: str
    role: str = "witness"


class FamilyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A family, its persons by key."""

    husband: str | None = None
    wife: str | None = None
    children: tuple[str, ...] = ()
    marriage: Event | None = None
    witnesses: tuple[WitnessBody, ...] = ()


class GenealogyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of persons and families."""

    persons: tuple[PersonBody, ...]
    families: tuple[FamilyBody, ...] = ()


def read_person(body: bytes) -> Person:
    """The person that the JSON describes. Raises ValueError that says what is wrong, and where."""
    return _person(msgspec.json.decode(body, type=PersonBody))


def patch_person(person: Person, body: bytes) -> Person:
    """The person with the patch applied. Raises ValueError that says what is wrong, and where."""
    patch = msgspec.structs.asdict(msgspec.json.decode(body, type=PersonPatch))
    return replace(person, **{name: value for name, value in patch.items() if value is not msgspec.UNSET})


def read_genealogy(body: bytes) -> Genealogy:
    """The genealogy that the JSON describes. Raises ValueError that says what is wrong, and where."""
    file = msgspec.json.decode(body, type=GenealogyBody)
    persons = Genealogy(tuple(map(_person, file.persons)))

    def found(key: str) -> Person:
        person = persons.person(key)
        if person is None:
            raise ValueError(f"a family names {key!r}, who is not among the persons")
        return person

    families = tuple(
        Family(
            husband=found(family.husband) if family.husband else None,
            wife=found(family.wife) if family.wife else None,
            children=tuple(map(found, family.children)),
            marriage=family.marriage,
            witnesses=tuple(Witness(found(witness.person), witness.role) for witness in family.witnesses),
        )
        for family in file.families
    )
    return Genealogy(persons.persons, families)


def write_genealogy(genealogy: Genealogy) -> bytes:
    """The JSON that `read_genealogy` reads back to an equal value."""
    families = tuple(
        FamilyBody(
            husband=family.husband.key if family.husband else None,
            wife=family.wife.key if family.wife else None,
            children=tuple(child.key for child in family.children),
            marriage=family.marriage,
            witnesses=tuple(WitnessBody(witness.person.key, witness.role) for witness in family.witnesses),
        )
        for family in genealogy.families
    )
    persons = tuple(msgspec.convert(person, PersonBody, from_attributes=True) for person in genealogy.persons)
    return msgspec.json.format(msgspec.json.encode(GenealogyBody(persons, families)))


def _person(body: PersonBody) -> Person:
    return Person(**msgspec.structs.asdict(body))


class EventView(TypedDict):
    """When and where, as far as is known."""

    date: str | None
    place: str | None


class PersonReference(TypedDict):
    """Whom one may ask for: what is shown of a person to everybody."""

    key: str
    name: str


class PersonView(TypedDict):
    """All that is known of one person alone."""

    key: str
    first_name: str
    surname: str
    occurrence: int
    sex: str
    birth: EventView | None
    death: EventView | None
    occupation: str | None


class WitnessView(TypedDict):
    """A witness of a marriage."""

    person: PersonReference
    role: str


class FamilyView(TypedDict):
    """A family, its persons by reference."""

    husband: PersonReference | None
    wife: PersonReference | None
    children: list[PersonReference]
    marriage: EventView | None
    witnesses: list[WitnessView]


class AncestorView(TypedDict):
    """An ancestor under one Sosa number; generation 0 is the root."""

    sosa: int
    generation: int
    person: PersonView


class RelativesView(TypedDict):
    """The family that a person was born into, and those that the person founded."""

    parents: FamilyView | None
    families: list[FamilyView]


def person_reference(person: Person) -> PersonReference:
    """Key and name."""
    return PersonReference(key=person.key, name=person.name)


def person_view(person: Person) -> PersonView:
    """The person, without relatives."""
    return PersonView(
        key=person.key,
        first_name=person.first_name,
        surname=person.surname,
        occurrence=person.occurrence,
        sex=person.sex,
        birth=_event_view(person.birth),
        death=_event_view(person.death),
        occupation=person.occupation,
    )


def family_view(family: Family) -> FamilyView:
    """The family, with everyone in it."""
    return FamilyView(
        husband=person_reference(family.husband) if family.husband else None,
        wife=person_reference(family.wife) if family.wife else None,
        children=[person_reference(child) for child in family.children],
        marriage=_event_view(family.marriage),
        witnesses=[
            WitnessView(person=person_reference(each.person), role=each.role) for each in family.witnesses
        ],
    )


def relatives_view(genealogy: Genealogy, person: Person) -> RelativesView:
    """The families around one person."""
    parents = genealogy.parents_of(person)
    return RelativesView(
        parents=family_view(parents) if parents else None,
        families=[family_view(family) for family in genealogy.families_of(person)],
    )


def ancestor_views(genealogy: Genealogy, root: Person, generations: int) -> list[AncestorView]:
    """The root and its ancestors in the order of their Sosa numbers."""
    return [
        AncestorView(sosa=number, generation=number.bit_length() - 1, person=person_view(person))
        for number, person in genealogy.ancestors(root, generations)
    ]


def _event_view(event: Event | None) -> EventView | None:
    return EventView(date=event.date, place=event.place) if event else None
