"""``ostiary tools``: what one may call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gateway.cli.output import print_json, print_table
from gateway.cli.pins import approve, diff, forget, listed
from gateway.cli.remote import credential_of_environment, gateway_option, signed_in
from gateway.cli.session import json_option

if TYPE_CHECKING:
    from gateway.client.session import Session


@click.group(invoke_without_command=True)
@gateway_option
@json_option
@click.pass_context
def tools(context: click.Context, url: str | None, *, as_json: bool) -> None:
    """List the tools that you may call.

    That is at the gateway that was signed in to last, or at --gateway URL.
    """
    if context.invoked_subcommand is not None:
        return
    from gateway.client.tools import Tools

    async def ask(session: Session) -> list[dict[str, Any]]:
        return await Tools(session).list()

    found = signed_in(url, ask, credential_of_environment())
    if as_json:
        print_json({"tools": found})
        return
    rows = [(tool.get("name"), _permissions(tool), _summary(tool)) for tool in found]
    print_table(("TOOL", "PERMISSIONS", "WHAT"), rows)


for command in (approve, diff, forget, listed):
    tools.add_command(command)


def _permissions(tool: dict[str, Any]) -> object:
    meta = tool.get("_meta")
    needed = meta.get("ostiary/permissions") if isinstance(meta, dict) else None
    return needed or "public"


def _summary(tool: dict[str, Any]) -> str:
    return str(tool.get("description") or "").strip().partition("\n")[0]
