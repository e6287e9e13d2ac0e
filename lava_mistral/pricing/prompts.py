"""Convert prompts in the forms that people have at hand to messages of Mistral's wire."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from lava_mistral.errors import ConfigurationError

if TYPE_CHECKING:
    from lava_mistral.mistral.types import Message

Prompt: TypeAlias = "str | Message | Sequence[Message] | Sequence[Any] | Any"
_CONVERTERS: dict[str, Callable[[Sequence[Any]], Sequence[Message]]] = {}
_PACKAGES = {"langchain_core": "langchain_lava_mistral", "llama_index": "llama_index_lava_mistral"}
_ROLES = {"user": "user", "human": "user", "system": "system", "assistant": "assistant", "ai": "assistant"}


def register_messages(package: str, converter: Callable[[Sequence[Any]], Sequence[Message]]) -> None:
    """Convert messages of classes that are defined in a framework's top package by a function from now on."""
    _CONVERTERS[package] = converter


def to_messages(prompt: Any) -> list[Message]:
    """Return the messages of a prompt: a user's text, LangChain's prompt value, or a message or several.

    These are in Mistral's form, as `(role, text)`, or LangChain's or LlamaIndex's.
    """
    if hasattr(prompt, "to_messages"):
        prompt = prompt.to_messages()
    several = isinstance(prompt, Sequence) and not isinstance(prompt, str) and not _is_pair(prompt)
    return [message for each in (prompt if several else [prompt]) for message in _to_wire(each)]


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and [*map(type, value)] == [str, str] and value[0] in _ROLES


def _to_wire(message: Any) -> Sequence[Message]:
    if isinstance(message, Mapping):
        return [cast("Message", message)]
    if isinstance(message, str):
        return [{"role": "user", "content": message}]
    if _is_pair(message):
        return [cast("Message", {"role": _ROLES[message[0]], "content": message[1]})]
    for kind in type(message).__mro__:
        package = kind.__module__.partition(".")[0]
        if package in _CONVERTERS:
            return _CONVERTERS[package]([message])
        if package in _PACKAGES:
            raise ConfigurationError(
                f"A {type(message).__name__} is converted by {_PACKAGES[package]}: import that package first."
            )
    raise ConfigurationError(
        f"A prompt is a text or a list of messages, not one with a {type(message).__name__} in it: write "
        '{"role": "user", "content": "…"}, ("user", "…"), or a message of LangChain\'s or LlamaIndex\'s.'
    )
