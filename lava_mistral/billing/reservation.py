"""Compute the most that a request can cost, which spend limits reserve before it is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from lava_mistral.errors import ConfigurationError
from lava_mistral.mistral.json_codec import to_json
from lava_mistral.pricing.catalog import Model, get_model
from lava_mistral.pricing.estimate import cost_of_tokens, count_messages, longest_answer, max_input_tokens
from lava_mistral.pricing.token_counting import TokenCount, upper_bound_tokens


def max_chat_cost(body: Mapping[str, Any]) -> Decimal:
    """Return the most that a chat request can cost, by its prompt and its longest answer.

    The prompt counts uncached, exactly or by an upper estimate, and as the whole window with documents and sounds; the
    answer with `max_tokens`, or all that the window leaves, times `n`.
    """
    model = get_model(str(body["model"]))
    count = count_messages(body["messages"], model, body.get("tools"))
    schema = body.get("response_format")
    extra = upper_bound_tokens(to_json(schema).decode()) if schema else 0
    # Mistral puts a system prompt of three sentences first (https://docs.mistral.ai/capabilities/guardrailing).
    extra += 120 if body.get("safe_prompt") else 0
    # A template may say with a token of its own that a tool must be called.
    extra += 0 if body.get("tool_choice") in (None, "auto", "none") else 4
    if extra:
        count = TokenCount(min(count.tokens + extra, model.context_window), False)
    output = longest_answer(count, model, body.get("max_tokens")) * int(body.get("n") or 1)
    return _priced(model, count.tokens, output)


def max_embedding_cost(texts: Sequence[str], model: str) -> Decimal:
    """Return the most that an embeddings request can cost, by an upper estimate of its tokens."""
    known = get_model(model)
    return _priced(known, max_input_tokens(texts, known), 0)


def _priced(model: Model, input_tokens: int, output_tokens: int) -> Decimal:
    cost = cost_of_tokens(model, input_tokens, output_tokens)
    if cost is None:
        raise ConfigurationError(
            f"The price of {model.id!r} is not known, so a spend limit can't be kept. Add it: "
            f'add_model(Model({model.id!r}, input_price=Decimal("…"), output_price=Decimal("…"))).'
        )
    return cost
