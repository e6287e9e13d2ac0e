"""Finds what a text says about a question: sentences, words that carry meaning, the best matches."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from lava_mistral.gateway.model.tokens import EAST_ASIAN

_STOP_WORDS = """a about above after again all also am an and any are aren as at be because been before being below
    between both but by can cannot could couldn d did didn do does doesn doing don down during each either else etc few
    for from further had has have having he her here hers him his how i if in into is isn it its itself just let ll m
    many may me might mine more most much must my neither no nor not now of off on once one only or other our ours out
    over own per please re s same shall she should so some such t tell than that the their theirs them then there these
    they this those through thus to too u under until up us ve very via was we were what when where which while who
    whom whose why will with within without would yes you your yours"""
STOP_WORDS: Final = frozenset(_STOP_WORDS.split())
"""Words that say nothing about what a text is about."""
_TOOL_WORDS = """apply argument call compute data do fetch find function get give given input make need output parameter
    provide query result return run show specified string take tool type use used user using value want"""
_WORD = re.compile(rf"[{EAST_ASIAN}]|[^\W_{EAST_ASIAN}]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# A full stop ends a sentence only before white space: 3.5 and api.mistral.ai are none.
_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+(?=\S)|(?<=[。！？])|\n")
# A line goes on in the next if it ends without a stop and is long, or the next begins in lower case; not before an
# item, a heading, a row of a table or a label.
_WRAP = re.compile(
    r"(?:(?<=[^\n]{55}[^\n.!?:。！？])|(?<=[^\n]{24}[\w,;)])|(?<=[\w,;)])(?=[ \t]*\n[ \t]*[a-zß-ÿ]))"
    r"[ \t]*\n[ \t]*(?=[^\s\-*#>|])(?!\d+[.)]\s|[\w ]{1,30}:)"
)
_RULER = re.compile(r"[-=_*#\s|:`~]*")


def stem(word: str) -> str:
    """Return a word without case and the commonest English endings, so that forms of one word agree."""
    word = word.casefold()
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    for ending, shortest in (("ing", 5), ("ed", 4), ("s", 3)):
        if len(word) > shortest and word.endswith(ending) and not word.endswith(("ss", "us", "is")):
            word = word.removesuffix(ending)
            break
    if len(word) > 4 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        word = word[:-1]
    return word[:-1] if len(word) > 4 and word.endswith("e") else word


def terms(text: str) -> list[str]:
    """List the stems of the words that carry meaning, in order."""
    return [stem(word) for word in _WORD.findall(text) if word.casefold() not in STOP_WORDS]


_TOOL_STEMS = frozenset(map(stem, _TOOL_WORDS.split()))


def tool_terms(text: str) -> set[str]:
    """Return the terms of a tool's name or description without those that all tools have in common."""
    return set(terms(_CAMEL.sub(" ", text).replace("_", " "))) - _TOOL_STEMS


def sentences(text: str) -> list[str]:
    """Split a text into sentences and lines, without those that are only rulers."""
    # Blanks are joined first: the patterns would try a long row of them from each of its places.
    pieces = _END.split(_WRAP.sub(" ", re.sub(r"[^\S\n]+", " ", text)))
    found = (" ".join(piece.split()) for piece in pieces)
    return [piece for piece in found if piece and not _RULER.fullmatch(piece)]


def best(question: str, passages: Sequence[str], *, most: int = 3) -> list[str]:
    """Return the passages that share the rarest words with the question, in their own order; maybe none."""
    wanted = set(terms(question))
    if not wanted or not passages:
        return []
    found = [set(terms(passage)) for passage in passages]
    frequency = Counter(term for passage in found for term in passage)
    weights = {term: math.log(1 + (len(found) + 1) / (frequency[term] + 1)) for term in wanted}
    # Of two passages that hold the same, the shorter says it more plainly.
    scores = [sum(weights[term] for term in wanted & held) / (1 + 0.002 * len(held)) for held in found]
    enough = max(0.25 * sum(weights.values()), 0.7 * max(scores))
    ranked = sorted(range(len(passages)), key=lambda at: (-scores[at], at))
    first = {passages[at]: at for at in reversed(ranked) if scores[at] >= enough}
    return [passages[at] for at in sorted(sorted(first.values(), key=ranked.index)[:most])]


def central(passages: Sequence[str], *, most: int = 3) -> list[str]:
    """Return the passages that have most in common with all the others: a summary, in their own order."""
    found = [set(terms(passage)) for passage in passages]
    frequency = Counter(term for passage in found for term in passage)
    scores = [sum(frequency[term] - 1 for term in held) / (len(held) + 3) for held in found]
    ranked = sorted(range(len(passages)), key=lambda at: (-scores[at], at))
    return [passages[at] for at in sorted(ranked[:most])]
