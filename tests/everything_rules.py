"""Who may have what of ``tests/servers/everything.py``: all but a tool that fails and a secret, by the permission ``all:use``."""

from __future__ import annotations

EVERYTHING_RULES = """
[[tools]]
match = "*_fail"
permissions = ["all:fail"]

[[tools]]
match = "*"
permissions = ["all:use"]

[[prompts]]
match = "*"
permissions = ["all:use"]

[[resources]]
match = "everything://secret"
permissions = ["all:secret"]

[[resources]]
match = "everything://*"
permissions = ["all:use"]
"""
