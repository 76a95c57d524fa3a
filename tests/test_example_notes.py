"""The example notes server: the real process over stdio, driven by the official SDK's client in both eras."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.types import INVALID_PARAMS, TextContent, TextResourceContents

SERVER = str(Path(__file__).resolve().parent.parent / "examples" / "notes" / "server.py")
TOOLS = ["list_notes", "read_note", "write_note", "search_notes"]


def server(*options: str, folder: Path, env: dict[str, str] | None = None) -> StdioServerParameters:
    """How to start it, in `folder`, where its notes are by default."""
    return StdioServerParameters(command=sys.executable, args=[SERVER, *options], cwd=folder, env=env)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


@pytest.fixture(params=["legacy", "2026-07-28"])
def notes(request: pytest.FixtureRequest, folder: Path) -> Client:
    """To be entered by the test itself: the SDK has it entered and left in one task, a fixture's two halves are two."""
    return Client(server(folder=folder.parent), mode=request.param)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def call(client: Client, tool: str, arguments: dict[str, Any] | None = None) -> Any:
    """The structured content of a call that succeeds."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return result.structured_content


async def refusal(client: Client, tool: str, arguments: dict[str, Any]) -> str:
    """The text of a call that does not succeed."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    assert isinstance(result.content[0], TextContent)
    return result.content[0].text


async def test_a_note_is_written_listed_read_and_found(notes: Client, folder: Path) -> None:
    async with notes as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == TOOLS
        assert await call(client, "list_notes") == {"result": []}
        text = "Bread\nMilk, 2 l\nRéglisse\n"
        written = await call(client, "write_note", {"name": "to buy", "text": text})
        assert written == {"uri": "note:///to%20buy", "size": len(text.encode())}
        await call(client, "write_note", {"name": "empty", "text": ""})

        assert await call(client, "list_notes") == {"result": ["empty", "to buy"]}
        assert await call(client, "read_note", {"name": "to buy"}) == {"result": text}
        assert await call(client, "read_note", {"name": "empty"}) == {"result": ""}
        assert await call(client, "search_notes", {"words": "RÉG"}) == {"to buy": ["Réglisse"]}
        assert await call(client, "search_notes", {"words": "wine"}) == {}

        await call(client, "write_note", {"name": "to buy", "text": "Wine"})
        assert await call(client, "read_note", {"name": "to buy"}) == {"result": "Wine"}
        assert files(folder) == ["empty.txt", "to buy.txt"]
        assert (folder / "to buy.txt").stat().st_mode & 0o777 == 0o600


async def test_every_note_is_a_resource(notes: Client, folder: Path) -> None:
    async with notes as client:
        (folder / "a b.txt").write_text("first")
        (folder / "second.txt").write_text("second")
        resources = (await client.list_resources()).resources
        assert [(each.name, each.uri) for each in resources] == [
            ("a b", "note:///a%20b"),
            ("second", "note:///second"),
        ]
        (template,) = (await client.list_resource_templates()).resource_templates
        assert template.uri_template == "note:///{name}"
        (contents,) = (await client.read_resource("note:///a%20b")).contents
        assert isinstance(contents, TextResourceContents)
        assert (contents.text, contents.mime_type) == ("first", "text/plain")
        await call(client, "write_note", {"name": "third", "text": ""})
        listed = await client.list_resources(cache_mode="refresh")
        assert [each.name for each in listed.resources] == ["a b", "second", "third"]


async def test_no_name_leads_out_of_the_folder(notes: Client, folder: Path) -> None:
    (folder.parent / "outside.txt").write_text("secret")
    names = [
        "",
        "..",
        "../outside",
        "/etc/passwd",
        "a/b",
        ".hidden",
        "a.txt",
        "a\0b",
        "a\n",
        "é",
        "x" * 101,
        "a ",
    ]
    async with notes as client:
        for name in names:
            said = await refusal(client, "read_note", {"name": name})
            assert "is no name" in said or "at most 100 characters" in said
            said = await refusal(client, "write_note", {"name": name, "text": "x"})
            assert "is no name" in said or "at most 100 characters" in said
    assert files(folder) == []
    assert (folder.parent / "outside.txt").read_text() == "secret"


async def test_no_uri_leads_out_of_the_folder(notes: Client, folder: Path) -> None:
    (folder.parent / "outside.txt").write_text("secret")
    async with notes as client:
        for path in ("..%2Foutside", "../outside", "/etc/passwd", "none", ""):
            with pytest.raises(MCPError) as refused:
                await client.read_resource(f"note:///{path}")
            assert refused.value.code == INVALID_PARAMS
            assert "secret" not in str(refused.value)


async def test_links_and_other_things_are_not_notes(notes: Client, folder: Path) -> None:
    async with notes as client:
        outside = folder.parent / "outside.txt"
        outside.write_text("secret")
        (folder / "link.txt").symlink_to(outside)
        (folder / "dangling.txt").symlink_to(folder / "nothing")
        (folder / "folder.txt").mkdir()
        os.mkfifo(folder / "pipe.txt")
        before = files(folder)
        assert await call(client, "list_notes") == {"result": []}
        assert await call(client, "search_notes", {"words": "secret"}) == {}
        for name in ("link", "dangling", "folder", "pipe"):
            assert "secret" not in await refusal(client, "read_note", {"name": name})
            assert "not a regular file" in await refusal(client, "write_note", {"name": name, "text": "x"})
        assert outside.read_text() == "secret"
        assert files(folder) == before


async def test_what_is_too_large_or_no_text_is_refused(notes: Client, folder: Path) -> None:
    async with notes as client:
        (folder / "large.txt").write_bytes(b"x" * (1024 * 1024 + 1))
        (folder / "binary.txt").write_bytes(b"\xff\xfe")
        (folder / "good.txt").write_text("x marks the spot")
        assert "larger" in await refusal(client, "read_note", {"name": "large"})
        assert "not UTF-8" in await refusal(client, "read_note", {"name": "binary"})
        assert "at most" in await refusal(client, "write_note", {"name": "new", "text": "é" * (1024 * 1024)})
        assert await call(client, "search_notes", {"words": "x"}) == {"good": ["x marks the spot"]}
        assert "there is no note" in await refusal(client, "read_note", {"name": "missing"})


async def test_the_folder_is_made_private_where_it_is_missing(tmp_path: Path) -> None:
    async with Client(server("--folder", "deep/down", folder=tmp_path)) as client:
        await client.call_tool("write_note", {"name": "a", "text": "b"})
    assert (tmp_path / "deep" / "down" / "a.txt").read_text() == "b"
    assert (tmp_path / "deep" / "down").stat().st_mode & 0o777 == 0o700


async def test_diagnostics_tell_how_it_was_started(folder: Path) -> None:
    parameters = server("--diagnostics", folder=folder.parent, env={"OSTIARY_TEST_TOKEN": "value-not-shown"})
    async with Client(parameters) as client:
        result = await client.call_tool("environment")
    told = result.structured_content
    assert told is not None
    assert "OSTIARY_TEST_TOKEN" in told["variables"]
    assert "value-not-shown" not in result.model_dump_json()
    assert set(told["variables"]) <= {
        "HOME",
        "LOGNAME",
        "PATH",
        "SHELL",
        "TERM",
        "USER",
        "OSTIARY_TEST_TOKEN",
    }
    assert told["working_directory"] == str(folder.parent)
    # The SDK's client starts a server as the leader of a session of its own.
    assert told["process_id"] == told["process_group"] == told["session"]
    assert told["process_id"] != os.getpid()
    assert told["user_id"] == os.getuid()
    assert set(told["limits"]) == {"memory", "address_space", "open_files", "processes", "core"}


def test_it_ends_0_and_quietly_when_its_input_ends(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SERVER],
        input="",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_folder_that_cannot_be_opened_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, SERVER, "--folder", "file"],
        capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("server.py: ")
    assert done.stderr.count("\n") == 1
