"""Estimate what a call will cost before it is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, cast

from lava_mistral.errors import ConfigurationError
from lava_mistral.mistral.types import Message, Tool
from lava_mistral.pricing.amounts import EXACT
from lava_mistral.pricing.catalog import Model, get_model
from lava_mistral.pricing.prompts import Prompt, to_messages
from lava_mistral.pricing.tokens import DEFAULT_MODEL, TokenCount, count_tokens, estimate_tokens

USUAL_ANSWER: Final = 300
"""Tokens of an answer that nothing else is known of, for `CostEstimate.likely`: a few paragraphs."""

_UNCOUNTED: Final = frozenset(("document_url", "input_audio", "file"))


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """Hold what a call may cost, in USD; the costs are `None` where the model's prices are not known.

    An exact count is what Mistral bills. A `LocalGateway` bills the same with `tokenizer="exact"`, and its own quicker
    count without it.

    Attributes:
        low: with an answer of one token, and the prompt at the least that its count allows.
        likely: with a usual answer.
        high: the most that it can be; what a spend limit sets aside. Uncached, with the longest answer possible.
        input_tokens: of the prompt; at most, where that is not exact.
        output_tokens: of the answer, at most.
        exact: whether the prompt was counted with the model's own tokenizer (extra `[tokenizer]`).
    """

    low: Decimal | None
    likely: Decimal | None
    high: Decimal | None
    input_tokens: int
    output_tokens: int
    exact: bool


def estimate_cost(
    messages: Prompt,
    model: str = DEFAULT_MODEL,
    max_tokens: int | None = None,
    *,
    tools: Sequence[Tool] | None = None,
    likely_tokens: int | None = None,
    n: int = 1,
) -> CostEstimate:
    """Estimate what a call will cost, by the catalogue's prices.

    Args:
        messages: a prompt, or messages in Mistral's form, LangChain's or LlamaIndex's. For an embedding model: a text,
            or a list of texts.
        model: the model's name.
        max_tokens: the longest answer; by default what the model's window leaves beside the prompt.
        tools: the tools of the request.
        likely_tokens: of the answer as you expect it; by default 300.
        n: how many answers.

    Raises:
        ConfigurationError: the prompt is none, or `n` or `max_tokens` is below one.
    """
    for name, value in (("n", n), ("max_tokens", max_tokens)):
        if value is not None and value < 1:
            raise ConfigurationError(f"{name} must be one or more; it is {value}.")
    known = get_model(model)
    if known.can("embeddings"):
        return _embedding(known, _texts(messages, model))
    prompt = to_messages(messages)
    count = count_prompt(prompt, known, tools)
    typical = count if count.exact else count_prompt(prompt, known, tools, upper=False)
    output = longest_answer(count, known, max_tokens) * n
    likely = min(USUAL_ANSWER if likely_tokens is None else likely_tokens, output // n) * n
    return CostEstimate(
        low=cost_at(known, _least(count), min(n, output)),
        likely=cost_at(known, typical.tokens, likely),
        high=cost_at(known, count.tokens, output),
        input_tokens=count.tokens,
        output_tokens=output,
        exact=count.exact,
    )


def _texts(texts: Any, model: str) -> list[str]:
    texts = [texts] if isinstance(texts, str) else list(texts)
    for text in texts:
        if not isinstance(text, str):
            raise ConfigurationError(
                f"{model!r} embeds texts: give one, or a list of them, not one with a {type(text).__name__} in it."
            )
    return cast("list[str]", texts)


def count_prompt(
    messages: Sequence[Message], model: Model, tools: Sequence[Tool] | None, *, upper: bool = True
) -> TokenCount:
    if any(_uncounted(message) for message in messages):
        return TokenCount(model.context_window, False)
    count = count_tokens(messages, model.id, tools=tools or None, upper=upper)
    # A longer prompt is refused, and so costs nothing.
    return TokenCount(min(count.tokens, model.context_window), count.exact)


def _uncounted(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(part.get("type") in _UNCOUNTED for part in content)


def _least(count: TokenCount) -> int:
    # Where the estimate is far off, as for long runs of one letter, it is so by more; English is at 0.8 of it.
    return count.tokens if count.exact else count.tokens // 2


def longest_answer(count: TokenCount, model: Model, max_tokens: int | None) -> int:
    left = max(model.context_window - (count.tokens if count.exact else 0), 0)
    return left if max_tokens is None else min(int(max_tokens), left)


def cost_at(model: Model, input_tokens: int, output_tokens: int) -> Decimal | None:
    if model.input_price is None or model.output_price is None:
        return None
    million = Decimal(10) ** 6
    paid = EXACT.add(EXACT.multiply(model.input_price, input_tokens), EXACT.multiply(model.output_price, output_tokens))
    return EXACT.divide(paid, million)


def _embedding(model: Model, texts: Sequence[str]) -> CostEstimate:
    counts = [count_tokens(text, model.id) for text in texts]
    tokens = sum(count.tokens for count in counts)
    exact = all(count.exact for count in counts)
    most = sum(min(estimate_tokens(text), model.context_window) for text in texts)
    likely = cost_at(model, tokens, 0)
    return CostEstimate(
        low=likely if exact else cost_at(model, most // 2, 0),
        likely=likely,
        # A limit sets this much aside: it is known without a count, which costs more than the request.
        high=cost_at(model, max(tokens, most), 0),
        input_tokens=tokens if exact else most,
        output_tokens=0,
        exact=exact,
    )
