"""Estimate what a call will cost before it is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from lava_mistral.defaults import DEFAULT_CHAT_MODEL
from lava_mistral.errors import ConfigurationError
from lava_mistral.mistral.types import Message, Tool
from lava_mistral.pricing.catalog import Model, get_model
from lava_mistral.pricing.cost import cost_of
from lava_mistral.pricing.prompts import Prompt, to_messages
from lava_mistral.pricing.token_counting import TokenCount, count_tokens, pieces, upper_bound_tokens

USUAL_ANSWER: Final = 300  # tokens of an answer that nothing else is known of: a few paragraphs
_UNCOUNTED: Final = frozenset(("document_url", "input_audio", "file"))


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """Hold what a call may cost, in USD; the costs are `None` where the model's prices are not known.

    Attributes:
        low: with an answer of one token, and the prompt at the least that its count allows.
        likely: with a usual answer.
        high: the most that it can be; what a spend limit sets aside. Uncached, with the longest answer possible.
        input_tokens: of the prompt; at most, where that is not exact.
        output_tokens: of the answer, at most.
        exact: whether the prompt was counted with the model's own tokenizer (extra `[tokenizer]`), as it is billed.
    """

    low: Decimal | None
    likely: Decimal | None
    high: Decimal | None
    input_tokens: int
    output_tokens: int
    exact: bool


def estimate_cost(
    messages: Prompt,
    model: str = DEFAULT_CHAT_MODEL,
    max_tokens: int | None = None,
    *,
    tools: Sequence[Tool] | None = None,
    likely_tokens: int | None = None,
    n: int = 1,
) -> CostEstimate:
    """Estimate what a call will cost, by the catalogue's prices.

    Args:
        messages: a prompt, or messages in Mistral's form, LangChain's or LlamaIndex's; texts for an embedding model.
        max_tokens: the longest answer; by default what the model's window leaves beside the prompt.
        likely_tokens: of the answer as you expect it; by default 300.
        n: how many answers.
    """
    for name, value in (("n", n), ("max_tokens", max_tokens)):
        if value is not None and value < 1:
            raise ConfigurationError(f"{name} must be one or more; it is {value}.")
    known = get_model(model)
    answers = (0, 0, 0)
    if known.can("embeddings"):
        texts = _texts(messages, known)
        counts = [count_tokens(text, model) for text in texts]
        exact, likely = all(count.exact for count in counts), sum(count.tokens for count in counts)
        # A limit sets this much aside: it is known without a count, which costs more than the request.
        most = max(likely, max_input_tokens(texts, known))
    else:
        prompt = to_messages(messages)
        count = count_messages(prompt, known, tools)
        most, exact = count
        likely = most if exact else count_messages(prompt, known, tools, upper=False).tokens
        longest = longest_answer(count, known, max_tokens)
        usual = min(USUAL_ANSWER if likely_tokens is None else likely_tokens, longest)
        answers = (min(n, longest * n), usual * n, longest * n)
    # Where the estimate is far off, as for long runs of one letter, it is so by more; English is at 0.8 of it.
    prompts = (likely if exact else most // 2, likely, most)
    low, usual_cost, high = (cost_of_tokens(known, *tokens) for tokens in zip(prompts, answers, strict=True))
    return CostEstimate(low, usual_cost, high, likely if exact else most, answers[-1], exact)


def _texts(given: Any, model: Model) -> list[str]:
    texts = [given] if isinstance(given, str) else list(given)
    for text in texts:
        if not isinstance(text, str):
            raise ConfigurationError(
                f"{model.id!r} embeds texts: give one, or a list of them, not one with a {type(text).__name__} in it."
            )
    return texts


def max_input_tokens(texts: Sequence[str], model: Model) -> int:
    """Return the most tokens that texts can have; one beyond the window is refused, and so costs nothing."""
    return sum(min(upper_bound_tokens(text), model.context_window) for text in texts)


def count_messages(
    messages: Sequence[Message], model: Model, tools: Sequence[Tool] | None, *, upper: bool = True
) -> TokenCount:
    """Count a prompt: as the whole window with documents or sounds, and never as more: what is longer costs nothing."""
    if any(kind in _UNCOUNTED for kind, _ in pieces(messages)):
        return TokenCount(model.context_window, False)
    count = count_tokens(messages, model.id, tools=tools or None, upper=upper)
    return TokenCount(min(count.tokens, model.context_window), count.exact)


def longest_answer(count: TokenCount, model: Model, max_tokens: int | None) -> int:
    """Return the tokens of the longest answer that a prompt leaves room for."""
    left = max(model.context_window - (count.tokens if count.exact else 0), 0)
    return left if max_tokens is None else min(int(max_tokens), left)


def cost_of_tokens(model: Model, prompt: int, answer: int) -> Decimal | None:
    """Return what so many tokens cost in USD; `None` where the price is not known."""
    return cost_of({"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}, model)
