"""What the MCP server offers: tools, resources and a prompt over one archive."""

from __future__ import annotations

from typing import Annotated

import anyio
from archive import Archive, ConflictError
from counters import Counters
from mcp import MCPError
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError, ToolError
from mcp.types import INVALID_PARAMS, ToolAnnotations
from model import Event, Genealogy, Person, Sex
from pydantic import Field

# The standard library's TypedDict is not read by pydantic before Python 3.12.
from typing_extensions import TypedDict
from wire import (
    AncestorView,
    PersonReference,
    PersonView,
    RelativesView,
    ancestor_views,
    person_reference,
    person_view,
    relatives_view,
)

Key = Annotated[str, Field(description="first.occurrence.surname, as list_persons shows it", max_length=512)]
Name = Annotated[str, Field(min_length=1, max_length=64)]
Date = Annotated[str | None, Field(description="YYYY, YYYY-MM or YYYY-MM-DD")]


class PersonPage(TypedDict):
    """Some of the persons, and how many there are."""

    persons: list[PersonReference]
    total: int


class PersonDetails(TypedDict):
    """A person, and the families around."""

    person: PersonView
    relatives: RelativesView


class Ancestry(TypedDict):
    """A person as Sosa number 1, and the ancestors."""

    ancestors: list[AncestorView]


class GenealogyTools:
    """The functions that MCP clients call. A refusal is a ToolError: the client reads it in the result."""

    def __init__(self, archive: Archive, counters: Counters) -> None:
        self._archive = archive
        self._counters = counters

    def register(self, server: MCPServer) -> None:
        """Puts everything on the server."""
        reading = ToolAnnotations(read_only_hint=True, open_world_hint=False)
        adding = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
        server.add_tool(self.list_persons, annotations=reading)
        server.add_tool(self.find_person, annotations=reading)
        server.add_tool(self.ancestors, annotations=reading)
        server.add_tool(self.add_person, annotations=adding)
        server.add_tool(self.slow_count, annotations=reading)
        server.resource("genealogy://persons", name="persons", mime_type="application/json")(
            self.read_persons
        )
        server.resource("genealogy://person/{key}", name="person", mime_type="application/json")(
            self.read_person
        )
        server.prompt()(self.biography)

    async def list_persons(
        self,
        surname: Annotated[str | None, Field(description="only those with this surname, in any case")] = None,
        limit: Annotated[int, Field(ge=1, le=100)] = 50,
        offset: Annotated[int, Field(ge=0)] = 0,
    ) -> PersonPage:
        """Lists the persons of the genealogy: keys and names."""
        persons = self._genealogy.persons
        found = [each for each in persons if surname is None or each.surname.casefold() == surname.casefold()]
        page = found[offset : offset + limit]
        return PersonPage(persons=[person_reference(person) for person in page], total=len(found))

    async def find_person(self, key: Key) -> PersonDetails:
        """Shows one person with dates, places, parents and own families."""
        person = self._person(key)
        return PersonDetails(person=person_view(person), relatives=relatives_view(self._genealogy, person))

    async def ancestors(self, key: Key, generations: Annotated[int, Field(ge=0, le=16)] = 4) -> Ancestry:
        """Shows a person's ancestors with their Sosa numbers: the person is 1, the father of n is 2n, the mother 2n+1."""
        return Ancestry(ancestors=ancestor_views(self._genealogy, self._person(key), generations))

    async def add_person(
        self,
        first_name: Name,
        surname: Name,
        *,
        occurrence: Annotated[
            int | None, Field(ge=0, description="tells namesakes apart; the lowest free one by default")
        ] = None,
        sex: Sex = Sex.UNKNOWN,
        birth_date: Date = None,
        birth_place: str | None = None,
        occupation: str | None = None,
    ) -> PersonView:
        """Adds a person to the genealogy."""
        try:
            person = Person(
                first_name,
                surname,
                self._archive.free_occurrence(first_name, surname) if occurrence is None else occurrence,
                sex=sex,
                birth=Event(birth_date, birth_place) if birth_date or birth_place else None,
                occupation=occupation,
            )
            self._archive.add(person)
        except (ValueError, ConflictError) as error:
            raise ToolError(str(error)) from error
        return person_view(person)

    async def slow_count(
        self,
        ctx: Context,
        seconds: Annotated[float, Field(ge=0, le=3600, description="how long it takes in all")] = 5,
        steps: Annotated[int, Field(ge=1, le=10_000)] = 5,
    ) -> str:
        """Counts slowly, reporting progress at each step; ends at once when it is cancelled."""
        try:
            for step in range(1, steps + 1):
                await anyio.sleep(seconds / steps)
                await ctx.report_progress(step, steps, f"{step} of {steps}")
        except anyio.get_cancelled_exc_class():
            self._counters.cancelled += 1
            raise
        return f"counted to {steps}"

    async def read_persons(self) -> list[PersonReference]:
        """Every person: key and name."""
        return [person_reference(person) for person in self._genealogy.persons]

    async def read_person(self, key: str) -> PersonDetails:
        """One person and the families around."""
        try:
            return await self.find_person(key)
        except ToolError as error:
            raise ResourceNotFoundError(str(error)) from error

    async def biography(self, key: Key) -> str:
        """Asks for a short life story of one person."""
        person = self._genealogy.person(key)
        if person is None:
            raise MCPError(INVALID_PARAMS, _unknown(key))
        return (
            f"Write a short biography of {person.name}, for the family and without inventing anything. "
            f"Take the facts from the resource genealogy://person/{person.key}, and the ancestors from the tool "
            f"`ancestors` with the key {person.key}."
        )

    @property
    def _genealogy(self) -> Genealogy:
        return self._archive.genealogy

    def _person(self, key: str) -> Person:
        person = self._genealogy.person(key)
        if person is None:
            raise ToolError(_unknown(key))
        return person


def _unknown(key: str) -> str:
    return f"nobody has the key {key!r}: keys are first.occurrence.surname"
