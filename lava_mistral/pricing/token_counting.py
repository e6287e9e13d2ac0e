"""Count the tokens of a text or a conversation.

With the extra `[tokenizer]` counts are Mistral's own. Without it, and for models whose vocabulary is not bundled there,
there are two estimates; nothing is ever downloaded. A word that both of Mistral's vocabularies (SentencePiece, which
`mistral-embed` uses, and Tekken) hold as one token (`words.vocabulary`) counts as one; the letters of others are
weighed. A character outside ASCII that is not in both (`characters.vocabulary`) counts a token for each byte. The
weights of the upper estimate solve a linear program: the least total over English prose such that no sample of prose in
thirty languages, code, JSON, base64 or random characters gets less than 104 % of its tokens. Other text, such as one
odd syllable repeated over and over, can have more.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import json
import pkgutil
import re
import string
from collections.abc import Iterator, Sequence
from importlib import resources
from itertools import filterfalse
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

import orjson

from lava_mistral._locks import ForkSafeLock
from lava_mistral.defaults import DEFAULT_CHAT_MODEL
from lava_mistral.mistral.json_codec import to_json
from lava_mistral.mistral.limits import MAX_IMAGE_TOKENS
from lava_mistral.mistral.types import Message, Tool
from lava_mistral.pricing.catalog import get_model
from lava_mistral.pricing.prompts import Prompt, to_messages

if TYPE_CHECKING:
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

_Name: TypeAlias = Literal["v1", "v13"]
_Tokenizer: TypeAlias = "MistralTokenizer[Any, Any, Any, Any, Any]"


class TokenCount(NamedTuple):
    """A number of tokens, and whether it is the model's own count; otherwise an estimate."""

    tokens: int
    exact: bool


class TokenizerSpec(NamedTuple):
    """The tokenizer of a model, whether the chat template is known to be its own, and the tokens of its settings."""

    tokenizer: _Name | None = None
    template: bool = True
    settings: int = 0


# The first prefix that fits. 12 tokens: {"reasoning_effort": "none"} between two control tokens, as recorded.
_CHOICES: Final[tuple[tuple[str, TokenizerSpec], ...]] = (
    ("mistral-embed", TokenizerSpec("v1")),
    ("mistral-large-latest", TokenizerSpec("v13")),
    ("mistral-small-2603", TokenizerSpec("v13", settings=12)),
    ("mistral-small-latest", TokenizerSpec("v13", settings=12)),
    ("magistral-small-latest", TokenizerSpec("v13", settings=12)),
    ("ministral-", TokenizerSpec("v13")),
    ("mistral-medium", TokenizerSpec("v13", template=False, settings=12)),
    ("magistral-", TokenizerSpec("v13", template=False, settings=12)),
    ("devstral-", TokenizerSpec("v13", template=False)),
)


def count_tokens(
    text_or_messages: Prompt,
    model: str = DEFAULT_CHAT_MODEL,
    *,
    tools: Sequence[Tool] | None = None,
    upper: bool = False,
) -> TokenCount:
    """Count the tokens of a text or a prompt for a model.

    The count is exact where the extra `[tokenizer]` is installed, the model's vocabulary (for messages: also its chat
    template) is bundled in it, and the messages hold only text and tool calls. Images count as the most that they can
    take; a document or a sound, which has no count before Mistral has read it, adds nothing.

    Args:
        text_or_messages: a text, counted alone (for an embedding model with the two tokens that enclose it), or
            messages in Mistral's form, LangChain's or LlamaIndex's, with all control tokens of the prompt and `tools`.
        upper: where there is no exact count, estimate the most that it can be instead of what is typical.
    """
    if isinstance(text_or_messages, str):
        enclosed = "embeddings" in get_model(model).capabilities
        return _count_text(text_or_messages, model, enclosed, upper)
    messages = to_messages(text_or_messages)
    prompt = None
    if all(kind in ("text", "call") for kind, _ in pieces(messages)):
        prompt = count_prompt(messages, model, tools=tools or ())
    return prompt or TokenCount(_estimate_prompt(messages, model, tools or (), upper), False)


def upper_bound_tokens(text: str) -> int:
    """Return an upper estimate of the tokens of a text, 20 % over for English, with the two around an embedded one."""
    data, whole, unknown = _split(text)
    total = _OVERHEAD + _UNIT * whole + sum(unknown.translate(_UPPER))
    total += _SIGN * len(data.translate(None, _NO_SIGNS)) + _TWO_SPACES * data.count(b"  ")
    return total // _UNIT + 1


def typical_tokens(text: str, *, enclosed: bool = False) -> int:
    """Return an estimate of the tokens of a text, within 25 % for prose, JSON and most code.

    An input of an embedding model is `enclosed`: it has another vocabulary and two tokens more.
    """
    data, whole, unknown = _split(text)
    total = _UNIT * whole + sum(unknown.translate(_TYPICAL_EMBEDDED if enclosed else _TYPICAL))
    total += _UNIT * sum(map(data.count, _DIGITS)) + sum(_RUN + _RUN_SIGN * len(run) for run in _RUNS.findall(data))
    # Half a token rounds up: nothing that is sent has none.
    return (total + _UNIT // 2) // _UNIT + 2 * enclosed


def _count_text(text: str, model: str, enclosed: bool, upper: bool) -> TokenCount:
    ids = token_ids(text, model, enclosed=enclosed)
    if ids is not None:
        return TokenCount(len(ids), True)
    return TokenCount(upper_bound_tokens(text) if upper else typical_tokens(text, enclosed=enclosed), False)


def _split(text: str) -> tuple[bytes, int, bytes]:
    """Return a text without its rare characters, in UTF-8; how many tokens are clear; the letters of other words."""
    data, rare = text.encode("utf-8", "replace"), 0
    known, rare_characters = _vocabularies()
    if not text.isascii():
        # Quotation marks and dashes are signs, as in ASCII, and no part of a word.
        common = rare_characters.sub("", text).encode()
        data, rare = _TYPOGRAPHIC.sub(b"-", common), len(data) - len(common)
    words = data.translate(_WORDS_ALONE).split()
    return data, rare + len(words), b"".join(filterfalse(known.__contains__, words))


_UNIT: Final = 160  # weights are in 1/160 token, so that the largest fits into a byte
_OVERHEAD: Final = 6 * _UNIT  # the two enclosing tokens, and what short texts vary by
_SIGN: Final = 200
_TWO_SPACES: Final = 93
_RUN: Final = 112  # signs that stand together, or before a word, are often one token
_RUN_SIGN: Final = 16
_RUNS: Final = re.compile(rb"[^\sA-Za-z0-9\x80-\xff]+|\n\s*|\s{2,}")
_DIGITS: Final = [bytes([byte]) for byte in string.digits.encode()]
_TYPOGRAPHIC: Final = re.compile(rb"\xe2\x80[\x90-\x9f\xa6]")
_LETTERS: Final = string.ascii_letters.encode() + bytes(range(0x80, 0x100))  # all that is beyond ASCII too
_NO_SIGNS: Final = _LETTERS + b" "
_WORDS_ALONE: Final = bytes(byte if byte in _LETTERS else 0x20 for byte in range(256))


def _weights(latin: float, middle: float, eastern: float) -> bytes:
    """Return what each byte of a word that is no token adds to the token that every word counts as.

    The factors are for letters with or without accents, for Greek to Thai, and for Chinese, Japanese and Korean.
    """
    weights = bytearray(256)  # 0 for the bytes of a character after its first
    letters = {"aeiou": 0.21, "tnsrhldcy": 0.2, "mfpgwbv": 1.16, "kjxqz": 1.22, string.ascii_uppercase: 0.81}
    for characters, weight in letters.items():
        for byte in characters.encode():
            weights[byte] = round(weight * latin * _UNIT)
    for first, last, weight in (
        (0xC2, 0xC3, 0.67 * latin),  # letters with accents
        (0xC4, 0xC5, 1.46 * latin),
        (0xC6, 0xCD, 1.26 * latin),
        (0xCE, 0xE2, 1.04 * middle),  # most scripts: a token a character
        (0xD0, 0xD3, 0.73 * middle),  # Cyrillic
        (0xE1, 0xE1, 1.16 * middle),  # Vietnamese vowels
        (0xE3, 0xFF, 1.04 * eastern),
    ):
        weights[first : last + 1] = bytes([round(weight * _UNIT)]) * (last + 1 - first)
    return bytes(weights)


_UPPER: Final = _weights(1, 1, 1)
_TYPICAL: Final = _weights(0.27, 0.12, 0.6)  # Tekken
_TYPICAL_EMBEDDED: Final = _weights(0.72, 0.95, 0.8)  # SentencePiece


@functools.cache
def _vocabularies() -> tuple[frozenset[bytes], re.Pattern[str]]:
    """Return the words that are one token after a space, and what finds characters that can take one for each byte."""
    words, characters = (
        pkgutil.get_data("lava_mistral.pricing", f"{name}.vocabulary") or b"" for name in ("words", "characters")
    )
    common = re.escape(characters.decode().replace("\n", ""))
    return frozenset(words.split()), re.compile(f"[^\\x00-\\x7f{common}]+")


def _estimate_prompt(messages: Sequence[Message], model: str, tools: Sequence[Tool], upper: bool) -> int:
    """Estimate a prompt: its texts, counted with the model's vocabulary where it is at hand, and control tokens."""
    count = len(messages) + len(tools)
    # A template begins with one token, and puts one or two around a message; some write the model's settings.
    total = 16 + 5 * count if upper else 2 + 3 * count // 2 + tokenizer_of(model).settings
    # Around a tool call there are control tokens, its id and JSON.
    besides = {"image_url": MAX_IMAGE_TOKENS, "call": 20 if upper else 10}
    # Templates write tools as Python's json does, with spaces.
    written = [("tool", json.dumps(tool, ensure_ascii=False)) for tool in tools]
    for kind, text in (*pieces(messages), *written):
        total += besides.get(kind, 0) + _count_text(text, model, False, upper).tokens
    return total


def pieces(messages: Sequence[Message]) -> Iterator[tuple[str, str]]:
    """Yield the kind and text of every content part, also in thinking; a call is its name and a text of arguments."""
    for message in map(dict[str, Any], messages):
        content = message.get("content")
        parts: list[Any] = content if isinstance(content, list) else []
        thoughts = [part["thinking"] for part in parts if isinstance(part.get("thinking"), list)]
        for part in [*parts, *(thought for each in thoughts for thought in each)]:
            text = part.get("text") or part.get("thinking")
            yield part.get("type", ""), text if isinstance(text, str) else ""
        if isinstance(content, str):
            yield "text", content
        for call in message.get("tool_calls") or ():
            yield "call", call["function"]["name"]
            yield "text", arguments_of(call)


def token_ids(text: str, model: str, *, enclosed: bool = False) -> list[int] | None:
    """Return the tokens of a text in the model's vocabulary, `enclosed` with the two around an embedding model's input.

    What cannot be encoded as UTF-8 is a question mark. It is `None` where no tokenizer of the model is at hand.
    """
    tokenizer = _load(tokenizer_of(model).tokenizer)
    if tokenizer is None:
        return None
    text = text.encode("utf-8", "replace").decode()
    return list(tokenizer.instruct_tokenizer.tokenizer.encode(text, bos=enclosed, eos=enclosed))


def count_prompt(messages: Sequence[Message], model: str, *, tools: Sequence[Tool] = ()) -> TokenCount | None:
    """Count the tokens of a prompt of texts and tool calls; return `None` where it can't be put through a template."""
    choice = tokenizer_of(model)
    tokenizer = _load(choice.tokenizer)
    if tokenizer is None or choice.tokenizer == "v1":
        return None
    from mistral_common.exceptions import MistralCommonException
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from pydantic import ValidationError

    functions: Any = []
    for tool in copy.deepcopy(tools):
        named = {key: each for key, each in tool["function"].items() if key in ("name", "description", "parameters")}
        functions.append({"type": "function", "function": named})
    try:
        request: Any = ChatCompletionRequest(messages=[*map(_plain, messages)], tools=functions or None)
        tokens = tokenizer.encode_chat_completion(request).tokens
    except (MistralCommonException, ValidationError):
        return None  # an order of messages, or a field, that the template has no place for
    return TokenCount(len(tokens) + choice.settings, choice.template)


def tokenizer_of(model: str) -> TokenizerSpec:
    return next((choice for prefix, choice in _CHOICES if model.startswith(prefix)), TokenizerSpec())


def _plain(message: Message) -> dict[str, Any]:
    """Return the message with what mistral-common's models accept: they refuse an unknown field."""
    plain: dict[str, Any] = {key: value for key, value in message.items() if value not in (None, [])}
    if plain["role"] != "assistant":
        plain.pop("prefix", None)
    if plain["role"] == "tool" and isinstance(plain.get("content"), list):
        plain["content"] = "".join(part["text"] for part in plain["content"])
    for place, call in enumerate(calls := list(plain.pop("tool_calls", ()))):
        function = {"name": call["function"]["name"], "arguments": arguments_of(call)}
        calls[place] = {"id": call.get("id") or "null", "function": function}
    return {**plain, "tool_calls": calls} if calls else plain


def arguments_of(call: dict[str, Any]) -> str:
    arguments = call["function"].get("arguments", "")
    return arguments if isinstance(arguments, str) else to_json(arguments).decode()


_loaded: dict[_Name, _Tokenizer | None] = {}
_lock = ForkSafeLock()


def _load(name: _Name | None) -> _Tokenizer | None:
    """Return the tokenizer, loaded once a process, or `None` without mistral-common or its SentencePiece extra."""
    if name is not None and name not in _loaded:
        with _lock:
            if name not in _loaded:
                try:
                    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

                    _loaded[name] = MistralTokenizer.v1() if name == "v1" else _v13()
                except ImportError:
                    _loaded[name] = None
    return None if name is None else _loaded[name]


async def preload(model: str) -> None:
    """Load the tokenizer of a model in a thread, while the event loop goes on."""
    name = tokenizer_of(model).tokenizer
    if name is not None and name not in _loaded:
        await asyncio.to_thread(_load, name)


def _v13() -> _Tokenizer:
    """Put the template of the models since 2025, whose own file mistral-common does not hold, over its Tekken."""
    from mistral_common.protocol.instruct.normalize import InstructRequestNormalizerV13
    from mistral_common.protocol.instruct.validator import MistralRequestValidatorV13, ValidationMode
    from mistral_common.tokens.tokenizers.base import SpecialTokens, TokenizerVersion
    from mistral_common.tokens.tokenizers.instruct import InstructTokenizerV13
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
    from mistral_common.tokens.tokenizers.tekken import SpecialTokenInfo, Tekkenizer

    content = orjson.loads((resources.files("mistral_common") / "data/tekken_240718.json").read_bytes())
    config = content["config"]
    special = [SpecialTokenInfo(rank=at, token_str=name, is_control=True) for at, name in enumerate(SpecialTokens)]
    tekkenizer = Tekkenizer(
        vocab=content["vocab"],
        special_tokens=special,
        pattern=config["pattern"],
        vocab_size=config["default_vocab_size"],
        num_special_tokens=config["default_num_special_tokens"],
        version=TokenizerVersion.v13,
    )
    return MistralTokenizer(
        InstructTokenizerV13(tekkenizer),
        validator=MistralRequestValidatorV13(mode=ValidationMode.test),
        request_normalizer=InstructRequestNormalizerV13.normalizer(),
    )
