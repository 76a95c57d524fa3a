"""The example genealogy: its values, and its HTTP service as a process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.genealogy.model import Event, Family, Genealogy, Person, Sex, Witness

GENEALOGY = Path(__file__).resolve().parent.parent / "examples" / "genealogy"

Start = Callable[..., Any]

words = st.text(st.characters(categories=["Lu", "Ll", "Lo"]), min_size=1, max_size=8)
names = st.lists(words, min_size=1, max_size=3).flatmap(
    lambda parts: st.sampled_from(" -'").map(lambda joint: joint.join(parts))
)
identities = st.tuples(names, names, st.integers(0, 5))
details = st.fixed_dictionaries(
    {
        "sex": st.sampled_from(Sex),
        "birth": st.none() | st.dates().map(lambda day: Event(day.isoformat())),
        "occupation": st.none() | st.text(max_size=5),
    }
)


@given(identities, details, details)
def test_persons_are_equal_by_first_name_surname_and_occurrence_alone(
    identity: tuple[str, str, int], one: dict[str, Any], other: dict[str, Any]
) -> None:
    first, second = Person(*identity, **one), Person(*identity, **other)
    assert first == second
    assert hash(first) == hash(second)
    assert len({first, second}) == 1


@given(identities, identities, details)
def test_persons_who_differ_in_any_of_the_three_are_not_equal(
    identity: tuple[str, str, int], other: tuple[str, str, int], same: dict[str, Any]
) -> None:
    assert (Person(*identity, **same) == Person(*other, **same)) == (identity == other)


@given(st.sets(identities, min_size=1, max_size=5))
def test_a_key_leads_back_to_its_person(chosen: set[tuple[str, str, int]]) -> None:
    genealogy = Genealogy(tuple(Person(*identity) for identity in chosen))
    for person in genealogy.persons:
        assert genealogy.person(person.key) is person
        assert genealogy.person(unquote(person.key)) is person
        assert person.key.isascii()
        assert "/" not in person.key


@st.composite
def pedigrees(draw: st.DrawFn) -> tuple[Genealogy, dict[int, Person]]:
    """Some of the ancestors of one person, who is number 1, and what number each has."""
    leaves = draw(st.sets(st.integers(1, 255), min_size=1, max_size=12))
    numbers = {leaf >> steps for leaf in leaves for steps in range(leaf.bit_length())}
    persons = {number: Person("Ancestor", "Known", number) for number in numbers}
    families = tuple(
        Family(persons.get(2 * number), persons.get(2 * number + 1), (child,))
        for number, child in persons.items()
        if 2 * number in persons or 2 * number + 1 in persons
    )
    return Genealogy(tuple(persons.values()), families), persons


@given(pedigrees())
def test_the_father_of_n_is_2n_and_the_mother_2n_plus_1(
    pedigree: tuple[Genealogy, dict[int, Person]],
) -> None:
    genealogy, persons = pedigree
    numbered = list(genealogy.ancestors(persons[1], 8))
    assert dict(numbered) == persons
    assert [number for number, _ in numbered] == sorted(persons)


@given(pedigrees(), st.integers(1, 1023))
def test_a_sosa_number_leads_back_to_its_person(
    pedigree: tuple[Genealogy, dict[int, Person]], number: int
) -> None:
    genealogy, persons = pedigree
    assert genealogy.ancestor(persons[1], number) is persons.get(number)


@given(pedigrees(), st.integers(0, 7))
def test_ancestors_end_with_the_generation_asked_for(
    pedigree: tuple[Genealogy, dict[int, Person]], generations: int
) -> None:
    genealogy, persons = pedigree
    numbers = {number for number, _ in genealogy.ancestors(persons[1], generations)}
    assert numbers == {number for number in persons if number.bit_length() <= generations + 1}


def test_where_cousins_married_an_ancestor_has_several_numbers() -> None:
    root, father, mother, grandfather = (Person("A", "B", occurrence) for occurrence in range(4))
    persons = (root, father, mother, grandfather)
    families = (Family(father, mother, (root,)), Family(grandfather, None, (father, mother)))
    ancestors = list(Genealogy(persons, families).ancestors(root, 2))
    assert ancestors == [(1, root), (2, father), (3, mother), (4, grandfather), (6, grandfather)]


def test_there_is_no_sosa_number_below_1() -> None:
    with pytest.raises(ValueError, match="begin with 1"):
        Genealogy().ancestor(Person("A", "B"), 0)


def test_values_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Person("A", "B").surname = "C"  # type: ignore[misc]


def test_a_changed_person_is_changed_in_every_family() -> None:
    old, partner, child = Person("A", "B"), Person("C", "D"), Person("E", "F")
    families = (Family(partner, old, (child,)), Family(None, child, witnesses=(Witness(old),)))
    new = dataclasses.replace(old, occupation="pilot")
    changed = Genealogy((old, partner, child), families).with_person(new)
    assert changed.person(new.key) is new
    assert changed.families[0].wife is new
    assert changed.families[1].witnesses[0].person is new
    assert changed.parents_of(child) is changed.families[0]


def test_a_genealogy_contradicts_neither_itself_nor_nature() -> None:
    a, b, c, d = (Person("A", "B", occurrence) for occurrence in range(4))
    with pytest.raises(ValueError, match="twice"):
        Genealogy((a, Person("A", "B")))
    with pytest.raises(ValueError, match="not among"):
        Genealogy((a,), (Family(a, b),))
    with pytest.raises(ValueError, match="two families"):
        Genealogy((a, b, c), (Family(a, None, (c,)), Family(b, None, (c,))))
    with pytest.raises(ValueError, match="ancestor of himself"):
        Genealogy((a, b), (Family(a, None, (b,)), Family(b, None, (a,))))
    with pytest.raises(ValueError, match="at least one"):
        Family(None, None, (a,))
    with pytest.raises(ValueError, match="one person twice"):
        Family(a, b, (a,))
    with pytest.raises(ValueError, match="belongs to a family"):
        Genealogy((a, b, d), (Family(a, b),)).without_person(a)


@pytest.mark.parametrize("date", ["1901-13", "1901-02-30", "01", "1901-1-1", "yesterday", "0000", "1901\n"])
def test_a_date_is_one_of_the_calendar(date: str) -> None:
    with pytest.raises(ValueError, match="no date"):
        Event(date)


@pytest.mark.parametrize("name", ["", "A.B", "a/b", "a%20b", "A  B", "A\n", "9", "x" * 65, " A"])
def test_a_name_fits_into_a_key(name: str) -> None:
    with pytest.raises(ValueError, match="is no name"):
        Person(name, "B")


@pytest.fixture
async def service(start_script: Start) -> AsyncIterator[aiohttp.ClientSession]:
    url = start_script(str(GENEALOGY / "service.py"), "--port", "0").url
    async with aiohttp.ClientSession(url) as client:
        yield client


async def ask(
    client: aiohttp.ClientSession, method: str, path: str, body: object = None, data: bytes | None = None
) -> tuple[int, Any]:
    """The status and the JSON of an answer; the path is relative to /api/v1/."""
    async with client.request(method, path, json=body, data=data) as response:
        content = await response.read()
        if response.status >= 400:
            assert response.content_type == "application/problem+json"
            assert json.loads(content)["status"] == response.status
        return response.status, json.loads(content) if content else None


async def test_persons_are_listed_in_pages(service: aiohttp.ClientSession) -> None:
    keys: list[str] = []
    path: str | None = "persons?limit=7"
    while path is not None:
        status, page = await ask(service, "GET", path)
        assert (status, page["total"]) == (200, 20)
        assert len(page["persons"]) <= 7
        keys += [person["key"] for person in page["persons"]]
        path = page["next"]
    assert len(keys) == len(set(keys)) == 20


async def test_persons_are_found_by_surname(service: aiohttp.ClientSession) -> None:
    _, page = await ask(service, "GET", "persons?surname=LEFÈVRE")
    assert [person["first_name"] for person in page["persons"]] == ["Isabelle", "André", "Eugène"]
    assert await ask(service, "GET", "persons?surname=Nobody") == (
        200,
        {"persons": [], "total": 0, "next": None},
    )


async def test_every_person_is_shown_under_the_key_that_is_listed(service: aiohttp.ClientSession) -> None:
    _, page = await ask(service, "GET", "persons?limit=100")
    for person in page["persons"]:
        assert await ask(service, "GET", f"persons/{person['key']}") == (200, person)


async def test_families_and_witnesses_are_shown(service: aiohttp.ClientSession) -> None:
    _, page = await ask(service, "GET", "persons/Philippe.0.Martin/families")
    (family,) = page["families"]
    assert family["wife"]["name"] == "Isabelle Lefèvre"
    assert [child["key"] for child in family["children"]] == ["Claire.0.Martin", "Jean.1.Martin"]
    assert family["witnesses"][0] == {
        "person": {"key": "Marc.0.Durand", "name": "Marc Durand"},
        "role": "best man",
    }
    _, everything = await ask(service, "GET", "families")
    assert everything["total"] == 7
    assert family in everything["families"]


async def test_ancestors_have_their_sosa_numbers(service: aiohttp.ClientSession) -> None:
    _, page = await ask(service, "GET", "persons/Claire.0.Martin/ancestors")
    ancestors = {each["sosa"]: each for each in page["ancestors"]}
    assert list(ancestors) == list(range(1, 16))
    assert ancestors[7]["person"]["first_name"] == "Thérèse"
    assert ancestors[14]["person"]["first_name"] == "Gaston"
    assert ancestors[14]["generation"] == 3
    _, page = await ask(service, "GET", "persons/Claire.0.Martin/ancestors?generations=1")
    assert [each["sosa"] for each in page["ancestors"]] == [1, 2, 3]


async def test_a_person_is_created_replaced_changed_and_deleted(service: aiohttp.ClientSession) -> None:
    body = {"first_name": "Ada", "surname": "King", "birth": {"date": "1815-12-10", "place": "London"}}
    async with service.post("persons", json=body) as response:
        assert response.status == 201
        assert response.headers["Location"] == "/api/v1/persons/Ada.0.King"
    path = "persons/Ada.0.King"
    assert (await ask(service, "POST", "persons", body))[0] == 409

    status, person = await ask(service, "PATCH", path, {"occupation": "mathematician", "birth": None})
    assert (status, person["occupation"], person["birth"]) == (200, "mathematician", None)
    status, person = await ask(service, "PUT", path, body)
    assert (status, person["occupation"], person["birth"]["date"]) == (200, None, "1815-12-10")
    assert await ask(service, "GET", path) == (200, person)

    assert await ask(service, "DELETE", path) == (204, None)
    assert (await ask(service, "GET", path))[0] == 404
    assert (await ask(service, "PUT", path, body))[0] == 201


async def test_a_changed_person_is_the_same_in_its_families(service: aiohttp.ClientSession) -> None:
    await ask(service, "PATCH", "persons/Jean.0.Martin", {"occupation": "typesetter"})
    _, page = await ask(service, "GET", "persons/Claire.0.Martin/ancestors")
    assert page["ancestors"][3]["person"]["occupation"] == "typesetter"


@pytest.mark.parametrize(
    ("method", "path", "data", "status"),
    [
        ("GET", "persons/Nobody.0.Nowhere", None, 404),
        ("GET", "persons/..%2F..%2Fetc", None, 404),
        ("GET", "nothing", None, 404),
        ("DELETE", "persons", None, 405),
        ("GET", "persons?limit=0", None, 400),
        ("GET", "persons?offset=-1", None, 400),
        ("GET", f"persons?limit={'9' * 5000}", None, 400),
        ("GET", "persons/Claire.0.Martin/ancestors?generations=17", None, 400),
        ("POST", "persons", b"", 400),
        ("POST", "persons", b"[]", 400),
        ("POST", "persons", b'{"first_name": "\xff", "surname": "B"}', 400),
        ("POST", "persons", b'{"first_name": "A/B", "surname": "C"}', 400),
        ("POST", "persons", b'{"first_name": "A", "surname": "B", "colour": "red"}', 400),
        ("POST", "persons", b'{"first_name": "A", "surname": "B", "birth": {"date": "1900-02-29"}}', 400),
        ("PATCH", "persons/Claire.0.Martin", b'{"surname": "Durand"}', 400),
        ("PUT", "persons/Claire.0.Martin", b'{"first_name": "Claire", "surname": "Durand"}', 409),
        ("DELETE", "persons/Claire.0.Martin", None, 409),
    ],
)
async def test_what_cannot_be_is_refused(
    service: aiohttp.ClientSession, method: str, path: str, data: bytes | None, status: int
) -> None:
    before = await ask(service, "GET", "persons?limit=100")
    answered, problem = await ask(service, method, path, data=data)
    assert answered == status
    assert problem["detail"]
    assert await ask(service, "GET", "persons?limit=100") == before


async def test_persons_kept_in_a_file_are_there_after_a_restart(start_script: Start, tmp_path: Path) -> None:
    command = (str(GENEALOGY / "service.py"), "--port", "0", "--data", str(tmp_path / "persons.json"))
    first = start_script(*command)
    async with aiohttp.ClientSession(first.url) as client:
        await ask(client, "POST", "persons", {"first_name": "Ada", "surname": "King"})
        _, families = await ask(client, "GET", "families")
    first.process.terminate()
    assert first.process.wait(timeout=20) == 0
    async with aiohttp.ClientSession(start_script(*command).url) as client:
        assert (await ask(client, "GET", "persons/Ada.0.King"))[0] == 200
        assert await ask(client, "GET", "families") == (200, families)
    assert sorted(tmp_path.glob("*")) == [tmp_path / "persons.json"]  # noqa: ASYNC240 - a folder of one file


@pytest.mark.parametrize("script", ["service.py", "mcp_server.py"])
def test_a_server_says_one_line_is_quiet_and_ends_0_on_sigterm(script: str) -> None:
    command = [sys.executable, str(GENEALOGY / script), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
    ) as server:
        assert server.stdout is not None
        url = server.stdout.readline().removeprefix("listening on ").strip()
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/nothing", timeout=10).close()
        server.terminate()
        assert server.communicate(timeout=20) == ("", "")
    assert server.returncode == 0


@pytest.mark.parametrize("script", ["service.py", "mcp_server.py"])
def test_a_server_that_cannot_start_says_why_in_one_line(script: str, tmp_path: Path) -> None:
    bad = tmp_path / "persons.json"
    bad.write_text('{"persons": [{"first_name": "Ada"}]}')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for options in (("--port", port), ("--port", "0", "--data", str(bad))):
            done = subprocess.run(
                [sys.executable, str(GENEALOGY / script), *options],
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.startswith(f"{script}: ")
            assert done.stderr.count("\n") == 1
