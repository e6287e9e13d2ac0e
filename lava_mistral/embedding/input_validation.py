"""Check texts against the limits of Mistral's embeddings endpoint before anything is sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lava_mistral.embedding.batching import MAX_INPUT_TOKENS, SURELY_FITS, Count
from lava_mistral.errors import InvalidRequestError


class Inspector:
    """Refuses what Mistral would refuse, naming the input, before anything is sent.

    Args:
        estimate: an upper estimate of a text's tokens.
        exact: gives the exact count, where there is one; asked only when an estimate is too high.
    """

    _OVERRATED = 1.5
    """How far the estimate may lie above the truth: what is in doubt is sent, alone, for Mistral to judge."""
    _HOPELESS = 4 * MAX_INPUT_TOKENS
    """So many tokens by any estimate are too many, and an exact count of megabytes would take seconds to say so."""
    _BEGINNING = 40 * MAX_INPUT_TOKENS
    """Characters by which a longer text is told to be hopeless."""

    def __init__(self, estimate: Count, exact: Callable[[], Count | None]) -> None:
        self._estimate = estimate
        self._exact = exact

    @staticmethod
    def is_long(text: object) -> bool:
        """Whether checking the text can take long: it may need a count, and a tokenizer that is not loaded yet."""
        if not isinstance(text, str) or 4 * len(text) <= SURELY_FITS:
            return False
        return len(text) > SURELY_FITS or (not text.isascii() and len(text.encode("utf-8", "replace")) > SURELY_FITS)

    def check(self, index: int, text: object) -> None:
        """Check one input.

        Raises:
            InvalidRequestError: it is not text, empty, not representable in UTF-8 or too long.
        """
        if not isinstance(text, str):
            raise InvalidRequestError(f"input {index} must be text, not {type(text).__name__}; nothing of it was sent")
        if not text:
            raise InvalidRequestError(
                f"input {index} is empty; an embedding needs text",
                advice="Leave empty texts out, or give them a placeholder.",
            )
        size = len(text)
        if not text.isascii():
            try:
                size = len(text.encode())
            except UnicodeEncodeError as error:
                raise InvalidRequestError(
                    f"input {index} holds half of a surrogate pair at position {error.start}, which has no UTF-8",
                    advice='Repair it with text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").',
                ) from None
        if size > SURELY_FITS:
            self._measure(index, text)

    def _measure(self, index: int, text: str) -> None:
        if len(text) > self._BEGINNING and (begin := self._estimate(text[: self._BEGINNING])) > self._HOPELESS:
            raise too_long(index, f"about {begin * len(text) // self._BEGINNING:,}")
        tokens, about = self._estimate(text), "about "
        if tokens <= MAX_INPUT_TOKENS:
            return
        exact = self._exact() if tokens <= self._HOPELESS else None
        if exact is not None:
            tokens, about = exact(text), ""
            sure = tokens > MAX_INPUT_TOKENS
        else:
            sure = tokens > MAX_INPUT_TOKENS * self._OVERRATED
        if sure:
            raise too_long(index, f"{about}{tokens:,}")


def too_long(index: int, tokens: str) -> InvalidRequestError:
    """The error for an input with more tokens than the model reads."""
    return InvalidRequestError(
        f"input {index} has {tokens} tokens; Mistral embeds at most {MAX_INPUT_TOKENS:,} an input",
        code="3210",
        advice="Split it into smaller chunks.",
    )


def name_inputs(indexes: Sequence[int]) -> str:
    """`input 3`, `inputs 3 to 90`, or `inputs 3, 7, 9` for an error."""
    if len(indexes) == 1:
        return f"input {indexes[0]}"
    if indexes[-1] - indexes[0] == len(indexes) - 1:
        return f"inputs {indexes[0]} to {indexes[-1]}"
    shown = ", ".join(map(str, indexes[:10]))
    return f"inputs {shown}" + (f" and {len(indexes) - 10} more up to {indexes[-1]}" if len(indexes) > 10 else "")
