"""Check the texts of a call before anything is sent, and name them in errors. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lava_mistral._text import whole_characters
from lava_mistral.defaults import OnEmpty
from lava_mistral.embedding.batch_packing import Count
from lava_mistral.errors import InvalidRequestError
from lava_mistral.mistral.limits import MAX_INPUT_TOKENS

PLACEHOLDER: Final = "."  # the shortest text that means nothing


class InputValidator:
    """Refuse what Mistral would refuse, as far as an upper `estimate` of tokens can tell."""

    _OVERRATED = 1.5
    """How far the estimate may lie above the truth: what is in doubt is sent, alone, for Mistral to judge."""
    _BEGINNING = 10 * MAX_INPUT_TOKENS
    """Characters by which a longer text is told to be hopeless; all of a book would take seconds to count."""

    def __init__(self, estimate: Count, on_empty: OnEmpty = "raise") -> None:
        self._estimate = estimate
        self._on_empty = on_empty

    def check(self, index: int, given: object) -> str:
        """Give the text to send; an empty one is not to be sent. `given` may be a string scalar of numpy or pyarrow.

        Raises:
            InvalidRequestError: it is not text, empty or too long.
        """
        text = given if type(given) is str else _as_text(index, given)
        if not text:
            if self._on_empty == "raise":
                raise InvalidRequestError(
                    f"input {index} is empty; an embedding needs text",
                    advice='Leave empty texts out, or set on_empty="skip" (a vector of zeros) or "placeholder".',
                    inputs=[index],
                )
            return "" if self._on_empty == "skip" else PLACEHOLDER
        size = len(text)
        if not text.isascii():
            text = whole_characters(text)
            size = len(text.encode())
        # A token is a byte at least.
        if size > MAX_INPUT_TOKENS * self._OVERRATED:
            beginning = text[: self._BEGINNING]
            tokens = self._estimate(beginning)
            if tokens > MAX_INPUT_TOKENS * self._OVERRATED:
                raise too_long(index, f"about {tokens * len(text) // len(beginning):,}")
        return text


def _as_text(index: int, given: object) -> str:
    if isinstance(given, str):
        # An enumeration's own __str__ gives its name.
        return str.__str__(given)
    # A pyarrow scalar, such as iterating over a column gives.
    as_py = getattr(given, "as_py", None)
    text = given if as_py is None else as_py()
    if not isinstance(text, str):
        what = type(given).__name__ if text is given else f"{type(given).__name__} of {type(text).__name__}"
        raise InvalidRequestError(f"input {index} must be text, not {what}; nothing of it was sent", inputs=[index])
    return text


def too_long(index: int, tokens: str) -> InvalidRequestError:
    """The error for an input with more tokens than the model reads."""
    return InvalidRequestError(
        f"input {index} has {tokens} tokens; Mistral embeds at most {MAX_INPUT_TOKENS:,} an input",
        code="3210",
        advice="Split it into smaller chunks.",
        inputs=[index],
    )


def name_inputs(indexes: Sequence[int]) -> str:
    """`input 3`, `inputs 3 to 90`, or `inputs 3, 7, 9` for an error."""
    if len(indexes) == 1:
        return f"input {indexes[0]}"
    if indexes[-1] - indexes[0] == len(indexes) - 1:
        return f"inputs {indexes[0]} to {indexes[-1]}"
    shown = ", ".join(map(str, indexes[:10]))
    return f"inputs {shown}" + (f" and {len(indexes) - 10} more up to {indexes[-1]}" if len(indexes) > 10 else "")
