"""The gateway's tokens: a fast, deterministic split that comes close to Mistral's counts and seldom passes them.

A real count needs Mistral's tokenizer, an optional package that takes a second to load. Here a token is at
most seven letters, or one digit, symbol or East Asian character; white space belongs to what follows it. On
English prose that gives about a tenth fewer tokens than Mistral's own tokenizers, so that a client which
plans with an exact count, or with an upper estimate, is never refused by the gateway for its limits.
"""

from __future__ import annotations

import re

LONGEST = 9
"""Letters in the longest token."""

# Han, kana, Hangul, their symbols and compatibility forms: written without spaces, about one token a character.
EAST_ASIAN = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"

# Up to three marks together are one token, and so is a ruler or an ellipsis.
_SYMBOL = r"-{3,8}|={3,8}|\.{3,8}|[^\w\s]{1,3}|_{1,8}"

WORD = re.compile(rf"[{EAST_ASIAN}]|[^\W\d_{EAST_ASIAN}]+|\d+|{_SYMBOL}")
"""What is counted and embedded as one unit."""

_PIECE = re.compile(rf"\s*(?:[{EAST_ASIAN}]|[^\W\d_{EAST_ASIAN}]{{1,{LONGEST}}}|\d|{_SYMBOL})|\s+")


def word_tokens(word: str) -> int:
    """How many tokens one match of `WORD` holds."""
    if word[0].isdecimal():
        return len(word)
    return -(-len(word) // LONGEST) if word[0].isalnum() else 1


def count(text: str) -> int:
    """How many tokens a text holds; white space at its end counts for nothing."""
    return sum(map(word_tokens, WORD.findall(text)))


def split(text: str) -> list[str]:
    """The text's tokens in order; joined they are the text again."""
    return _PIECE.findall(text)
