"""Count with Mistral's own tokenizers, from the package mistral-common (extra `[tokenizer]`), loaded when first needed.

Only files that the package holds are used: the SentencePiece vocabulary v1 and the Tekken vocabulary. The chat template
v13 of the models since 2025 is put over the latter here, because its own file is not in the package; control tokens
count one each, whatever their number. Which model uses what: mistral-common's list, and the counts of recorded answers.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

import orjson

from lava_mistral._locks import ForkSafeLock
from lava_mistral.mistral.json_codec import to_json
from lava_mistral.mistral.types import Message, Tool

if TYPE_CHECKING:
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

_Name: TypeAlias = Literal["v1", "v13"]
_Tokenizer: TypeAlias = "MistralTokenizer[Any, Any, Any, Any, Any]"


class TokenCount(NamedTuple):
    """A number of tokens, and whether it is the model's own count; otherwise an estimate."""

    tokens: int
    exact: bool


class Choice(NamedTuple):
    """The tokenizer of a model, whether the chat template is known to be its own, and the tokens of its settings."""

    tokenizer: _Name | None = None
    template: bool = True
    settings: int = 0


# The first prefix that fits. 12 tokens: {"reasoning_effort": "none"} between two control tokens, as recorded.
_CHOICES: Final[tuple[tuple[str, Choice], ...]] = (
    ("mistral-embed", Choice("v1")),
    ("mistral-large-latest", Choice("v13")),
    ("mistral-small-2603", Choice("v13", settings=12)),
    ("mistral-small-latest", Choice("v13", settings=12)),
    ("magistral-small-latest", Choice("v13", settings=12)),
    ("ministral-", Choice("v13")),
    ("mistral-medium", Choice("v13", template=False, settings=12)),
    ("magistral-", Choice("v13", template=False, settings=12)),
    ("devstral-", Choice("v13", template=False)),
)


def token_ids(text: str, model: str, *, enclosed: bool = False) -> list[int] | None:
    """Return the tokens of a text in the model's vocabulary, `enclosed` with the two around an embedding model's input.

    What cannot be encoded as UTF-8 is a question mark. It is `None` where no tokenizer of the model is at hand.
    """
    tokenizer = _load(choose(model).tokenizer)
    if tokenizer is None:
        return None
    text = text.encode("utf-8", "replace").decode()
    return list(tokenizer.instruct_tokenizer.tokenizer.encode(text, bos=enclosed, eos=enclosed))


def count_prompt(messages: Sequence[Message], model: str, *, tools: Sequence[Tool] = ()) -> TokenCount | None:
    """Count the tokens of a prompt of texts and tool calls; return `None` where it can't be put through a template."""
    choice = choose(model)
    tokenizer = _load(choice.tokenizer)
    if tokenizer is None or choice.tokenizer == "v1":
        return None
    from mistral_common.exceptions import MistralCommonException
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from pydantic import ValidationError

    try:
        request: Any = ChatCompletionRequest(
            messages=[_plain(message) for message in messages],
            tools=[_plain_tool(tool) for tool in tools] or None,  # type: ignore[misc]  # pydantic reads them
        )
        tokens = tokenizer.encode_chat_completion(request).tokens
    except (MistralCommonException, ValidationError):
        return None  # an order of messages, or a field, that the template has no place for
    return TokenCount(len(tokens) + choice.settings, choice.template)


def choose(model: str) -> Choice:
    return next((choice for prefix, choice in _CHOICES if model.startswith(prefix)), Choice())


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


def _plain_tool(tool: Tool) -> dict[str, Any]:
    function = {key: value for key, value in tool["function"].items() if key in ("name", "description", "parameters")}
    return {"type": "function", "function": copy.deepcopy(function)}


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
    name = choose(model).tokenizer
    if name is not None and name not in _loaded:
        await asyncio.to_thread(_load, name)


def _v13() -> _Tokenizer:
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
