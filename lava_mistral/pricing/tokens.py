"""How many tokens a text or a conversation has.

With the extra `[tokenizer]` counts are Mistral's own (see `lava_mistral.pricing.tokenizers`); without it, and for
what no bundled tokenizer covers, they are an upper estimate. Nothing is downloaded, ever.

The estimate takes a word that both of Mistral's vocabularies hold as one token (`words.vocabulary`, 15,080 of them, of
many languages; SentencePiece, which `mistral-embed` uses, and Tekken) for one token, and weighs the letters of any
other word: rare ones more, since they stand for shorter pieces. Digits and signs count for themselves. A character
outside ASCII that both vocabularies hold (`characters.vocabulary`, 2,358) counts about one, any other a token for each
of its bytes, which is the most that it can take. The weights solve a linear program: the least total over English prose
such that no sample of prose and software texts in thirty languages, code, JSON, base64, hexadecimal or random
characters gets less than 104 % of its tokens.

Ordinary English is overrated by about 20 %. Text that is unlike all of these can have more tokens than estimated, such
as one odd syllable repeated over and over.
"""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Iterable, Sequence
from itertools import filterfalse
from pathlib import Path
from typing import Any, Final, NamedTuple

from lava_mistral.mistral.json_codec import to_json
from lava_mistral.mistral.types import Message, Tool
from lava_mistral.pricing import tokenizers
from lava_mistral.pricing.catalog import get_model
from lava_mistral.pricing.prompts import Prompt, to_messages

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
    text_or_messages: Prompt,
    model: str = DEFAULT_MODEL,
    *,
    tools: Sequence[Tool] | None = None,
) -> TokenCount:
    """How many tokens a text or a prompt has for a model.

    Args:
        text_or_messages: a text, or messages in Mistral's form, LangChain's or LlamaIndex's. A text is counted alone,
            without the control tokens of a chat; for an embedding model it is counted as Mistral bills it, with the two
            that enclose it. Messages are counted as the prompt that the model reads, with all control tokens.
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
    messages = to_messages(text_or_messages)
    if not any(_attachments(messages)):
        prompt = tokenizers.count_prompt(messages, model, tools=tools or ())
        if prompt is not None:
            return TokenCount(*prompt)
    return TokenCount(_estimate_prompt(messages, model, tools or ()), False)


def estimate_tokens(text: str) -> int:
    """An upper estimate of the tokens of a text, with the two that enclose an input of an embedding model.

    It needs no tokenizer and takes about 15 ns for each character.
    """
    data = text.encode("utf-8", "replace")
    total = _OVERHEAD
    if not text.isascii():
        common = _rare_characters().sub("", text).encode()
        total += _UNIT * (len(data) - len(common))
        # Quotation marks and dashes are signs, as in ASCII, and no part of a word.
        data = _TYPOGRAPHIC.sub(b"-", common)
    words = data.translate(_WORDS_ALONE).split()
    unknown = b"".join(filterfalse(_known_words().__contains__, words))
    total += _UNIT * len(words) + sum(unknown.translate(_WEIGHTS))
    total += _SIGN * len(data.translate(None, _NO_SIGNS)) + _TWO_SPACES * data.count(b"  ")
    return total // _UNIT + 1


_UNIT: Final = 160  # weights are in 1/160 token, so that the largest fits into a byte
_OVERHEAD: Final = 6 * _UNIT  # the two enclosing tokens, and what short texts vary by
_SIGN: Final = 200
_TWO_SPACES: Final = 93
_TYPOGRAPHIC: Final = re.compile(rb"\xe2\x80[\x90-\x9f\xa6]")
_LETTERS: Final = string.ascii_letters.encode() + bytes(range(0x80, 0x100))  # all that is beyond ASCII too
_NO_SIGNS: Final = _LETTERS + b" "
_WORDS_ALONE: Final = bytes(byte if byte in _LETTERS else 0x20 for byte in range(256))


def _weights() -> bytes:
    """What each byte of a word that is no token adds to the token that every word counts as."""
    weights = bytearray(256)  # 0 for the bytes of a character after its first
    for characters, weight in (
        ("aeiou", 0.21),
        ("tnsrhldcy", 0.2),
        ("mfpgwbv", 1.16),
        ("kjxqz", 1.22),
        (string.ascii_uppercase, 0.81),
    ):
        for byte in characters.encode():
            weights[byte] = round(weight * _UNIT)
    for first, last, weight in (
        (0xC2, 0xC3, 0.67),  # letters with accents
        (0xC4, 0xC5, 1.46),
        (0xC6, 0xCD, 1.26),
        (0xCE, 0xFF, 1.04),  # most scripts: a token a character
        (0xD0, 0xD3, 0.73),  # Cyrillic
        (0xE1, 0xE1, 1.16),  # Vietnamese vowels
    ):
        weights[first : last + 1] = bytes([round(weight * _UNIT)]) * (last + 1 - first)
    return bytes(weights)


_WEIGHTS: Final = _weights()


@functools.cache
def _known_words() -> frozenset[bytes]:
    """Words that are one token after a space."""
    return frozenset(Path(__file__).with_name("words.vocabulary").read_bytes().split())


@functools.cache
def _rare_characters() -> re.Pattern[str]:
    """Characters that are no token in one of the vocabularies, and so can take a token for each byte."""
    common = Path(__file__).with_name("characters.vocabulary").read_text("utf-8").replace("\n", "")
    return re.compile(f"[^\\x00-\\x7f{re.escape(common)}]+")


def _estimate_prompt(messages: Sequence[Message], model: str, tools: Sequence[Tool]) -> int:
    """An upper estimate of a prompt: its texts, counted with the model's vocabulary where it is at hand."""
    texts = [*_texts(messages), *(to_json(tool).decode() for tool in tools)]
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
            yield arguments if isinstance(arguments, str) else to_json(arguments).decode()
    for part in _parts(messages):
        if part.get("type") == "text":
            yield part["text"]
        elif isinstance(part.get("thinking"), str):
            yield part["thinking"]
