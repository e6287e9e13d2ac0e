"""Finds what a text says about a question: sentences, the words that carry meaning, the best matches."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from lava_mistral.gateway.pieces import EAST_ASIAN

_WORD = re.compile(rf"[{EAST_ASIAN}]|[^\W_{EAST_ASIAN}]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# A full stop ends a sentence only before white space: 3.5 and api.mistral.ai are none.
_END = re.compile(rf"(?<=[.!?…])[\"'”’)\]]*\s+(?=\S)|(?<=[。！？])|\n\s*\n|\n(?=\s*(?:[-*#>|]|\d+[.)]\s))|\n", re.U)
_RULER = re.compile(r"[-=_*#\s|:`~]*")

COMMON: Final = frozenset(
    """a about above after again all also am an and any are aren as at be because been before being below between both
    but by can cannot could couldn d did didn do does doesn doing don down during each either else etc few for from
    further had has have having he her here hers him his how i if in into is isn it its itself just let ll m many may
    me might mine more most much must my neither no nor not now of off on once one only or other our ours out over own
    per please re s same shall she should so some such t tell than that the their theirs them then there these they
    this those through thus to too u under until up us ve very via was we were what when where which while who whom
    whose why will with within without would yes you your yours
    le la les un une des du de et est en que qui dans pour pas sur au aux il elle ce cette ces je tu nous vous ils
    der die das und ist ein eine zu den dem mit von auf für nicht ich du er sie wir ihr wie was wer wo
    el los las una uno y es del por con para que como se su""".split()
)
"""Words that say nothing about a subject."""

# What every description of a tool and every request for one is made of.
_TOOLISH: Final = frozenset(
    """apply argument call compute data do fetch find function get give given input make need output parameter provide
    query result return run show specified string take tool type use used user using value want""".split()
)


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


_TOOL_STEMS: Final = frozenset(stem(word) for word in _TOOLISH)


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text, without those that are only rulers."""
    found = (piece.strip() for piece in _END.split(text))
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
