"""Reads a conversation: what is asked, and what was said that an answer may come from."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from lava_mistral.gateway.model.text import sentences, stem, terms
from lava_mistral.mistral.message_normalization import text_of

NOTHING: Final = "I found nothing about that in the text I was given."
NOTED: Final = "Noted: "  # Begins the answer to a user who tells something instead of asking.

_LABEL = re.compile(
    r"(?:^|\n|(?<=[.!?…])[ \t])[ \t#*]*(?:<(?P<end>/?)(?P<tag>[\w ]+)>|(?P<head>[^\n:.!?<>]{1,100}):)[ \t*]*"
)
_ASKING = frozenset(map(stem, ("question", "query", "user", "human", "q", "input", "message")))
_OTHER_LABELS = """context passage document text background excerpt snippet article source fact data content history
    conversation result paragraph answer a response reply output summary tldr assistant ai"""
_LABELS = _ASKING.union(map(stem, _OTHER_LABELS.split()))
_INFORMATION = stem("information")  # A label only where it stands alone, before what is to be judged.
# A text that holds a heading "Summary" asks for none.
_SUMMARY = re.compile(
    r"\W*(?:please\s+|(?:can|could|would) you (?:please )?|i (?:want|need) you to )?(?:summari[sz]e\b|sum up\b|tl;?dr"
    r"|(?:[\w ]{0,30} )?summary:\W*$|(?:write|give|make|create|generate|what is|what's)\b[^.!?\n]{0,80}\bsummar)",
    re.I,
)
# Sentences that tell a model how to behave, and headings of what follows: nothing that answers a question.
_INSTRUCTION = re.compile(
    r"(?:\d+[.)]\s+|[-*]\s+)?(?:you (?:are|must|should|can|will|have)|answer|respond|reply|begin|think|keep|treat"
    r"|always|never|use (?:the|only|this|these|at most|\w+ sentence)|given the|based (?:only )?on|do not|don't|try to"
    r"|if (?:you (?:don't|do not)|the (?:context|document|assistant|answer))"
    r"|we have (?:also )?(?:provided|the opportunity)|be (?:concise|brief|helpful)|instruction:"
    r"|context(?: information)?(?: is below)?\s*[:.]?$)"
    rf"|{_SUMMARY.pattern}",
    re.I,
)
_REPHRASE = re.compile(r"(?:stand-?alone|rephrased) question\W*$", re.I)
_ATTACHMENTS = {"image_url": "an image", "document_url": "a document", "input_audio": "a recording", "file": "a file"}


class Prompt:
    """A conversation as the model reads it: the request is the last user message, the question the part that asks."""

    def __init__(self, messages: Sequence[Mapping[str, Any]]) -> None:
        turns = [(message["role"], text_of(message.get("content"))) for message in messages]
        if turns[-1][0] == "assistant":
            turns.pop()
        last = max((at for at, (role, _) in enumerate(turns) if role == "user"), default=-1)
        self.request = turns[last][1] if last >= 0 else ""
        self.question, context = _read(self.request)
        self.told = " ".join(_statements(context)) or self.request
        self.rephrase = _REPHRASE.search(self.request) is not None
        self.summary = any(map(_SUMMARY.match, sentences(self.request)))
        self.all_text = "\n".join(text for role, text in turns if role in ("system", "user"))
        self.results = [text for role, text in turns[last + 1 :] if role == "tool"]
        since = messages[max(last, 0) :]
        self.called = [call["function"]["name"] for message in since for call in message.get("tool_calls") or ()]
        parts = [part for message in since if isinstance(message.get("content"), list) for part in message["content"]]
        kinds = dict.fromkeys(_ATTACHMENTS[part["type"]] for part in parts if part["type"] in _ATTACHMENTS)
        attached = " and ".join(kinds)
        self.attached = f"There is {attached}, which a simulated model can't look into." if attached else ""
        # All that an answer may come from; not the model's own refusals, and what the user said first.
        self.passages = _statements(self.request if self.summary else context)
        for at, (_, text) in enumerate(turns):
            if at != last and text != NOTHING and not text.startswith(NOTED):
                self.passages += _statements(text)


def _statements(text: str) -> list[str]:
    """List the sentences of a text that state something; of an instruction, what stands after its colon."""
    found = []
    for sentence in sentences("\n".join(part for _, part in _segments(text))):
        while _INSTRUCTION.match(sentence):
            sentence = sentence.partition(": ")[2].strip()
        if sentence and sentence != NOTHING and not sentence.endswith(("?", "？")):
            found.append(sentence)
    return found


def _segments(text: str) -> list[tuple[bool, str]]:
    """Split a message at its labels ("Context:", "<question>"); each part with whether it is a question."""
    found, asks, start = [], False, 0
    for match in _LABEL.finditer(text):
        label = match["tag"] or match["head"]
        named = terms(label) or [label.strip().casefold()]
        known = [term for term in named if term in _LABELS or named == [_INFORMATION]]
        if known and len(named) <= 5:
            found.append((asks, text[start : match.start()].strip()))
            asks, start = not match["end"] and known[-1] in (*_ASKING, _INFORMATION), match.end()
    return [*found, (asks, text[start:].strip())]


def _read(request: str) -> tuple[str, str]:
    # The question, and what it is asked about.
    parts = _segments(request)
    labelled = [text for asks, text in parts if asks and text]
    if labelled:
        question, _, rest = labelled[-1].partition("\n" if re.search(r"\?\s*\n", labelled[-1]) else "\n\n")
        return question.strip(), "\n\n".join([*(text for _, text in parts if text is not labelled[-1]), rest])
    unlabelled = "\n".join(text for _, text in parts).strip()
    found = sentences(unlabelled)
    asking = [sentence for sentence in found if sentence.rstrip("\"'”’) ").endswith(("?", "？"))]
    if asking and len(found) > 1:
        return asking[-1], "\n".join(sentence for sentence in found if sentence != asking[-1])
    paragraphs = unlabelled.split("\n\n")
    if len(paragraphs) == 1:
        return unlabelled, ""
    # An instruction stands before or after what it is about, and is the shorter of the two.
    question = paragraphs.pop(0 if len(paragraphs[0]) <= len(paragraphs[-1]) else -1)
    return question, "\n\n".join(paragraphs)
