"""How many tokens a text or a conversation has.

With the extra `[tokenizer]` counts are Mistral's own (see `lava_mistral.tokenizers`); without it, and for what no
bundled tokenizer covers, they are an upper estimate. Nothing is downloaded, ever.

The estimate is a weighted sum over the bytes of the text, a lead byte standing for its character. A surcharge for
runs of three consonants tells random text from words, and a discount for some endings tells English from languages
whose words are more tokens. The weights solve a linear program: the least total over English prose such that no
sample is underrated by either of Mistral's vocabularies, SentencePiece (which `mistral-embed` uses) and Tekken. The
samples were prose and software texts in twenty European languages, source code, JSON, base64, hexadecimal and random
characters. Outside ASCII, a character that both vocabularies have (`characters.txt`, 2,358 of them) counts about one,
and any other a token for each of its bytes, which is the most that it can take.

Ordinary English is overrated by about 30 %, so that three quarters of a batch that is planned by it are used. Text
that is unlike all of these can have more tokens than estimated: Welsh, or a syllable repeated over and over.
"""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from lava_mistral import tokenizers
from lava_mistral.catalog import get_model
from lava_mistral.wire import Message, Tool

DEFAULT_MODEL: Final = "mistral-small-2603"

IMAGE_TOKENS: Final = 4_160
"""The most that one image can take: 64 rows of 64 patches, each row with a break (Pixtral; later models take less)."""
_MESSAGE_TOKENS: Final = 5  # control tokens around a message: at most four, and one to spare
_PROMPT_TOKENS: Final = 16  # begin of text, and the model settings that some templates write
_CALL_TOKENS: Final = 20  # control tokens of a tool call, its id and the JSON around it


class TokenCount(NamedTuple):
    """A number of tokens."""

    tokens: int
    """How many."""
    exact: bool
    """Whether it is the model's own count; otherwise an upper estimate."""


def count_tokens(
    text_or_messages: str | Sequence[Message],
    model: str = DEFAULT_MODEL,
    *,
    tools: Sequence[Tool] | None = None,
) -> TokenCount:
    """How many tokens a text or a prompt has for a model.

    Args:
        text_or_messages: a text, or messages in Mistral's wire form. A text is counted alone, without the control
            tokens of a chat; for an embedding model it is counted as Mistral bills it, with the two that enclose it.
            Messages are counted as the prompt that the model reads, with all control tokens.
        model: the name of the model; one that is not known is estimated.
        tools: the tools of the request, in wire form; counted with messages only.

    Returns:
        The count. It is exact where the extra `[tokenizer]` is installed, the model's vocabulary (for messages:
        also its chat template) is bundled in it, and the messages hold only text and tool calls. Images count as
        the most that they can take. A document or a sound has no count before Mistral has read it, and adds nothing.
    """
    if isinstance(text_or_messages, str):
        enclosed = "embeddings" in get_model(model).capabilities
        counted = tokenizers.count_text(text_or_messages, model, enclosed=enclosed)
        return TokenCount(*counted) if counted else TokenCount(estimate_tokens(text_or_messages), False)
    messages = list(text_or_messages)
    if not any(_attachments(messages)):
        prompt = tokenizers.count_prompt(messages, model, tools=tools or ())
        if prompt is not None:
            return TokenCount(*prompt)
    return TokenCount(_estimate_prompt(messages, model, tools or ()), False)


def estimate_tokens(text: str) -> int:
    """An upper estimate of the tokens of a text, with the two that enclose an input of an embedding model.

    It needs no tokenizer and takes about 10 ns for each character.
    """
    data = text.encode("utf-8", "replace")
    extra = _OVERHEAD
    if not text.isascii():
        common = _rare_characters().sub("", text).encode()
        extra += len(data) - len(common)
        data = common
    count, classes = data.count, data.translate(_CLASSES)
    if not text.isascii():
        extra += classes.count(b" n")  # the space before a word in another script is a token of its own
    weight = (
        sum(data.translate(_WEIGHTS))
        + 32 * classes.count(b"ccc")
        - 19 * classes.count(b" U")
        - 28 * classes.count(b"e ")
        - 63 * count(b". ")
        - 94 * count(b"ing ")
        - 77 * count(b" and ")
        - 54 * count(b"ed ")
    )
    # Discounts must not eat up a text that consists of them: each word and sign is a token at least. Runs of spaces
    # are cheaper: up to 16 are one token.
    least = len(data.translate(None, _INSIDE_WORDS)) - count(b"  ") * 9 // 5
    return max(weight // _UNIT + 1, least) + extra


_UNIT: Final = 63  # weights are in 1/63 token, so that the largest, 4 tokens, fits into a byte
_OVERHEAD: Final = 6  # the two enclosing tokens, and what short texts vary by
_INSIDE_WORDS: Final = string.ascii_letters.encode() + bytes(range(0x80, 0xC0))


def _weights() -> bytes:
    """The weight of each byte, in 1/63 token."""
    tokens = dict.fromkeys(range(0x80), 1.0)
    tokens |= dict.fromkeys(range(0x80, 0xC0), 0.0)  # the rest of a character
    for characters, weight in (
        (string.punctuation, 1.174),
        (".,", 0.637),
        (string.digits, 1.695),
        (string.ascii_uppercase, 0.9),
        (" ", 0.2),
        ("\t", 0.03),
        ("\r\n", 0.339),
    ):
        tokens |= dict.fromkeys(characters.encode(), weight)
    # fmt: off
    letters = (
        0.621, 0.03, 0.42, 0.533, 0.281, 0.03, 0.558, 0.139, 0.516, 1.87, 2.59, 0.191, 0.223,
        0.06, 0.147, 0.555, 2.912, 0.248, 0.131, 0.188, 0.506, 1.039, 0.457, 0.584, 0.03, 4.0,
    )
    # fmt: on
    tokens |= dict(zip(string.ascii_lowercase.encode(), letters, strict=True))
    for first, last, weight in (
        (0xC3, 0xC3, 1.35),  # letters with accents: they also break the words they are in
        (0xC4, 0xC5, 1.6),
        (0xC6, 0xCD, 2.0),
        (0xCE, 0xFF, 1.05),  # a token each, and the space before some of them
        (0xD0, 0xD1, 0.75),  # Cyrillic, whose words are tokens of several letters
        (0xE1, 0xE1, 2.3),  # Vietnamese vowels
    ):
        tokens |= dict.fromkeys(range(first, last + 1), weight)
    return bytes(round(tokens.get(byte, 4.0) * _UNIT) for byte in range(256))


def _classes() -> bytes:
    """Each byte as v (vowel), c (consonant), e (a letter that ends many English words), U (capital), space, n (begins a
    character beyond Latin) or other.
    """
    classes = bytearray(b"." * 0xC6 + b"n" * 0x3A)
    for characters, name in (
        (string.ascii_lowercase, "c"),
        ("aiou", "v"),
        ("estydg", "e"),
        (string.ascii_uppercase, "U"),
        (" ", " "),
    ):
        for byte in characters.encode():
            classes[byte] = ord(name)
    return bytes(classes)


@functools.cache
def _rare_characters() -> re.Pattern[str]:
    """Characters that are no token in one of the vocabularies, and so can take a token for each byte."""
    common = Path(__file__).with_name("characters.txt").read_text("utf-8").replace("\n", "")
    return re.compile(f"[^\\x00-\\x7f{re.escape(common)}]+")


_WEIGHTS: Final = _weights()
_CLASSES: Final = _classes()


def _estimate_prompt(messages: Sequence[Message], model: str, tools: Sequence[Tool]) -> int:
    """An upper estimate of a prompt: its texts, counted with the model's vocabulary where it is at hand."""
    texts = [*_texts(messages), *(orjson.dumps(tool).decode() for tool in tools)]
    total = _PROMPT_TOKENS + _MESSAGE_TOKENS * (len(messages) + len(tools))
    for text in texts:
        counted = tokenizers.count_text(text, model)
        total += counted.tokens if counted else estimate_tokens(text)
    total += IMAGE_TOKENS * sum(kind == "image_url" for kind in _attachments(messages))
    return total + _CALL_TOKENS * sum(len(message.get("tool_calls") or ()) for message in _dicts(messages))


def _dicts(messages: Sequence[Message]) -> Iterable[dict[str, Any]]:
    """The messages as plain dictionaries, whatever their role."""
    return (dict(message) for message in messages)


def _parts(messages: Sequence[Message]) -> Iterable[dict[str, Any]]:
    """All content parts that are not a plain string, those inside thinking included."""
    for message in _dicts(messages):
        content = message.get("content")
        if isinstance(content, list):
            for part in content:
                yield part
                if isinstance(part.get("thinking"), list):
                    yield from part["thinking"]


def _attachments(messages: Sequence[Message]) -> Iterable[str]:
    """The kinds of the parts that are not text."""
    return (part["type"] for part in _parts(messages) if part.get("type") != "text")


def _texts(messages: Sequence[Message]) -> Iterable[str]:
    """Every text of the messages: content, thinking, and the names and arguments of tool calls."""
    for message in _dicts(messages):
        if isinstance(message.get("content"), str):
            yield message["content"]
        for call in message.get("tool_calls") or ():
            arguments = call["function"].get("arguments", "")
            yield call["function"]["name"]
            yield arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    for part in _parts(messages):
        if part.get("type") == "text":
            yield part["text"]
        elif isinstance(part.get("thinking"), str):
            yield part["thinking"]
