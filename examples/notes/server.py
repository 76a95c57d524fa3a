"""An MCP server over stdio, with the official SDK: a folder of notes.

    python server.py [--folder ./notes] [--diagnostics]

Each note is a resource, `note:///NAME`. With `--diagnostics` the tool `environment` tells how the process was started,
so that one can see what whoever starts it hands on.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import quote

from folder import NoteError, NoteFolder
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError, ToolError
from mcp.types import Resource, ToolAnnotations
from pydantic import Field

# The standard library's TypedDict is not read by pydantic before Python 3.12.
from typing_extensions import TypedDict

SCHEME: Final = "note:///"
LIMITS: Final = {
    "memory": resource.RLIMIT_DATA,
    "address_space": resource.RLIMIT_AS,
    "open_files": resource.RLIMIT_NOFILE,
    "processes": resource.RLIMIT_NPROC,
    "core": resource.RLIMIT_CORE,
}

Name = Annotated[str, Field(description="letters, digits, spaces, hyphens and underscores", max_length=100)]


class Written(TypedDict):
    """What was written, and how large it is in bytes."""

    uri: str
    size: int


class Environment(TypedDict):
    """How this process was started. Only the names of the variables are shown, as values may be secret.

    A limit is [soft, hard], -1 where there is none.
    """

    variables: list[str]
    working_directory: str
    process_id: int
    process_group: int
    session: int
    user_id: int
    limits: dict[str, list[int]]


class NotesServer(MCPServer):
    """Tools over the folder, and every note as a resource that is listed."""

    def __init__(self, folder: NoteFolder, *, diagnostics: bool) -> None:
        super().__init__("notes", title="Notes", version="1.0", log_level="CRITICAL")
        self._folder = folder
        reading = ToolAnnotations(read_only_hint=True, open_world_hint=False)
        writing = ToolAnnotations(read_only_hint=False, idempotent_hint=True, open_world_hint=False)
        self.add_tool(self.list_notes, annotations=reading)
        self.add_tool(self.read_note, annotations=reading)
        self.add_tool(self.write_note, annotations=writing)
        self.add_tool(self.search_notes, annotations=reading)
        if diagnostics:
            self.add_tool(self.environment, annotations=reading)
        self.resource(SCHEME + "{name}", name="note", mime_type="text/plain")(self.read_note_resource)

    async def list_resources(self) -> list[Resource]:
        """The notes as they are now; the SDK by itself lists only what was registered at the start."""
        return [Resource(uri=_uri(name), name=name, mime_type="text/plain") for name in self._folder.names()]

    def list_notes(self) -> list[str]:
        """Lists the notes by name."""
        return self._folder.names()

    def read_note(self, name: Name) -> str:
        """Shows the text of a note."""
        try:
            return self._folder.read(name)
        except NoteError as error:
            raise ToolError(str(error)) from error

    def write_note(self, name: Name, text: str) -> Written:
        """Writes a note, in the place of the one with the same name."""
        try:
            return Written(uri=_uri(name), size=self._folder.write(name, text))
        except NoteError as error:
            raise ToolError(str(error)) from error

    def search_notes(self, words: Annotated[str, Field(min_length=1)]) -> dict[str, list[str]]:
        """Finds the lines that contain the words, in any case."""
        return self._folder.search(words)

    def environment(self) -> Environment:
        """Tells how this process was started."""
        return Environment(
            variables=_variables(),
            working_directory=str(Path.cwd()),
            process_id=os.getpid(),
            process_group=os.getpgrp(),
            session=os.getsid(0),
            user_id=os.getuid(),
            limits={name: list(resource.getrlimit(limit)) for name, limit in LIMITS.items()},
        )

    def read_note_resource(self, name: str) -> str:
        """A note by its name."""
        try:
            return self._folder.read(name)
        except NoteError as error:
            raise ResourceNotFoundError(str(error)) from error


def _uri(name: str) -> str:
    return SCHEME + quote(name, safe="")


def _variables() -> list[str]:
    """Names only, as they were handed over: Python may since have added LC_CTYPE for itself (PEP 538)."""
    handed_over = Path("/proc/self/environ")
    if not handed_over.exists():
        return sorted(os.environ)
    entries = handed_over.read_bytes().split(b"\0")
    return sorted(entry.partition(b"=")[0].decode(errors="replace") for entry in entries if entry)


def main() -> None:
    """The command line. Ends with its standard input, 1 with one line on stderr where it cannot start."""
    parser = argparse.ArgumentParser(description="A folder of notes as an MCP server over stdio.")
    parser.add_argument("--folder", type=Path, default=Path("notes"), help="made where it is missing")
    parser.add_argument("--diagnostics", action="store_true", help="offer the tool `environment`")
    options = parser.parse_args()
    try:
        folder = NoteFolder(options.folder)
    except OSError as error:
        sys.exit(f"{parser.prog}: {error}")
    NotesServer(folder, diagnostics=options.diagnostics).run("stdio")


if __name__ == "__main__":
    main()
