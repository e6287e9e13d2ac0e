"""Build the body of a chat request and refuse fields that do not belong into it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from operator import itemgetter
from typing import Any

from lava_mistral.errors import ConfigurationError
from lava_mistral.mistral.conversation import prepare
from lava_mistral.mistral.json_codec import to_json
from lava_mistral.mistral.tools import NO_TOOLS, ToolNames, with_object_schema
from lava_mistral.mistral.types import ChatRequest, Message
from lava_mistral.pricing.catalog import notice_status

# No field of Mistral's has such a name.
_CREDENTIAL = re.compile(
    r"(api|access|account|auth|encryption|forward|license|master|private|provider|secret|signing|subscription)[-_]?key$"
    r"|(?<!max_)(?<!min_)(?<!completion_)token$|secret|passw(or)?d|passphrase|credential|^auth(orization|entication)?$|bearer|cookie",
    re.IGNORECASE,
)
# Where a setting goes that Mistral's body must not hold.
_ELSEWHERE = {
    **dict.fromkeys(
        ("headers", "extra_headers", "default_headers"),
        "Headers go on a client of your own, http_client=httpx.Client(headers=…); what Lava shall store with a call "
        "goes into lava_metadata=.",
    ),
    **dict.fromkeys(
        ("http_client", "async_http_client", "http_async_client", "base_url"),
        "It goes on the client or model: make a second one, of a framework's model by model_copy(update={…}).",
    ),
    **dict.fromkeys(
        ("endpoint", "server_url", "mistral_api_url"),
        "Calls go to Mistral through Lava, whose own address is base_url= of the client or model. Leave it out.",
    ),
    "metadata": "What Lava shall store with a call goes into lava_metadata=; Mistral: mistral_metadata=.",
    "spend_limit": "It goes on the client or model, or on a block around the call: billed_to(spend_limit=…).",
    "stream": "A stream is asked for by its own method: stream() or, in LlamaIndex, stream_chat().",
}
_KNOWN = ChatRequest.__annotations__.keys() - {"messages", "metadata", "stream"}


def refuse_keys(names: Iterable[str]) -> None:
    """Refuse names of keys, addresses and settings as fields of a request: Mistral would get them, and traces too."""
    for name in sorted(names):
        advice = _ELSEWHERE.get(name)
        if advice is None and _CREDENTIAL.search(name):
            advice = (
                "Lava's key is given once, as api_key= of the client or model; a Mistral key of your own goes into "
                "billing=Billing(provider_key=…)."
            )
        if advice is not None:
            raise ConfigurationError(f"{name} can't be sent as a field of the request. {advice}")


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
    notice_status(model)
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
