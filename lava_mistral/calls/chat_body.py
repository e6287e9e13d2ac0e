"""Build the body of a chat request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from operator import itemgetter
from typing import Any

from lava_mistral.calls.arguments import refuse_keys
from lava_mistral.mistral.history_repair import prepare
from lava_mistral.mistral.json_codec import to_json
from lava_mistral.mistral.tools import NO_TOOLS, ToolNames, with_object_schema
from lava_mistral.mistral.types import ChatRequest, Message
from lava_mistral.pricing.catalog import warn_if_deprecated

_KNOWN = ChatRequest.__annotations__.keys() - {"messages", "metadata", "stream"}


def chat_body(
    messages: Sequence[Message],
    model: str,
    parameters: Mapping[str, Any],
    *,
    stream: bool,
    repair: bool = True,
    names: ToolNames | None = None,
) -> dict[str, Any]:
    """Return the body of a chat request; what is `None` is left out, since Mistral's defaults differ by model."""
    given = {}
    for name, value in parameters.items():
        if value is not None:
            given[name] = value
    if not given.keys() <= _KNOWN:
        refuse_keys(given)
    warn_if_deprecated(model)
    if "mistral_metadata" in given:
        # `metadata` would be mistaken for what Lava stores.
        given["metadata"] = given.pop("mistral_metadata")
    body: dict[str, Any] = {
        "model": model,
        "messages": prepare(
            messages,
            tools=given.get("tools") or (),
            tool_choice=given.get("tool_choice"),
            response_format=given.get("response_format"),
            repair=repair,
        ),
    }
    body.update(given)
    if given.get("tools"):
        body["tools"] = [with_object_schema(tool) for tool in given["tools"]]
    elif "tools" in given:
        # Mistral refuses an empty list, and a choice among no tools.
        body.pop("tools", None)
        body.pop("tool_choice", None)
    if stream:
        body["stream"] = True
    if names is None:
        names = ToolNames.of_tools(given.get("tools"))
    if names is not NO_TOOLS or not {"system", "user"}.issuperset(map(itemgetter("role"), body["messages"])):
        body = names.applied(body)
    if body.get("prompt_cache_key") == "auto":
        # Equal for requests that begin alike, with system prompt and tools.
        system = [message for message in body["messages"] if message["role"] == "system"]
        body["prompt_cache_key"] = sha256(to_json([model, system, body.get("tools") or []])).hexdigest()[:32]
    return body
