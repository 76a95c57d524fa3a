"""A stdio server that is let at its own folder alone works there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = """
[[upstreams]]
name = "notes"
transport = "stdio"
command = ["{python}", "{notes}/server.py", "--folder", "notes"]
prefix = "notes_"
sandbox = {{ read = ["{notes}", "{prefix}", "{base}"], write = ["notes"] }}

[[tools]]
match = "*"
access = "public"
"""


def test_it_works_in_its_folder(home: Any, caller: Any, wait_until: Any) -> None:
    (home.folder / "notes").mkdir()
    notes = ROOT / "examples" / "notes"
    home.configure(
        CONFIG.format(
            python=sys.executable,
            prefix=sys.prefix,
            base=sys.base_prefix,
            notes=notes,
        )
    )
    anybody = caller(home.serve())
    wait_until(lambda: "notes_write_note" in anybody.tools(), seconds=60)
    wrote = anybody.call("notes_write_note", {"name": "a", "text": "hello"})
    assert not wrote["result"].get("isError"), wrote
    assert [file.read_text() for file in (home.folder / "notes").iterdir()] == ["hello"]
