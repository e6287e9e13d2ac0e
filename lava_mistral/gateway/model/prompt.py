"""Reads a conversation as the simulated model does: what is asked, and what was said that an answer may come from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from lava_mistral.gateway.model import extract
from lava_mistral.gateway.model.labels import segments, unlabelled

NOTHING: Final = "I found nothing about that in the text I was given."
"""What the model says when it has no answer; it does not answer from its own refusals later."""
NOTED: Final = "Noted: "
"""How the model takes in what it is told; the user said it first."""


class Prompt:
    """A conversation as the model reads it.

    Attributes:
        request: the text of the last user message.
        question: the part of it that asks.
        passages: everything else that was said, as sentences: what an answer may come from.
        results: the texts of the tool results that stand at the end; empty when the user spoke last.
        called: the names of the tools that were called since the user spoke last.
        all_text: system and user text together.
        told: an answer that was given before, which stands if there is no better one.
        rewrites: whether the question itself is wanted, so worded that it stands alone.
        attached: what came with the last user message and the tool results: `"an image"` …
    """

    def __init__(self, messages: Sequence[Mapping[str, Any]]) -> None:
        turns = [(message["role"], text_of(message.get("content"))) for message in messages]
        if turns[-1][0] == "assistant":
            turns.pop()
        last = max((at for at, (role, _) in enumerate(turns) if role == "user"), default=-1)
        self.request = turns[last][1] if last >= 0 else ""
        reading = _read(self.request)
        self.question, self.told, self.rewrites = reading.question, reading.told, reading.rewrites
        self.all_text = "\n".join(text for role, text in turns if role in ("system", "user"))
        self.results = [text for role, text in turns[last + 1 :] if role == "tool"]
        self.called = [
            call["function"]["name"] for message in messages[last + 1 :] for call in message.get("tool_calls") or ()
        ]
        self.attached = [what for message in messages[max(last, 0) :] for what in _attached(message.get("content"))]
        self.passages = _statements(reading.context)
        for at, (role, text) in enumerate(turns):
            if at == last or text == NOTHING or text.startswith(NOTED):
                continue
            found = _statements(text)
            self.passages += map(turned, found) if role == "user" else found


class Reading(NamedTuple):
    """One message: what it asks, what it brings along, an earlier answer, and whether to reword the question."""

    question: str
    context: str
    told: str = ""
    rewrites: bool = False


def _statements(text: str) -> list[str]:
    """The sentences of a text that state something."""
    stated = map(_stated, extract.sentences(unlabelled(text)))
    return [sentence for sentence in stated if sentence and sentence != NOTHING and not sentence.endswith(("?", "？"))]


def _stated(sentence: str) -> str:
    """What a sentence states; of an instruction that is what stands after its colon."""
    while _INSTRUCTION.match(sentence):
        sentence = sentence.partition(": ")[2].strip()
    return sentence


def text_of(content: Any) -> str:
    """The text of a message's content."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _attached(content: Any) -> list[str]:
    """What a message brings along beside its text, in words."""
    if not isinstance(content, list):
        return []
    return [_ATTACHMENTS[part["type"]] for part in content if part["type"] in _ATTACHMENTS]


_ATTACHMENTS = {
    "image_url": "an image",
    "document_url": "a document",
    "input_audio": "a sound recording",
    "file": "a file",
}
# Sentences that tell a model how to behave, and headings of what follows: nothing that answers a question.
_INSTRUCTION = re.compile(
    r"(?:\d+[.)]\s+|[-*]\s+)?(?:you (?:are|must|should|can|will|have)\b"
    r"|(?:answer|respond|reply|begin|think|keep|treat|always|never)\b"
    r"|use (?:the|only|this|these|at most|\w+ sentences?)\b|given the\b|based (?:only )?on the\b|do not\b|don't\b"
    r"|if you (?:don't|do not)\b|if the (?:context|assistant|answer)\b|we have (?:also )?(?:provided|the opportunity)\b"
    r"|be (?:concise|brief|helpful)\b|try to\b|write an?\b|instruction:|context(?: information)?(?: is below)?\s*[:.]?$"
    r"|(?:summari[sz]e|sum up)\b)",
    re.I,
)
SUMMARY: Final = re.compile(
    r"\b(?:summar(?:y|i[sz]e|i[sz]ing)|tl;?dr|sum up|résum\w+|zusammenfass\w+|fass\w* .{0,80}zusammen)", re.I
)
"""A request for a summary."""
# The same as an instruction: a text that holds a heading "Summary" asks for none.
_BID = re.compile(
    r"\W*(?:please\s+|now\s+|(?:can|could|would) you (?:please )?|i (?:want|need|would like) you to )?"
    r"(?:summari[sz]e\b|sum up\b|tl;?dr|résume|fass\w*\b.{0,80}zusammen"
    r"|(?:write|give|provide|make|create|produce|generate|prepare|what is|what's)\b[^.!?\n]{0,80}\bsummar(?:y|ies))",
    re.I,
)
_LONGEST_INSTRUCTION = 300
_TURNS = {
    "my": "your", "mine": "yours", "i": "you", "me": "you", "i'm": "you're", "i’m": "you’re", "myself": "yourself",
    "am": "are", "i've": "you've", "i'll": "you'll", "i'd": "you'd",
}  # fmt: skip
_FIRST_PERSON = re.compile(r"(?<![\w'’])(?:my|mine|i['’](?:m|ve|ll|d)|i|me|myself|am)(?![\w'’])", re.I)


def _read(request: str) -> Reading:
    """What a message asks, and the context that it brings along."""
    parts = segments(request)
    *_, last = parts
    # An empty label at the end only says where the answer goes; it may say what kind of answer that is.
    wanted = last if last.label and not last.content else None
    asking = [part for part in parts if part.kind == "question" and part.content]
    if asking:
        question, rest = _first_lines(asking[-1].content)
        others = [part.content for part in parts if part is not asking[-1]]
        told = next((part.content for part in parts if part.prior and part.content), "")
        rewrites = wanted is not None and wanted.reworded
        return Reading(question, "\n\n".join([*others, rest]), told.partition("\n")[0], rewrites)
    bidding = next((part for part in parts if part.content and _bids(part.label)), None)
    if bidding is not None:
        return Reading(bidding.label, "\n\n".join(part.content for part in parts))
    question, context = _unlabelled(unlabelled(request).strip())
    if wanted is not None and SUMMARY.search(wanted.label) and not SUMMARY.search(question):
        return Reading(wanted.label, "\n\n".join(part.content for part in parts))
    return Reading(question, context)


def _bids(text: str) -> bool:
    """Whether a text is an instruction to sum up the text beside it."""
    return len(text) <= _LONGEST_INSTRUCTION and _BID.match(text) is not None


def _first_lines(content: str) -> tuple[str, str]:
    """A question that stands under its label, and what follows it there."""
    first, _, rest = content.partition("\n\n")
    line, _, more = first.partition("\n")
    if line.rstrip().endswith(("?", "？")):
        return line.strip(), f"{more}\n\n{rest}"
    return first.strip(), rest


def _unlabelled(request: str) -> tuple[str, str]:
    """The part of a message without labels that asks, and the rest."""
    head, colon, rest = request.partition(":")
    if colon and rest[:1].isspace() and rest.strip() and "\n" not in head.strip() and _bids(head):
        return head, rest
    paragraphs = request.split("\n\n")
    for at in (0, -1):
        if len(paragraphs) > 1 and _bids(paragraphs[at]):
            return paragraphs[at], "\n\n".join(paragraphs[1:] if at == 0 else paragraphs[:-1])
    found = extract.sentences(request)
    if len(found) <= 1:
        return request, ""
    asking = [sentence for sentence in found if sentence.rstrip("\"'”’) ").endswith(("?", "？"))]
    if asking:
        return asking[-1], "\n".join(sentence for sentence in found if sentence != asking[-1])
    if len(paragraphs) == 1:
        for at in (0, -1):
            if _bids(found[at]):
                return found[at], "\n".join(found[1:] if at == 0 else found[:-1])
        return request, ""
    first, *between, last = paragraphs
    # An instruction stands before or after what it is about, and is the shorter of the two.
    if len(first) <= len(last) or (len(first) < 200 and first.rstrip().endswith(":")):
        return first, "\n\n".join([*between, last])
    return last, "\n\n".join([first, *between])


def turned(sentence: str) -> str:
    """What the user said of themselves, said back to them."""

    def turn(match: re.Match[str]) -> str:
        word = match.group()
        turned = _TURNS.get(word.casefold(), word)
        return turned[0].upper() + turned[1:] if match.start() == 0 else turned

    return _FIRST_PERSON.sub(turn, sentence)
