"""Finds what a text says about a question: sentences, the words that carry meaning, the best matches."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from lava_mistral.gateway.model.tokens import EAST_ASIAN
from lava_mistral.gateway.model.words import COMMON, TOOLISH

_WORD = re.compile(rf"[{EAST_ASIAN}]|[^\W_{EAST_ASIAN}]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# A full stop ends a sentence only before white space: 3.5 and api.mistral.ai are none.
_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+(?=\S)|(?<=[。！？])|\n\s*\n|\n(?=\s*(?:[-*#>|]|\d+[.)]\s))|\n", re.U)
# A long line that ends without a stop goes on in the next, unless that is an item, a heading or a row of a table.
_WRAP = re.compile(r"(?<=[^\n]{55}[^\n.!?:。！？])[ \t]*\n[ \t]*(?=[^\s\-*#>|\d])")
# Together first: the patterns above would try a long row of blanks from each of its places.
_BLANKS = re.compile(r"[^\S\n]+")
_RULER = re.compile(r"[-=_*#\s|:`~]*")


def stem(word: str) -> str:
    """A word without case and the commonest English endings, so that forms of one word agree."""
    word = word.casefold()
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 5 and word.endswith("ing"):
        word = word[:-3]
    elif len(word) > 4 and word.endswith("ed"):
        word = word[:-2]
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    if len(word) > 4 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        word = word[:-1]
    return word[:-1] if len(word) > 4 and word.endswith("e") else word


def terms(text: str) -> list[str]:
    """The stems of the words that carry meaning, in order."""
    return [stem(word) for word in _WORD.findall(text) if word.casefold() not in COMMON]


def tool_terms(text: str) -> set[str]:
    """The same for a tool's name or description: camel case is split, what every tool has in common is left out."""
    found = terms(_CAMEL.sub(" ", text).replace("_", " "))
    return {term for term in found if term not in _TOOL_STEMS}


_TOOL_STEMS: Final = frozenset(map(stem, TOOLISH))


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text, without those that are only rulers."""
    found = (" ".join(piece.split()) for piece in _END.split(_WRAP.sub(" ", _BLANKS.sub(" ", text))))
    return [piece for piece in found if piece and not _RULER.fullmatch(piece)]


def best(question: str, passages: Sequence[str], *, most: int = 3) -> list[str]:
    """The passages that are about the question, at most `most` of them, in their own order; maybe none."""
    wanted = set(terms(question))
    if not wanted or not passages:
        return []
    found = [set(terms(passage)) for passage in passages]
    scores = _scores(wanted, found)
    top = max(scores)
    if top < 0.25:
        return []
    ranked = sorted(range(len(passages)), key=lambda at: (-scores[at], at))
    chosen: list[int] = []
    for at in ranked:
        if len(chosen) == most or scores[at] < max(0.25, 0.7 * top):
            break
        if all(passages[at] != passages[other] for other in chosen):
            chosen.append(at)
    return [passages[at] for at in sorted(chosen)]


def central(passages: Sequence[str], *, most: int = 3) -> list[str]:
    """The passages that have most in common with all the others: a summary, in their own order."""
    found = [set(terms(passage)) for passage in passages]
    frequency = Counter(term for passage in found for term in passage)
    scores = [sum(frequency[term] - 1 for term in passage) / (len(passage) + 3) for passage in found]
    ranked = sorted(range(len(passages)), key=lambda at: (-scores[at], at))
    return [passages[at] for at in sorted(ranked[:most])]


def _scores(wanted: Iterable[str], found: Sequence[set[str]]) -> list[float]:
    """For each passage, which share of the question's meaning it holds; rare words mean more."""
    frequency = Counter(term for passage in found for term in passage)
    weights = {term: math.log(1 + (len(found) + 1) / (frequency[term] + 1)) for term in wanted}
    whole = sum(weights.values())
    scores = []
    for passage in found:
        held = sum(weight for term, weight in weights.items() if term in passage)
        # Of two passages that hold the same, the shorter says it more plainly.
        scores.append(held / whole / (1 + 0.002 * len(passage)))
    return scores
