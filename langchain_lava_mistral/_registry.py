"""Makes `init_chat_model` and `init_embeddings` know this package."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from langchain_lava_mistral._content_blocks import PROVIDER

_CLASSES = {
    "langchain.chat_models.base": "ChatLavaMistral",
    "langchain.embeddings.base": "LavaMistralEmbeddings",
}


def register() -> None:
    """Let `init_chat_model("lava_mistral:…")` and `init_embeddings("lava_mistral:…")` make this package's models.

    LangChain's list of providers is closed and private; this adds to it for the running process. It is never called
    by itself, and instances of the classes work everywhere without it.

    Raises:
        ImportError: `langchain` is not installed.
        RuntimeError: this version of `langchain` keeps its list elsewhere.
    """
    for module, name in _CLASSES.items():
        providers = getattr(import_module(module), "_BUILTIN_PROVIDERS", None)
        if not isinstance(providers, dict):
            raise RuntimeError(
                f"{module} has no list of providers to add to in this version of langchain: give it an instance of "
                f"{name} instead of a name."
            )
        providers[PROVIDER] = ("langchain_lava_mistral", name, _construct)


def _construct(cls: Any, **kwargs: Any) -> Any:
    return cls(**kwargs)
