"""Estimate what a call will cost before it is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from lava_mistral.defaults import DEFAULT_CHAT_MODEL
from lava_mistral.errors import ConfigurationError
from lava_mistral.mistral.json_codec import to_json
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
        most = max(likely, _most_input(texts, known))
    else:
        prompt = to_messages(messages)
        count = _count(prompt, known, tools)
        most, exact = count
        likely = most if exact else _count(prompt, known, tools, upper=False).tokens
        longest = _longest_answer(count, known, max_tokens)
        usual = min(USUAL_ANSWER if likely_tokens is None else likely_tokens, longest)
        answers = (min(n, longest * n), usual * n, longest * n)
    # Where the estimate is far off, as for long runs of one letter, it is so by more; English is at 0.8 of it.
    prompts = (likely if exact else most // 2, likely, most)
    low, usual_cost, high = (_cost(known, *tokens) for tokens in zip(prompts, answers, strict=True))
    return CostEstimate(low, usual_cost, high, likely if exact else most, answers[-1], exact)


def _texts(given: Any, model: Model) -> list[str]:
    texts = [given] if isinstance(given, str) else list(given)
    for text in texts:
        if not isinstance(text, str):
            raise ConfigurationError(
                f"{model.id!r} embeds texts: give one, or a list of them, not one with a {type(text).__name__} in it."
            )
    return texts


def max_chat_cost(body: Mapping[str, Any]) -> Decimal:
    """Return the most that a chat request can cost, which spend limits reserve before it is sent.

    The prompt counts uncached, exactly or by an upper estimate, and as the whole window with documents and sounds; the
    answer with `max_tokens`, or all that the window leaves, times `n`.
    """
    model = get_model(str(body["model"]))
    count = _count(body["messages"], model, body.get("tools"))
    schema = body.get("response_format")
    extra = upper_bound_tokens(to_json(schema).decode()) if schema else 0
    # Mistral puts a system prompt of three sentences first (https://docs.mistral.ai/capabilities/guardrailing).
    extra += 120 if body.get("safe_prompt") else 0
    # A template may say with a token of its own that a tool must be called.
    extra += 0 if body.get("tool_choice") in (None, "auto", "none") else 4
    if extra:
        count = TokenCount(min(count.tokens + extra, model.context_window), False)
    output = _longest_answer(count, model, body.get("max_tokens")) * int(body.get("n") or 1)
    return _priced(model, count.tokens, output)


def max_embedding_cost(texts: Sequence[str], model: str) -> Decimal:
    """Return the most that an embeddings request can cost, by an upper estimate of its tokens."""
    known = get_model(model)
    return _priced(known, _most_input(texts, known), 0)


def _most_input(texts: Sequence[str], model: Model) -> int:
    # An input beyond the window is refused, and so costs nothing.
    return sum(min(upper_bound_tokens(text), model.context_window) for text in texts)


def _count(
    messages: Sequence[Message], model: Model, tools: Sequence[Tool] | None, *, upper: bool = True
) -> TokenCount:
    if any(kind in _UNCOUNTED for kind, _ in pieces(messages)):
        return TokenCount(model.context_window, False)
    count = count_tokens(messages, model.id, tools=tools or None, upper=upper)
    # A longer prompt is refused, and so costs nothing.
    return TokenCount(min(count.tokens, model.context_window), count.exact)


def _longest_answer(count: TokenCount, model: Model, max_tokens: int | None) -> int:
    left = max(model.context_window - (count.tokens if count.exact else 0), 0)
    return left if max_tokens is None else min(int(max_tokens), left)


def _cost(model: Model, prompt: int, answer: int) -> Decimal | None:
    return cost_of({"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}, model)


def _priced(model: Model, input_tokens: int, output_tokens: int) -> Decimal:
    cost = _cost(model, input_tokens, output_tokens)
    if cost is None:
        raise ConfigurationError(
            f"The price of {model.id!r} is not known, so a spend limit can't be kept. Add it: "
            f'add_model(Model({model.id!r}, input_price=Decimal("…"), output_price=Decimal("…"))).'
        )
    return cost
