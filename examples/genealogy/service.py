"""A plain HTTP service of persons and families under /api/v1/, without any authentication of its own.

    python service.py [--host 127.0.0.1] [--port 9002] [--data FILE]

Persons are read and changed, families are read. Errors are `application/problem+json` (RFC 9457).
"""

from __future__ import annotations

import argparse
import asyncio
import http
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web
from archive import Archive, ConflictError
from model import Person, canonical_key
from wire import ancestor_views, family_view, patch_person, person_view, read_person

ROOT: Final = "/api/v1"
PAGE: Final = 20
MAXIMUM_PAGE: Final = 100
GENERATIONS: Final = 4
MAXIMUM_GENERATIONS: Final = 16


class GenealogyService:
    """The handlers, over one archive."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def application(self) -> web.Application:
        """The routes, and the one place where errors become answers."""
        application = web.Application(middlewares=[answer_problems])
        persons = f"{ROOT}/persons"
        application.add_routes(
            [
                web.get(persons, self.list_persons),
                web.post(persons, self.create_person),
                web.get(persons + "/{key}", self.show_person),
                web.put(persons + "/{key}", self.replace_person),
                web.patch(persons + "/{key}", self.change_person),
                web.delete(persons + "/{key}", self.delete_person),
                web.get(persons + "/{key}/families", self.list_families_of_person),
                web.get(persons + "/{key}/ancestors", self.list_ancestors),
                web.get(f"{ROOT}/families", self.list_families),
            ]
        )
        return application

    async def list_persons(self, request: web.Request) -> web.Response:
        """A page of persons, only those with `?surname=` (in any case) where it is given."""
        surname = request.query.get("surname", "").casefold()
        persons = self._archive.genealogy.persons
        found = [person for person in persons if not surname or person.surname.casefold() == surname]
        return answer_page(request, "persons", [person_view(person) for person in found])

    async def create_person(self, request: web.Request) -> web.Response:
        """201 with the person and its `Location`; 409 where an equal one is there."""
        person = read_person(await request.read())
        self._archive.add(person)
        return answer(person_view(person), 201, {"Location": f"{ROOT}/persons/{person.key}"})

    async def show_person(self, request: web.Request) -> web.Response:
        """One person."""
        return answer(person_view(self._person(request)))

    async def replace_person(self, request: web.Request) -> web.Response:
        """200 with the person anew, or 201 with a new person, who has this key."""
        person = read_person(await request.read())
        if person.key != canonical_key(request.match_info["key"]):
            raise ConflictError(
                f"the body names {person.key}: first name, occurrence and surname are the key"
            )
        known = self._archive.genealogy.person(person.key)
        self._archive.put(person)
        return answer(person_view(person), 201 if known is None else 200)

    async def change_person(self, request: web.Request) -> web.Response:
        """A merge patch (RFC 7396) of anything but first name, occurrence and surname."""
        patch = await request.read()
        person = patch_person(self._person(request), patch)
        self._archive.put(person)
        return answer(person_view(person))

    async def delete_person(self, request: web.Request) -> web.Response:
        """204; 409 while a family refers to the person."""
        self._archive.remove(self._person(request))
        return web.Response(status=204)

    async def list_families_of_person(self, request: web.Request) -> web.Response:
        """A page of the families that the person founded."""
        families = self._archive.genealogy.families_of(self._person(request))
        return answer_page(request, "families", [family_view(family) for family in families])

    async def list_ancestors(self, request: web.Request) -> web.Response:
        """The person and its ancestors by Sosa number, `?generations=` up."""
        generations = read_number(request, "generations", GENERATIONS, 0, MAXIMUM_GENERATIONS)
        ancestors = ancestor_views(self._archive.genealogy, self._person(request), generations)
        return answer({"ancestors": ancestors})

    async def list_families(self, request: web.Request) -> web.Response:
        """A page of all families."""
        families = self._archive.genealogy.families
        return answer_page(request, "families", [family_view(family) for family in families])

    def _person(self, request: web.Request) -> Person:
        person = self._archive.genealogy.person(request.match_info["key"])
        if person is None:
            raise web.HTTPNotFound(text="Nobody has this key: keys are first.occurrence.surname.")
        return person


def answer(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    return web.Response(
        body=msgspec.json.encode(content), status=status, headers=headers, content_type="application/json"
    )


def answer_page(request: web.Request, name: str, rows: Sequence[object]) -> web.Response:
    """The rows of `?offset=` and `?limit=` under `name`, their total, and the address of the next page or null."""
    limit = read_number(request, "limit", PAGE, 1, MAXIMUM_PAGE)
    offset = read_number(request, "offset", 0, 0, sys.maxsize)
    end = offset + limit
    following = str(request.rel_url.update_query(limit=limit, offset=end)) if end < len(rows) else None
    content: dict[str, Any] = {name: rows[offset:end], "total": len(rows), "next": following}
    return answer(content)


def answer_problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """An error, as RFC 9457 has it."""
    problem = {
        "type": "about:blank",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    return web.Response(
        body=msgspec.json.encode(problem),
        status=status,
        headers=headers,
        content_type="application/problem+json",
    )


@web.middleware
async def answer_problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Whatever a handler refuses, as JSON."""
    try:
        return await handler(request)
    except ConflictError as error:
        return answer_problem(409, str(error))
    except ValueError as error:
        return answer_problem(400, str(error))
    except web.HTTPException as error:
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return answer_problem(error.status, error.text or error.reason, allow)


def read_number(request: web.Request, name: str, default: int, least: int, most: int) -> int:
    """A number of the query. Raises ValueError where it is none, or out of bounds."""
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
        raise ValueError(f"{name} is a number from {least} to {most}")
    return int(text)


async def serve(application: web.Application, host: str, port: int) -> None:
    """Serves until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=5)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        bound_host, bound_port = runner.addresses[0][:2]
        print(f"listening on http://{bound_host}:{bound_port}{ROOT}/", flush=True)
        await stop.wait()
    finally:
        await runner.cleanup()


def main() -> None:
    """The command line. Exits 0 on SIGTERM, 1 with one line on stderr where it cannot start."""
    parser = argparse.ArgumentParser(description="Persons and families over HTTP.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9002, help="0 takes a free one")
    parser.add_argument(
        "--data", type=Path, help="JSON file to keep persons in; without it they are in memory"
    )
    options = parser.parse_args()
    try:
        service = GenealogyService(Archive(options.data))
        asyncio.run(serve(service.application(), options.host, options.port))
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
