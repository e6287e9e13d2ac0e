"""Reads a conversation as the simulated model does: what is asked, and what was said that an answer may come from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from lava_mistral.gateway import extract

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
        attached: what came with the last user message and the tool results: `"an image"` …
    """

    def __init__(self, messages: Sequence[Mapping[str, Any]]) -> None:
        turns = [(message["role"], text_of(message.get("content"))) for message in messages]
        if turns[-1][0] == "assistant":
            turns.pop()
        last = max((at for at, (role, _) in enumerate(turns) if role == "user"), default=-1)
        self.request = turns[last][1] if last >= 0 else ""
        self.question, context = _question(self.request)
        self.all_text = "\n".join(text for role, text in turns if role in ("system", "user"))
        self.results = [text for role, text in turns[last + 1 :] if role == "tool"]
        self.called = [
            call["function"]["name"] for message in messages[last + 1 :] for call in message.get("tool_calls") or ()
        ]
        self.attached = [what for message in messages[max(last, 0) :] for what in _attached(message.get("content"))]
        self.passages = _statements(context)
        for at, (role, text) in enumerate(turns):
            if at == last or text == NOTHING or text.startswith(NOTED):
                continue
            found = _statements(text)
            self.passages += map(turned, found) if role == "user" else found


def _statements(text: str) -> list[str]:
    """The sentences of a text that state something."""
    return [
        sentence
        for sentence in extract.sentences(text)
        if not sentence.endswith(("?", "？")) and not _INSTRUCTION.match(sentence)
    ]


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
_LABEL = re.compile(r"(?:^|\n)[ \t#*]*(?:user\s+)?(?:question|query|q|frage)[ \t*]*:[ \t*]*", re.I)
_AFTER = re.compile(r"\n[ \t#*]*(?:answer|helpful answer|response|a|assistant)[ \t*]*:\s*$", re.I)
# Sentences that tell a model how to behave, and headings of what follows: nothing that answers a question.
_INSTRUCTION = re.compile(
    r"you (?:are|must|should|can|will|have)\b|(?:answer|respond|reply|begin|think|keep|treat|always|never)\b"
    r"|use (?:the|only|this|these)\b|given the\b|based (?:only )?on the\b|do not\b|don't\b|if you (?:don't|do not)\b"
    r"|be (?:concise|brief|helpful)\b|context(?: information)?(?: is below)?\s*[:.]?$",
    re.I,
)
_TURNS = {
    "my": "your", "mine": "yours", "i": "you", "me": "you", "i'm": "you're", "i’m": "you’re", "myself": "yourself",
    "am": "are", "i've": "you've", "i'll": "you'll", "i'd": "you'd",
}  # fmt: skip
_FIRST_PERSON = re.compile(r"(?<![\w'’])(?:my|mine|i['’](?:m|ve|ll|d)|i|me|myself|am)(?![\w'’])", re.I)


def _question(request: str) -> tuple[str, str]:
    """The part of a message that asks, and the rest: the context that it brings along."""
    request = _AFTER.sub("", request).strip()
    labels = list(_LABEL.finditer(request))
    if labels:
        label = labels[-1]
        asked, _, after = request[label.end() :].partition("\n\n")
        return asked.strip(), f"{request[: label.start()]}\n\n{after}"
    found = extract.sentences(request)
    if len(found) <= 1:
        return request, ""
    asking = [sentence for sentence in found if sentence.rstrip("\"'”’) ").endswith(("?", "？"))]
    if asking:
        return asking[-1], "\n".join(sentence for sentence in found if sentence != asking[-1])
    first, *between, last = request.split("\n\n") if "\n\n" in request else (request, "")
    if not last:
        return request, ""
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
