"""Mend texts, and find the name that somebody meant who wrote another."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name that is most like this one, underscores aside; `None` where none is near."""
    # Only errors need it.
    from difflib import get_close_matches

    plain = {each.replace("_", ""): each for each in known}
    near = get_close_matches(name.replace("_", ""), plain, n=1, cutoff=cutoff)
    return plain[near[0]] if near else None


def whole_characters(text: str) -> str:
    """Return a text with U+FFFD for each half of a surrogate pair, which is no character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
