"""Read what an answer says of its usage. Pure."""

from __future__ import annotations

from typing import Any, NotRequired, cast

from typing_extensions import TypedDict


class PromptTokensDetails(TypedDict, total=False):
    cached_tokens: int


class CompletionTokensDetails(TypedDict, total=False):
    reasoning_tokens: int | None


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    num_cached_tokens: NotRequired[int | None]
    prompt_tokens_details: NotRequired[PromptTokensDetails | None]
    prompt_token_details: NotRequired[PromptTokensDetails | None]
    prompt_audio_seconds: NotRequired[int | None]
    completion_tokens_details: NotRequired[CompletionTokensDetails | None]
    service_tier: NotRequired[str | None]


def known_usage(value: Any) -> Usage | None:
    """Return what an answer says of its usage; `None` where it says nothing that can be counted with.

    A total that is missing is added up.
    """
    if not isinstance(value, dict) or not value:
        return None
    details = [value.get(name) or {} for name in ("prompt_tokens_details", "prompt_token_details")]
    if not all(isinstance(detail, dict) for detail in details):
        return None
    prompt: Any = value.get("prompt_tokens")
    completion, total = value.get("completion_tokens"), value.get("total_tokens")
    cached = [value.get("num_cached_tokens"), *(detail.get("cached_tokens") for detail in details)]
    if any(type(count) is not int or count < 0 for count in (completion, total, *cached) if count is not None):
        return None
    if type(prompt) is not int or prompt < 0:
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
    """Return how many of the prompt's tokens came from Mistral's cache.

    Mistral names them in three ways; the largest counts.
    """
    counts = [usage.get("num_cached_tokens")]
    for details in (usage.get("prompt_tokens_details"), usage.get("prompt_token_details")):
        counts.append(details.get("cached_tokens") if details else None)
    return max((count for count in counts if count is not None), default=0)
