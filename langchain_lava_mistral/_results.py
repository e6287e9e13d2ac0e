"""What a call gives, as LangChain's results and metadata. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult

from langchain_lava_mistral._convert import cost_metadata, from_turn, from_usage, response_metadata
from lava_mistral.calls.responses import Completion
from lava_mistral.calls.stream_parser import StreamReader


def added(total: dict[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
    """Add one call's counts to the total: numbers add up, at any depth, and so do costs; other values stay."""
    for key, value in output.items():
        held = total.get(key)
        if held is None:
            total[key] = added({}, value) if isinstance(value, Mapping) else value
        elif isinstance(value, Mapping):
            if isinstance(held, dict):
                added(held, value)
        elif key == "cost":
            total[key] = f"{Decimal(held) + Decimal(value):f}"
        elif isinstance(value, int) and isinstance(held, int) and not isinstance(value, bool):
            total[key] = held + value
    return total


def to_result(answer: Completion) -> ChatResult:
    """A whole answer: a generation for each of its turns."""
    metadata = response_metadata(id=answer.id, model=answer.model, created=answer.created, request_id=answer.request_id)
    usage = None if answer.usage is None else from_usage(answer.usage)
    cost = cost_metadata(answer.cost)
    output: dict[str, Any] = {"model_name": answer.model, **cost}
    if answer.usage is not None:
        output["token_usage"] = answer.usage
    generations = []
    for place, turn in enumerate(answer.turns):
        # What was paid for all answers stands on the first.
        paid = cost if place == 0 else {}
        message = from_turn(turn, metadata={**metadata, **paid}, usage=usage if place == 0 else None)
        generations.append(ChatGeneration(message=message, generation_info={"finish_reason": turn.finish_reason}))
    return ChatResult(generations=generations, llm_output=output)


def first_metadata(stream: StreamReader) -> dict[str, Any]:
    """The metadata that a stream begins with."""
    return response_metadata(id=stream.id, model=stream.model, created=stream.created, request_id=stream.request_id)


def last_metadata(stream: StreamReader, first: Mapping[str, Any] | None) -> tuple[dict[str, Any], UsageMetadata | None]:
    """The metadata and usage that end a stream; with what belongs on its first chunk where there was none."""
    metadata = {**(first or {}), "finish_reason": stream.turn.finish_reason, **cost_metadata(stream.cost)}
    return metadata, None if stream.usage is None else from_usage(stream.usage)
