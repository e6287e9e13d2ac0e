"""Describe models for LangChain, from the core's catalogue."""

from __future__ import annotations

from typing import Any, cast

from langchain_core.language_models import ModelProfile

from lava_mistral.pricing.catalog import get_model


def profile_of(model: str) -> ModelProfile:
    """Return what LangChain's agents and middleware ask of a model; cautious defaults for one that is not known."""
    facts = get_model(model)
    tools, reasoning = facts.can("tools"), facts.can("reasoning")
    vision, documents = facts.can("vision"), facts.can("documents")
    profile: dict[str, Any] = {
        "name": facts.id,
        "max_input_tokens": facts.context_window,
        # Prompt and answer share the window; Mistral names no other limit.
        "max_output_tokens": facts.context_window,
        "text_inputs": True,
        "image_inputs": vision,
        "image_url_inputs": vision,
        "pdf_inputs": documents,
        "audio_inputs": facts.can("audio"),
        "video_inputs": False,
        "image_tool_message": vision,
        "pdf_tool_message": documents,
        "attachment": vision or documents,
        "text_outputs": True,
        "image_outputs": False,
        "audio_outputs": False,
        "video_outputs": False,
        "reasoning_output": reasoning,
        "tool_calling": tools,
        "tool_choice": tools,
        "tool_call_streaming": tools,
        "structured_output": facts.can("structured_output"),
        "temperature": True,
    }
    if facts.known:
        profile["status"] = facts.status
    if reasoning and not facts.id.startswith("magistral"):
        # Magistral always thinks.
        profile["reasoning_effort_levels"] = ["none", "high"]
    # Older releases of LangChain warn of keys that they do not know.
    return cast("ModelProfile", {key: profile[key] for key in profile if key in ModelProfile.__annotations__})
