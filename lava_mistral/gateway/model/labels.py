"""Takes a message apart at its labels, as prompts are written: `Context: …`, `Question: …`, `<documents>`."""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

Kind = Literal["", "question", "context", "answer"]

# A label is one of these words, alone, with words that only point, or at the end of a short instruction:
# "Question:", "The original query is as follows:", "Summarize this text:". "Opening hours:" is none.
_QUESTION = (
    r"questions?|query|frage|pregunta|(?:follow[ -]?up|user|human)[ ](?:question|input|message|query)|user|human|q"
)
_CONTEXT = (
    r"contexte?|kontext|passages?|documents?|texte?s?|information|background|excerpts?|snippets?|articles?|sources?"
    r"|facts|data|knowledge|content|history|conversation|search[ ]results|paragraphs?|input|documentation"
    r"|schema|(?:context|background)[ ]information"
)
_ANSWER = r"answers?|antwort|response|reply|output|(?:summary|tl;?dr)|assistant|ai|a"
_POINTING = (
    r"the|an?|my|your|new|original|existing|previous|prior|given|following|retrieved|relevant|provided|additional|more"
    r"|some|above|below|numbered|here|is|are|this|these|that|user(?:['’]s)?|chat|conversation|current|follow[ -]?up"
    r"|standalone|stand-alone|rephrased|rewritten|reworded|condensed|search|helpful|final|refined|concise|short|brief|detailed|text|context|source|pieces|of|for|to"
)
_BIDDING = (
    r"(?:please[ ]+)?(?:answer|respond|reply|use|using|read|consider|look|based|given|summari[sz]e|sum[ ]up"
    r"|explain|describe|list|extract|translate|rewrite|rephrase|write|give|tell|find|analy[sz]e|classify|refer"
    r"|we[ ]have|only)\b"
)
_LABEL = re.compile(
    rf"(?:^|(?P<line>\n)|(?<=[.!?…。！？])(?=[ \t]))[ \t#*]*(?P<tag></?)?"
    rf"(?P<name>(?:{_BIDDING}[^\n:.!?<>]{{0,80}}?[ ])?(?:(?:{_POINTING})[ ]+){{0,5}}?"
    rf"(?:(?P<question>{_QUESTION})|(?P<context>{_CONTEXT})|(?P<answer>{_ANSWER})))"
    rf"(?:[ ]+(?:is|are)(?:[ ]+as[ ]follows|[ ]+below)?|[ ]+below|[ ]+as[ ]follows)?(?(tag)[ ]*>|[ \t*]*:[ \t*]*)",
    re.I,
)
_WORD = re.compile(r"\w")
_PRIOR: Final = re.compile(r"\b(?:existing|original|previous|prior)\b", re.I)

_REWORDED: Final = re.compile(r"\b(?:stand-?alone|rephrased|rewritten|reworded|condensed|search)\b", re.I)


class Segment(NamedTuple):
    """What stands under one label.

    Attributes:
        kind: what the label says that it is; empty for what stands under none.
        label: its words.
        content: the text under it; with nothing but marks it is empty.
    """

    kind: Kind
    label: str
    content: str

    @property
    def prior(self) -> bool:
        """Whether it is an answer that was given before."""
        return self.kind == "answer" and _PRIOR.search(self.label) is not None

    @property
    def reworded(self) -> bool:
        """Whether it is a question that is to be put in other words."""
        return self.kind == "question" and _REWORDED.search(self.label) is not None


def segments(text: str) -> list[Segment]:
    """A message in its parts, in order; the first is what stands before any label."""
    found: list[Segment] = []
    kind: Kind = ""
    label, start = "", 0
    for match in _LABEL.finditer(text):
        found.append(_segment(kind, label, text[start : match.start()]))
        opens = match["tag"] != "</"
        kind = (
            "question" if match["question"] else "context" if match["context"] else "answer"
        ) if opens else ""  # fmt: skip
        label, start = match["name"] if opens else "", match.end()
    found.append(_segment(kind, label, text[start:]))
    return found


def _segment(kind: Kind, label: str, content: str) -> Segment:
    content = content.strip()
    return Segment(kind, label, content if _WORD.search(content) else "")


def unlabelled(text: str) -> str:
    """The text without the labels in it."""
    return _LABEL.sub(lambda match: match["line"] or " ", text)
