"""The prompts and resources of the conformance upstream."""

from __future__ import annotations

import json

from calls import IMAGE, INVALID_PARAMS, JSON, PNG, STRING, Call, RpcError, form, text
from tools import EXTRA_PROMPT, WATCHED


def prompts(extra: set[str], *, modern: bool) -> list[JSON]:
    def argument(name: str, description: str) -> JSON:
        return {"name": name, "description": description, "required": True}

    found: list[JSON] = [
        {"name": "test_simple_prompt", "description": "A simple prompt."},
        {
            "name": "test_prompt_with_arguments",
            "description": "A prompt with two arguments.",
            "arguments": [argument("arg1", "The first."), argument("arg2", "The second.")],
        },
        {
            "name": "test_prompt_with_embedded_resource",
            "description": "A prompt with a resource.",
            "arguments": [argument("resourceUri", "The resource to embed.")],
        },
        {"name": "test_prompt_with_image", "description": "A prompt with an image."},
    ]
    if modern:
        found.append({"name": "test_input_required_result_prompt", "description": "Requires input."})
    if EXTRA_PROMPT in extra:
        found.append({"name": EXTRA_PROMPT, "description": "Comes and goes."})
    return found


async def prompt(call: Call) -> JSON:
    """The result of ``prompts/get``. Raises InputRequired, RpcError."""

    def messages(*content: JSON) -> JSON:
        return {"messages": [{"role": "user", "content": item} for item in content]}

    match call.name:
        case "test_simple_prompt" | "test_extra_prompt":
            return messages(text("This is a simple prompt for testing."))
        case "test_prompt_with_arguments":
            first, second = call.arguments.get("arg1"), call.arguments.get("arg2")
            return messages(text(f"Prompt with arguments: arg1='{first}', arg2='{second}'"))
        case "test_prompt_with_embedded_resource":
            resource = {"uri": call.arguments.get("resourceUri"), "mimeType": "text/plain"}
            embedded = {**resource, "text": "Embedded resource content for testing."}
            return messages(
                {"type": "resource", "resource": embedded},
                text("Please process the embedded resource above."),
            )
        case "test_prompt_with_image":
            return messages(IMAGE, text("Please analyze the image above."))
        case "test_input_required_result_prompt":
            params = form("What context should the prompt use?", context=STRING)
            answer = await call.ask("user_context", "elicitation/create", params)
            return messages(text(f"Context: {json.dumps(answer.get('content'))}"))
    raise RpcError(INVALID_PARAMS, f"Unknown prompt: {call.name}")


# -- resources --------------------------------------------------------------------------------------------------------

RESOURCES: list[JSON] = [
    {
        "uri": "test://static-text",
        "name": "static-text",
        "description": "A text.",
        "mimeType": "text/plain",
    },
    {
        "uri": "test://static-binary",
        "name": "static-binary",
        "description": "An image.",
        "mimeType": "image/png",
    },
    {"uri": WATCHED, "name": "watched-resource", "description": "It changes.", "mimeType": "text/plain"},
]
TEMPLATES: list[JSON] = [
    {
        "uriTemplate": "test://template/{id}/data",
        "name": "template",
        "description": "Data by id.",
        "mimeType": "application/json",
    }
]


def read(uri: str) -> JSON | None:
    """The contents of a resource; None where there is none."""
    if uri == "test://static-text":
        return {
            "uri": uri,
            "mimeType": "text/plain",
            "text": "This is the content of the static text resource.",
        }
    if uri == "test://static-binary":
        return {"uri": uri, "mimeType": "image/png", "blob": PNG}
    if uri == WATCHED:
        return {"uri": uri, "mimeType": "text/plain", "text": "Watched."}
    name = uri.removeprefix("test://template/").removesuffix("/data")
    if uri == f"test://template/{name}/data" and name and "/" not in name:
        data = {"id": name, "templateTest": True, "data": f"Data for ID: {name}"}
        return {"uri": uri, "mimeType": "application/json", "text": json.dumps(data)}
    return None
