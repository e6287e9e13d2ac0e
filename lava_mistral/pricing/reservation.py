"""Work out the most that a request can cost, which spend limits reserve before it is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from lava_mistral.errors import ConfigurationError
from lava_mistral.mistral.json_codec import to_json
from lava_mistral.pricing.catalog import Model, get_model
from lava_mistral.pricing.estimate import cost_at, count_prompt, longest_answer
from lava_mistral.pricing.tokens import TokenCount, estimate_tokens


def most_of_chat(body: Mapping[str, Any]) -> Decimal:
    """Return the most that a chat request can cost.

    The prompt counts with its tools and schema, uncached, at its exact count or an upper estimate; documents and
    sounds, which nobody can count beforehand, as the whole window. The answer counts with `max_tokens`, or without it
    with all that the model's window leaves, times `n`.

    Raises:
        ConfigurationError: the model's price is not known.
    """
    model = get_model(str(body["model"]))
    count = count_prompt(body["messages"], model, body.get("tools"))
    extra = 0
    if body.get("response_format"):
        extra += estimate_tokens(to_json(body["response_format"]).decode())
    if body.get("safe_prompt"):
        # Mistral puts a system prompt of three sentences first (https://docs.mistral.ai/capabilities/guardrailing).
        extra += 120
    if body.get("tool_choice") not in (None, "auto", "none"):
        # A template may say with a token of its own that a tool must be called.
        extra += 4
    if extra:
        count = TokenCount(min(count.tokens + extra, model.context_window), False)
    output = longest_answer(count, model, body.get("max_tokens")) * int(body.get("n") or 1)
    return _priced(model, count.tokens, output)


def most_of_embedding(texts: Sequence[str], model: str) -> Decimal:
    """Return the most that an embeddings request can cost, by an upper estimate of its tokens.

    Raises:
        ConfigurationError: the model's price is not known.
    """
    known = get_model(model)
    # An input beyond the window is refused, and so costs nothing.
    return _priced(known, sum(min(estimate_tokens(text), known.context_window) for text in texts), 0)


def _priced(model: Model, input_tokens: int, output_tokens: int) -> Decimal:
    cost = cost_at(model, input_tokens, output_tokens)
    if cost is None:
        raise ConfigurationError(
            f"The price of {model.id!r} is not known, so a spend limit can't be kept. Add it: "
            f'add_model(Model({model.id!r}, input_price=Decimal("…"), output_price=Decimal("…"))).'
        )
    return cost
