"""The tools that the official suite calls, and what each must answer.

A tool is a coroutine that takes a ``Call``. What it asks of the client (``Call.ask``) is a request of the server's own
in the legacy era, and an ``input_required`` result in the modern one, in which the tool runs again with the answers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from calls import (
    IMAGE,
    JSON,
    MISSING_CAPABILITY,
    NAME,
    STRING,
    WAV,
    Call,
    InputRequiredError,
    RpcError,
    form,
    result,
    sampling,
    text,
)

EXTRA_TOOL = "test_extra_tool"
EXTRA_PROMPT = "test_extra_prompt"
WATCHED = "test://watched-resource"
DEFAULTS: JSON = {
    "name": {"type": "string", "default": "John Doe"},
    "age": {"type": "integer", "default": 30},
    "score": {"type": "number", "default": 95.5},
    "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
    "verified": {"type": "boolean", "default": True},
}
TITLED = [{"const": f"value{n}", "title": f"{word} Option"} for n, word in enumerate(("First", "Second"), 1)]
ENUMS: JSON = {
    "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
    "titledSingle": {"type": "string", "oneOf": TITLED},
    "legacyEnum": {
        "type": "string",
        "enum": ["opt1", "opt2", "opt3"],
        "enumNames": ["Option One", "Option Two", "Option Three"],
    },
    "untitledMulti": {
        "type": "array",
        "items": {"type": "string", "enum": ["option1", "option2", "option3"]},
    },
    "titledMulti": {"type": "array", "items": {"anyOf": TITLED}},
}
SCHEMA_2020_12: JSON = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": STRING, "city": STRING},
        }
    },
    "properties": {
        "name": STRING,
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": STRING,
        "email": STRING,
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}

Tool = Callable[[Call], Awaitable[JSON]]


@dataclass(frozen=True)
class Offered:
    """A tool, and how it is listed."""

    run: Tool
    definition: JSON
    legacy: bool
    modern: bool


TOOLS: dict[str, Offered] = {}
"""By name, in the order in which they are listed."""


def listed(extra: set[str], *, modern: bool) -> list[JSON]:
    """The tools of that era."""
    return [
        tool.definition
        for name, tool in TOOLS.items()
        if (tool.modern if modern else tool.legacy) and (name != EXTRA_TOOL or name in extra)
    ]


def _object(**properties: JSON) -> JSON:
    return {"type": "object", "properties": properties}


def _tool(
    name: str, description: str, *, schema: JSON | None = None, legacy: bool = True, modern: bool = True
) -> Callable[[Tool], Tool]:
    def offer(run: Tool) -> Tool:
        definition = {"name": name, "description": description, "inputSchema": schema or _object()}
        TOOLS[name] = Offered(run, definition, legacy, modern)
        return run

    return offer


def _needs(call: Call, capability: str) -> None:
    if capability not in call.capabilities:
        raise RpcError(
            MISSING_CAPABILITY,
            f"The client has not declared {capability}.",
            {"requiredCapabilities": {capability: {}}},
        )


async def _elicited(call: Call, params: JSON) -> JSON:
    answer = await call.ask("answer", "elicitation/create", params)
    content = json.dumps(answer.get("content"))
    return result(text(f"Elicitation completed: action={answer.get('action')}, content={content}"))


@_tool("test_simple_text", "A text.")
@_tool(EXTRA_TOOL, "Comes and goes.")
@_tool("test_reconnection", "Ends its stream before it answers.", modern=False)
async def simple(call: Call) -> JSON:
    return result(text("This is a simple text response for testing."))


@_tool("test_image_content", "An image.")
async def image(call: Call) -> JSON:
    return result(IMAGE)


@_tool("test_audio_content", "A sound.")
async def audio(call: Call) -> JSON:
    return result({"type": "audio", "data": WAV, "mimeType": "audio/wav"})


@_tool("test_embedded_resource", "An embedded resource.")
async def embedded(call: Call) -> JSON:
    resource = {"uri": "test://embedded-resource", "mimeType": "text/plain"}
    return result(
        {
            "type": "resource",
            "resource": {**resource, "text": "This is an embedded resource content."},
        }
    )


@_tool("test_multiple_content_types", "Text, image and resource.")
async def mixed(call: Call) -> JSON:
    resource = {"uri": "test://mixed-content-resource", "mimeType": "application/json"}
    data = json.dumps({"test": "data", "value": 123})
    return result(
        text("Multiple content types test:"),
        IMAGE,
        {"type": "resource", "resource": {**resource, "text": data}},
    )


@_tool("test_error_handling", "Always fails.")
async def failing(call: Call) -> JSON:
    return {**result(text("This tool intentionally returns an error for testing")), "isError": True}


@_tool("test_tool_with_progress", "Reports progress.")
async def progressing(call: Call) -> JSON:
    token = call.meta.get("progressToken")
    for progress in (0, 50, 100):
        if token is not None:
            params = {"progressToken": token, "progress": progress, "total": 100}
            await call.notify("notifications/progress", params)
        await asyncio.sleep(0.05)
    return result(text("Done."))


@_tool("test_tool_with_logging", "Logs three lines.")
async def logging(call: Call) -> JSON:
    for line in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await call.log(line)
        await asyncio.sleep(0.05)
    return result(text("Tool executed, and logged."))


@_tool("json_schema_2020_12_tool", "Tool with JSON Schema 2020-12 features", schema=SCHEMA_2020_12)
async def with_schema(call: Call) -> JSON:
    return result(text(json.dumps(call.arguments)))


@_tool("test_trigger_tool_change", "Adds a tool, or takes it away.")
async def change_tools(call: Call) -> JSON:
    call.extra.symmetric_difference_update({EXTRA_TOOL})
    await call.announce("notifications/tools/list_changed")
    return result(text("The tools changed."))


@_tool("test_trigger_prompt_change", "Adds a prompt, or takes it away.")
async def change_prompts(call: Call) -> JSON:
    call.extra.symmetric_difference_update({EXTRA_PROMPT})
    await call.announce("notifications/prompts/list_changed")
    return result(text("The prompts changed."))


@_tool("test_trigger_resource_update", "Says that the watched resource changed.")
async def update_resource(call: Call) -> JSON:
    await call.announce("notifications/resources/updated", {"uri": WATCHED})
    return result(text("The resource changed."))


@_tool("test_slow", "Takes its time.", schema=_object(seconds={"type": "number"}))
async def slow(call: Call) -> JSON:
    await asyncio.sleep(float(call.arguments.get("seconds", 1)))
    return result(text("Slept."))


# -- what asks the client, in the way of either era


@_tool("test_sampling", "Asks the client's model.", schema=_object(prompt=STRING))
async def sample(call: Call) -> JSON:
    answer = await call.ask("answer", "sampling/createMessage", sampling(str(call.arguments["prompt"])))
    content = answer.get("content")
    said = content.get("text") if isinstance(content, dict) else content
    return result(text(f"LLM response: {said}"))


@_tool("test_elicitation", "Asks the user.", schema=_object(message=STRING))
async def elicit(call: Call) -> JSON:
    fields = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    return await _elicited(call, form(str(call.arguments["message"]), **fields))


@_tool("test_elicitation_sep1034_defaults", "Asks with defaults.")
async def defaults(call: Call) -> JSON:
    return await _elicited(call, form("Please review", [], **DEFAULTS))


@_tool("test_elicitation_sep1330_enums", "Asks with choices.")
async def enums(call: Call) -> JSON:
    return await _elicited(call, form("Please choose", [], **ENUMS))


@_tool("test_list_roots", "Asks for the client's roots.")
async def roots(call: Call) -> JSON:
    answer = await call.ask("client_roots", "roots/list", {})
    return result(text(json.dumps(answer.get("roots"))))


# -- what only the 2026-07-28 era has: results that require input


@_tool("test_input_required_result_elicitation", "Requires input.", legacy=False)
async def required_elicitation(call: Call) -> JSON:
    answer = call.responses.get("user_name")
    name = (answer.get("content") or {}).get("name") if isinstance(answer, dict) else None
    if not isinstance(name, str):
        raise InputRequiredError({"user_name": {"method": "elicitation/create", "params": NAME}})
    return result(text(f"Hello, {name}!"))


@_tool("test_input_required_result_sampling", "Requires input.", legacy=False)
async def required_sampling(call: Call) -> JSON:
    params = sampling("What is the capital of France?")
    answer = await call.ask("capital_question", "sampling/createMessage", params)
    return result(text(f"The model says: {json.dumps(answer.get('content'))}"))


@_tool("test_input_required_result_list_roots", "Requires input.", legacy=False)
async def required_roots(call: Call) -> JSON:
    answer = await call.ask("client_roots", "roots/list", {})
    return result(text(f"Roots: {json.dumps(answer.get('roots'))}"))


@_tool("test_input_required_result_request_state", "Requires input.", legacy=False)
@_tool("test_input_required_result_tampered_state", "Requires input.", legacy=False)
async def required_state(call: Call) -> JSON:
    if not call.responses:
        params = form("Please confirm", ok={"type": "boolean"})
        asked = {"confirm": {"method": "elicitation/create", "params": params}}
        raise InputRequiredError(asked, call.seal.make("confirm"))
    call.seal.open(call.state)
    return result(text("state-ok"))


@_tool("test_input_required_result_multiple_inputs", "Requires input.", legacy=False)
async def required_answers(call: Call) -> JSON:
    asked = {
        "user_name": {"method": "elicitation/create", "params": NAME},
        "greeting": {
            "method": "sampling/createMessage",
            "params": sampling("Generate a greeting", 50),
        },
        "client_roots": {"method": "roots/list", "params": {}},
    }
    if not asked.keys() <= call.responses.keys():
        raise InputRequiredError(asked, call.seal.make("several"))
    call.seal.open(call.state)
    return result(text("All three answers came."))


@_tool("test_input_required_result_multi_round", "Requires input.", legacy=False)
async def two_rounds(call: Call) -> JSON:
    if call.state is None:
        params = form("Step 1: What is your name?", name=STRING)
        asked = {"step1": {"method": "elicitation/create", "params": params}}
        raise InputRequiredError(asked, call.seal.make("round-1"))
    if call.seal.open(call.state) == "round-1":
        params = form("Step 2: What is your favorite color?", color=STRING)
        asked = {"step2": {"method": "elicitation/create", "params": params}}
        raise InputRequiredError(asked, call.seal.make("round-2"))
    return result(text("Both steps were taken."))


@_tool("test_input_required_result_capabilities", "Requires input.", legacy=False)
async def what_can_be_asked(call: Call) -> JSON:
    possible = {
        "elicitation": {"method": "elicitation/create", "params": NAME},
        "sampling": {"method": "sampling/createMessage", "params": sampling("Say hello")},
        "roots": {"method": "roots/list", "params": {}},
    }
    asked = {key: request for key, request in possible.items() if key in call.capabilities}
    if asked and not call.responses:
        raise InputRequiredError(asked)
    return result(text("Asked what can be asked."))


@_tool("test_missing_capability", "Needs sampling.", legacy=False)
async def missing_capability(call: Call) -> JSON:
    _needs(call, "sampling")
    return result(text("The client can sample."))


@_tool("test_streaming_elicitation", "Streams, then asks.", legacy=False)
async def streaming(call: Call) -> JSON:
    _needs(call, "elicitation")
    token = call.meta.get("progressToken", call.name)
    await call.notify("notifications/progress", {"progressToken": token, "progress": 1, "total": 2})
    answer = await call.ask("user_name", "elicitation/create", NAME)
    return result(text(json.dumps(answer.get("content"))))


@_tool("test_logging_tool", "Logs a line.", legacy=False)
async def logs(call: Call) -> JSON:
    await call.log("Only for those who asked.")
    return result(text("Logged, where asked for."))


MIRRORED = "test_x_mcp_header"
MARKED = {"region": "Region", "shards": "Shards", "strict": "Strict"}
"""Its arguments that a header repeats, and the end of that header's name."""


@_tool(
    MIRRORED,
    "Has arguments that headers repeat.",
    legacy=False,
    schema=_object(
        region={"type": "string", "x-mcp-header": MARKED["region"]},
        shards={"type": "integer", "x-mcp-header": MARKED["shards"]},
        strict={"type": "boolean", "x-mcp-header": MARKED["strict"]},
    ),
)
async def mirrored(call: Call) -> JSON:
    return result(text(json.dumps(call.arguments)))
