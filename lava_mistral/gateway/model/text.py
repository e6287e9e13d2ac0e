"""Reads text: its tokens, its sentences, the words that carry meaning, the sentences that answer a question.

A token is at most nine letters, two East Asian characters, one digit, or a few symbols; white space belongs to what
follows it. That is never more than Mistral's own count, so a client that plans with that is not refused for its limits.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

# Han, kana, Hangul, their symbols and compatibility forms, which are written without spaces; U+3000 is a space.
_ASIAN = "\u2e80-\u2fff\u3001-\u9fff\uac00-\ud7af\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
_SYMBOL = rf"-{{3,8}}|={{3,8}}|\.{{3,8}}|[^\w\s{_ASIAN}]{{1,3}}|_{{1,8}}"
_TOKEN = rf"[{_ASIAN}]{{1,2}}|[^\W\d_{_ASIAN}]{{1,9}}|\d|{_SYMBOL}"
_PIECE = re.compile(rf"\s*(?:{_TOKEN})|\s+")
_TOKENS = re.compile(_TOKEN)
_WORDS = re.compile(rf"[{_ASIAN}]|[^\W\d_{_ASIAN}]+|\d+|{_SYMBOL}")
_TERM = re.compile(rf"[{_ASIAN}]|[^\W_{_ASIAN}]+")
_STOP_WORDS = """a about above after again all also am an and any are aren as at be because been before being below
    between both but by can cannot could couldn d did didn do does doesn doing don down during each either else etc few
    for from further had has have having he her here hers him his how i if in into is isn it its itself just let ll m
    many may me might mine more most much must my neither no nor not now of off on once one only or other our ours out
    over own per please re s same shall she should so some such t tell than that the their theirs them then there these
    they this those through thus to too u under until up us ve very via was we were what when where which while who
    whom whose why will with within without would yes you your yours"""
STOP_WORDS: Final = frozenset(_STOP_WORDS.split())  # Words that say nothing about what a text is about.
_TOOL_WORDS = """apply argument call compute data do fetch find function get give given input make need output parameter
    provide query result return run show specified string take tool type use used user using value want"""
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


def count(text: str) -> int:
    """Count a text's tokens; white space at its end counts for nothing."""
    return len(_TOKENS.findall(text))


def split(text: str) -> list[str]:
    """Split a text into its tokens; joined they are the text again."""
    return _PIECE.findall(text)


def words(text: str) -> list[str]:
    return _WORDS.findall(text)


def stem(word: str) -> str:
    """Return a word without case and the commonest English endings, so that forms of one word agree."""
    word = re.sub("ies$", "y", word.casefold())
    word = re.sub(r"(?<=\w{3})(?:ing|ed|(?<![sui])s)$", "", word)
    return re.sub(r"(?<=\w{4})e$|(?<=([^aeiouls]))\1$", "", word)


def terms(text: str) -> list[str]:
    """List the stems of the words that carry meaning, in order."""
    return [stem(word) for word in _TERM.findall(text) if word.casefold() not in STOP_WORDS]


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


def best(question: str, passages: Sequence[str]) -> list[str]:
    """Return up to three passages that share the rarest words with the question, in their own order; maybe none."""
    wanted, found = set(terms(question)), {passage: set(terms(passage)) for passage in passages}
    frequency = Counter(term for held in found.values() for term in held)
    weights = {term: math.log(1 + (len(found) + 1) / (frequency[term] + 1)) for term in wanted}
    # Of two passages that hold the same, the shorter says it more plainly.
    scores = {one: sum(weights[term] for term in wanted & held) / (1 + len(held) / 500) for one, held in found.items()}
    enough = max(0.25 * sum(weights.values()), 0.7 * max(scores.values(), default=0))
    return _highest({passage: score for passage, score in scores.items() if score >= enough > 0})


def central(passages: Sequence[str]) -> list[str]:
    """Return the three passages that have most in common with all the others: a summary, in their own order."""
    found = {passage: set(terms(passage)) for passage in passages}
    frequency = Counter(term for held in found.values() for term in held)
    return _highest({one: sum(frequency[t] - 1 for t in held) / (len(held) + 3) for one, held in found.items()})


def _highest(scores: dict[str, float]) -> list[str]:
    chosen = sorted(scores, key=scores.__getitem__, reverse=True)[:3]
    return [passage for passage in scores if passage in chosen]
