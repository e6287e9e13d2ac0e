"""Read what an answer says of its usage. Pure."""

from __future__ import annotations

from typing import Any, NotRequired, cast

from typing_extensions import TypedDict


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    num_cached_tokens: NotRequired[int | None]
    prompt_tokens_details: NotRequired[dict[str, Any] | None]
    prompt_token_details: NotRequired[dict[str, Any] | None]
    prompt_audio_seconds: NotRequired[int | None]
    completion_tokens_details: NotRequired[dict[str, Any] | None]
    service_tier: NotRequired[str | None]


def known_usage(value: Any) -> Usage | None:
    """Return what an answer says of its usage, added up; `None` where it says nothing that can be counted with."""
    if not isinstance(value, dict) or value.get("prompt_tokens") is None:
        return None
    prompt, completion, total = value["prompt_tokens"], value.get("completion_tokens"), value.get("total_tokens")
    counts = [prompt, completion, total, value.get("num_cached_tokens")]
    for name in ("prompt_tokens_details", "prompt_token_details"):
        details = value.get(name) or {}
        if not isinstance(details, dict):
            return None
        counts.append(details.get("cached_tokens"))
    for count in counts:
        if count is not None and (type(count) is not int or count < 0):
            return None
    if completion is None:
        completion = max(total - prompt, 0) if total else 0
    counted = {"completion_tokens": completion, "total_tokens": total or prompt + completion}
    return cast("Usage", value if counted.items() <= value.items() else {**value, **counted})


def reasoning_tokens(usage: Usage) -> int | None:
    """Return how many of the completion's tokens were thoughts; `None` where Mistral does not say."""
    details = usage.get("completion_tokens_details")
    count = details.get("reasoning_tokens") if isinstance(details, dict) else None
    return count if type(count) is int else None


def cached_tokens(usage: Usage) -> int:
    """Return how many of the prompt's tokens came from Mistral's cache: the largest of the counts that name them."""
    details = usage.get("prompt_tokens_details") or {}, usage.get("prompt_token_details") or {}
    return max(usage.get("num_cached_tokens") or 0, *(detail.get("cached_tokens") or 0 for detail in details))
