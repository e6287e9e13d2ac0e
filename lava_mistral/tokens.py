"""How many tokens a text or a conversation has.

With the extra `[tokenizer]` counts are Mistral's own (see `lava_mistral.tokenizers`); without it, and for what no
bundled tokenizer covers, they are an upper estimate. Nothing is downloaded, ever.

The estimate is a weighted sum over the bytes of the text, a lead byte standing for its character, with a surcharge
for runs of three consonants, which are rare in words and usual in random text, and a discount for some endings that
are usual in English. The weights solve a linear program: the least total over English prose such that no sample is
underrated, by either of Mistral's vocabularies (SentencePiece, which `mistral-embed` uses, and Tekken). The samples
were prose and software texts in twenty European languages and in Chinese, Japanese, Korean, Arabic, Hebrew, Hindi
and more, source code, JSON, base64, hexadecimal, random characters, emoji and white space. Ordinary English is
overrated by about a quarter, so that at least three quarters of a batch that is planned by it are used. Text that
is like none of these, such as a random choice of rare Chinese characters, can have more tokens than estimated.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterable, Sequence
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
    if not text.isascii():
        data = _TYPOGRAPHIC.sub(b"-", data)
    count, classes = data.count, data.translate(_CLASSES)
    weight = (
        sum(data.translate(_WEIGHTS))
        + 36 * classes.count(b"ccc")
        - 31 * classes.count(b" U")
        - 63 * count(b". ")
        - 94 * count(b"ing ")
        - 81 * count(b" and ")
        - 84 * count(b"ed ")
        - 75 * count(b"y ")
        - 31 * count(b"s ")
        - 25 * count(b"t ")
        - 23 * count(b"e ")
        - 94 * count(b"on ")
    )
    # Discounts must not eat up a text that consists of them: each word and sign is a token at least. Runs of spaces
    # are cheaper: up to 16 are one token.
    least = len(data.translate(None, _INSIDE_WORDS)) - count(b"  ") * 9 // 5
    return max(weight // _UNIT + 1, least) + _OVERHEAD


_UNIT: Final = 63  # weights are in 1/63 token, so that the largest, 4 tokens, fits into a byte
_OVERHEAD: Final = 6  # the two enclosing tokens, and what short texts vary by
_TYPOGRAPHIC: Final = re.compile(rb"\xe2\x80[\x93-\x9d]")  # dashes and quotation marks are one token, as in ASCII
_INSIDE_WORDS: Final = string.ascii_letters.encode() + bytes(range(0x80, 0xC0))


def _weights() -> bytes:
    """The weight of each byte, in 1/63 token."""
    tokens = dict.fromkeys(range(0x80), 1.0)
    tokens |= dict.fromkeys(range(0x80, 0xC0), 0.0)  # the rest of a character
    for characters, weight in (
        (string.punctuation, 1.17),
        (".,", 0.816),
        (string.digits, 1.369),
        (string.ascii_uppercase, 1.029),
        (" ", 0.332),
        ("\t", 0.03),
        ("\r\n", 0.61),
    ):
        tokens |= dict.fromkeys(characters.encode(), weight)
    # fmt: off
    letters = (
        0.647, 0.218, 0.127, 0.291, 0.28, 0.03, 0.309, 0.041, 0.471, 2.025, 2.239, 0.187, 0.03,
        0.078, 0.34, 0.689, 1.965, 0.03, 0.143, 0.044, 0.532, 1.155, 0.151, 0.51, 0.253, 3.322,
    )
    # fmt: on
    tokens |= dict(zip(string.ascii_lowercase.encode(), letters, strict=True))
    for first, last, weight in (
        (0xC2, 0xC2, 2.0),  # signs of Latin 1
        (0xC3, 0xC3, 1.35),  # letters of Latin 1
        (0xC4, 0xC5, 1.6),  # Latin extended
        (0xC6, 0xCD, 2.0),  # phonetic signs, combining marks, Greek capitals
        (0xCE, 0xCF, 1.2),  # Greek
        (0xD0, 0xD1, 0.75),  # Cyrillic
        (0xD2, 0xD3, 2.0),
        (0xD4, 0xD6, 1.5),  # Armenian, Hebrew points
        (0xD7, 0xD7, 1.3),  # Hebrew
        (0xD8, 0xDB, 1.35),  # Arabic
        (0xDC, 0xDF, 2.0),
        (0xE0, 0xE0, 2.7),  # scripts of India, Thai
        (0xE1, 0xE2, 3.0),  # Georgian, Khmer, Vietnamese vowels, signs
        (0xE3, 0xE3, 1.3),  # Japanese syllables
        (0xE4, 0xE9, 1.5),  # Chinese characters
        (0xEA, 0xED, 1.75),  # Korean syllables
        (0xEE, 0xEF, 3.0),
        (0xF0, 0xFF, 4.0),  # emoji, rare scripts: each byte a token
    ):
        tokens |= dict.fromkeys(range(first, last + 1), weight)
    return bytes(math.ceil(tokens.get(byte, 4.0) * _UNIT) for byte in range(256))


def _classes() -> bytes:
    """Each byte as c (consonant), v (vowel), U (capital), space or other."""
    classes = bytearray(b"." * 256)
    for characters, name in (
        (string.ascii_lowercase, "c"),
        ("aeiouy", "v"),
        (string.ascii_uppercase, "U"),
        (" ", " "),
    ):
        for byte in characters.encode():
            classes[byte] = ord(name)
    return bytes(classes)


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
