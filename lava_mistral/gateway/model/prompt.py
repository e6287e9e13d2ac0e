"""Reads a conversation as the simulated model does: what is asked, and what was said that an answer may come from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from lava_mistral.gateway.model.text import sentences, stem, terms

NOTHING: Final = "I found nothing about that in the text I was given."
"""What the model says when it has no answer; it does not answer from its own refusals later."""
NOTED: Final = "Noted: "
"""How the model takes in what it is told; the user said it first."""
SUMMARY: Final = re.compile(r"\b(?:summar(?:y|i[sz]e|i[sz]ing)|tl;?dr|sum up)", re.I)
"""A request for a summary."""

_LABEL = re.compile(
    r"(?:^|(?P<line>\n)|(?<=[.!?…])[ \t])[ \t#*]*(?:<(?P<end>/?)(?P<tag>[\w ]+)>|(?P<head>[^\n:.!?<>]{1,100}):)[ \t*]*"
)
_KINDS = {
    "question": "question query user human q input message",
    "context": """context passage document text background excerpt snippet article source fact data content
        history conversation result paragraph""",
    "answer": "answer a response reply output summary tldr tl;dr assistant ai",
}
_KIND_OF = {stem(word): kind for kind, words in _KINDS.items() for word in words.split()}
# Sentences that tell a model how to behave, and headings of what follows: nothing that answers a question.
_INSTRUCTION = re.compile(
    r"(?:\d+[.)]\s+|[-*]\s+)?(?:you (?:are|must|should|can|will|have)|answer|respond|reply|begin|think|keep|treat"
    r"|always|never|use (?:the|only|this|these|at most|\w+ sentence)|given the|based (?:only )?on|do not|don't|try to"
    r"|write an?|if (?:you (?:don't|do not)|the (?:context|assistant|answer))"
    r"|we have (?:also )?(?:provided|the opportunity)"
    r"|be (?:concise|brief|helpful)|instruction:|summari[sz]e|sum up|context(?: information)?(?: is below)?\s*[:.]?$)",
    re.I,
)
# A text that holds a heading "Summary" asks for none.
_BID = re.compile(
    r"\W*(?:please\s+|(?:can|could|would) you (?:please )?|i (?:want|need) you to )?(?:summari[sz]e\b|sum up\b|tl;?dr"
    r"|(?:write|give|make|create|generate|what is|what's)\b[^.!?\n]{0,80}\bsummar)",
    re.I,
)
_ATTACHMENTS = {"image_url": "an image", "document_url": "a document", "input_audio": "a recording", "file": "a file"}
_TURNS = {"my": "your", "mine": "yours", "i": "you", "me": "you", "i'm": "you're", "am": "are", "i've": "you've"}
_FIRST_PERSON = re.compile(r"(?<![\w'])(?:my|mine|i'(?:m|ve)|i|me|am)(?![\w'])", re.I)


class _Segment(NamedTuple):
    """The text under one label; the kind is empty for what stands under none."""

    kind: str
    label: str
    content: str


class _Reading(NamedTuple):
    question: str
    context: str
    told: str = ""
    rewrites: bool = False


class Prompt:
    """A conversation as the model reads it: the request is the last user message, the question the part that asks."""

    def __init__(self, messages: Sequence[Mapping[str, Any]]) -> None:
        turns = [(message["role"], text_of(message.get("content"))) for message in messages]
        if turns[-1][0] == "assistant":
            turns.pop()
        last = max((at for at, (role, _) in enumerate(turns) if role == "user"), default=-1)
        self.request = turns[last][1] if last >= 0 else ""
        # An answer that was given before stands if there is no better one; a question may be wanted in other words.
        self.question, context, self.told, self.rewrites = _read(self.request)
        self.all_text = "\n".join(text for role, text in turns if role in ("system", "user"))
        self.results = [text for role, text in turns[last + 1 :] if role == "tool"]
        since = messages[max(last, 0) :]
        self.called = [call["function"]["name"] for message in since for call in message.get("tool_calls") or ()]
        parts = [part for message in since if isinstance(message.get("content"), list) for part in message["content"]]
        self.attached = [_ATTACHMENTS[part["type"]] for part in parts if part["type"] in _ATTACHMENTS]
        # All that an answer may come from.
        self.passages = _statements(context)
        for at, (role, text) in enumerate(turns):
            if at != last and text != NOTHING and not text.startswith(NOTED):
                self.passages += map(turned, _statements(text)) if role == "user" else _statements(text)


def text_of(content: Any) -> str:
    """Return the text of a message's content."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def turned(sentence: str) -> str:
    """Say back to users what they said of themselves."""
    said = _FIRST_PERSON.sub(lambda match: _TURNS[match.group().casefold()], sentence)
    return said if said == sentence else said[0].upper() + said[1:]


def _statements(text: str) -> list[str]:
    """List the sentences of a text that state something; of an instruction, what stands after its colon."""
    found = []
    for sentence in sentences(_unlabelled(text)):
        while _INSTRUCTION.match(sentence):
            sentence = sentence.partition(": ")[2].strip()
        if sentence and sentence != NOTHING and not sentence.endswith(("?", "？")):
            found.append(sentence)
    return found


def _kind(match: re.Match[str]) -> str:
    """What a label says that its text is; empty where it is none."""
    head = terms(match["tag"] or match["head"] or "") or [(match["head"] or "").strip().casefold()]
    kinds = [_KIND_OF[term] for term in head if term in _KIND_OF]
    return kinds[-1] if kinds and len(head) <= 5 else ""


def _segments(text: str) -> list[_Segment]:
    """Split a message at its labels; the first segment is what stands before any."""
    found: list[_Segment] = []
    kind, label, start = "", "", 0
    for match in _LABEL.finditer(text):
        if of := _kind(match):
            found.append(_Segment(kind, label, text[start : match.start()].strip(" \t\n-=_")))
            kind, label, start = ("", "", match.end()) if match["end"] else (of, match[0].strip(), match.end())
    return [*found, _Segment(kind, label, text[start:].strip(" \t\n-=_"))]


def _unlabelled(text: str) -> str:
    return _LABEL.sub(lambda match: (match["line"] or " ") if _kind(match) else match[0], text)


def _read(request: str) -> _Reading:
    parts = _segments(request)
    # An empty label at the end only says where the answer goes; it may say what kind of answer that is.
    wanted = parts[-1].label if not parts[-1].content else ""
    asking = [part for part in parts if part.kind == "question" and part.content]
    if asking:
        first, _, rest = asking[-1].content.partition("\n\n")
        line, _, more = first.partition("\n")
        if line.rstrip().endswith(("?", "？")):
            first, rest = line, f"{more}\n\n{rest}"
        others = "\n\n".join([*(part.content for part in parts if part is not asking[-1]), rest])
        earlier = [part for part in parts if re.match(r"(?i:existing|original|previous) answer", part.label)]
        told = earlier[0].content.partition("\n")[0] if earlier else ""
        return _Reading(
            first.strip(), others, told, re.search(r"(?i:stand-?alone|rephrased) question", wanted) is not None
        )
    bidding = [part.label for part in parts if part.content and _BID.match(part.label)]
    if bidding or SUMMARY.search(wanted):
        return _Reading([*bidding, wanted][0], "\n\n".join(part.content for part in parts))
    return _read_unlabelled(_unlabelled(request).strip())


def _read_unlabelled(request: str) -> _Reading:
    paragraphs, found = request.split("\n\n"), sentences(request)
    for pieces in (list(request.partition(":")[::2]), paragraphs, found):
        for at in (0, -1):
            if len(pieces) > 1 and pieces[-1].strip() and len(pieces[at]) <= 300 and _BID.match(pieces[at]):
                return _Reading(pieces[at], "\n\n".join(pieces[1:] if at == 0 else pieces[:-1]))
    asking = [sentence for sentence in found if sentence.rstrip("\"'”’) ").endswith(("?", "？"))]
    if len(found) > 1 and asking:
        return _Reading(asking[-1], "\n".join(sentence for sentence in found if sentence != asking[-1]))
    # An instruction stands before or after what it is about, and is the shorter of the two.
    first, *between, last = ["", *paragraphs] if len(paragraphs) == 1 else paragraphs
    if first and (len(first) <= len(last) or (len(first) < 200 and first.rstrip().endswith(":"))):
        return _Reading(first, "\n\n".join([*between, last]))
    return _Reading(last, "\n\n".join([first, *between]))
