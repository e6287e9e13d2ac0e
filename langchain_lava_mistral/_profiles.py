"""Model profiles for LangChain, from the core's catalogue."""

from __future__ import annotations

from langchain_core.language_models import ModelProfile

from lava_mistral.pricing.catalog import get_model


def profile_of(model: str) -> ModelProfile:
    """What LangChain's agents and middleware ask of a model; cautious defaults for a model that is not known."""
    facts = get_model(model)
    tools = facts.can("tools")
    vision, documents = facts.can("vision"), facts.can("documents")
    return ModelProfile(
        name=facts.id,
        max_input_tokens=facts.context_window,
        text_inputs=True,
        image_inputs=vision,
        image_url_inputs=vision,
        pdf_inputs=documents,
        audio_inputs=facts.can("audio"),
        video_inputs=False,
        image_tool_message=vision,
        pdf_tool_message=documents,
        attachment=vision or documents,
        text_outputs=True,
        image_outputs=False,
        audio_outputs=False,
        video_outputs=False,
        reasoning_output=facts.can("reasoning"),
        tool_calling=tools,
        tool_choice=tools,
        tool_call_streaming=tools,
        structured_output=facts.can("structured_output"),
        temperature=True,
    )
