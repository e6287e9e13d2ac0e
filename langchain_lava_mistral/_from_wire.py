"""Convert Mistral's answers and usage to LangChain's messages, results and metadata. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import AIMessage
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call
from langchain_core.outputs import ChatGeneration, ChatResult

from langchain_lava_mistral._content_blocks import PROVIDER
from lava_mistral.mistral.turn import Turn
from lava_mistral.mistral.types import Usage
from lava_mistral.mistral.usage import cached_tokens, reasoning_tokens

if TYPE_CHECKING:
    from lava_mistral.calls.chat_stream import StreamReader
    from lava_mistral.calls.responses import Completion


def visible(part: Any) -> dict[str, Any]:
    """Return a part of an answer without its defaults, so that a streamed turn equals a whole one."""
    return {key: value for key, value in part.items() if not (key == "closed" and value is True)}


def turn_metadata(turn: Turn, *, logprobs: bool = True) -> dict[str, Any]:
    """Return what a message says of its own turn."""
    metadata: dict[str, Any] = {"finish_reason": turn.finish_reason}
    if logprobs and turn.logprobs:
        metadata["logprobs"] = {"content": turn.logprobs}
    if turn.steps:
        # Tools ran on Mistral's side before it answered.
        metadata |= {"steps": turn.steps, "files": turn.files}
    return metadata


def from_usage(usage: Usage) -> UsageMetadata:
    """Return Mistral's usage in LangChain's words; cached tokens are named wherever Mistral counts them."""
    converted = UsageMetadata(
        input_tokens=usage.get("prompt_tokens") or 0,
        output_tokens=usage.get("completion_tokens") or 0,
        total_tokens=usage.get("total_tokens") or 0,
    )
    details: dict[str, int] = {}
    counts = ("num_cached_tokens", "prompt_tokens_details", "prompt_token_details")
    if any(usage.get(name) is not None for name in counts):
        details["cache_read"] = cached_tokens(usage)
    if seconds := usage.get("prompt_audio_seconds"):
        # Not tokens, so not under "audio"; Mistral bills sound by the second.
        details["audio_seconds"] = seconds
    if details:
        converted["input_token_details"] = cast("InputTokenDetails", details)
    if (thoughts := reasoning_tokens(usage)) is not None:
        converted["output_token_details"] = {"reasoning": thoughts}
    return converted


def head_metadata(answer: Completion | StreamReader, *, headers: bool = False) -> dict[str, Any]:
    """Return what a message says of the call that made it, as far as the beginning of the answer tells it."""
    metadata: dict[str, Any] = {"model_provider": PROVIDER, "model_name": answer.model, "id": answer.id}
    metadata |= {"created": answer.created, "lava_request_id": answer.request_id}
    return {**metadata, "headers": dict(answer.headers)} if headers else metadata


def paid_metadata(answer: Completion | StreamReader) -> dict[str, str]:
    """Return what a message says of the price: the tier of service and, as text for serialization, the cost in USD."""
    cost, usage = answer.cost, answer.usage
    paid = {} if cost is None else {"cost": f"{cost:f}"}
    tier = None if usage is None else usage.get("service_tier")
    return paid if tier is None else {**paid, "service_tier": tier}


def to_result(answer: Completion, *, headers: bool = False) -> ChatResult:
    """Return a whole answer with a generation for each of its turns; the first has the usage and cost of all."""
    metadata, paid = head_metadata(answer, headers=headers), paid_metadata(answer)
    output: dict[str, Any] = {"model_name": answer.model, **paid}
    usage: UsageMetadata | None = None
    if answer.usage is not None:
        output["token_usage"], usage = answer.usage, from_usage(answer.usage)
    generations = []
    for turn in answer.turns:
        # Plain text is a string, anything else the list of Mistral's own parts.
        content: Any = [visible(part) for part in turn.content]
        if all(part.keys() == {"type", "text"} for part in content):
            content = "".join(part["text"] for part in content)
        about = {**metadata, **paid, **turn_metadata(turn)}
        message = AIMessage(content, usage_metadata=usage, response_metadata=about)
        for call in turn.tool_calls:
            arguments = call.parsed() if call.arguments.strip() else {}
            if arguments is None:
                error = "The arguments are not a JSON object."
                broken = invalid_tool_call(name=call.name, args=call.arguments, id=call.id, error=error)
                message.invalid_tool_calls.append(broken)
            else:
                message.tool_calls.append(tool_call(name=call.name, args=arguments, id=call.id))
        generations.append(ChatGeneration(message=message, generation_info={"finish_reason": turn.finish_reason}))
        paid, usage = {}, None
    return ChatResult(generations=generations, llm_output=output)
