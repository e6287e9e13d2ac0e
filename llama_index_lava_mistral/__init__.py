"""Mistral's models through the Lava AI gateway, for LlamaIndex."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

try:
    from llama_index.core import __name__ as _needed  # noqa: F401
except ImportError as error:
    raise ImportError("llama_index_lava_mistral needs LlamaIndex: pip install 'lava-mistral[llama-index]'") from error

from lava_mistral.pricing.prompts import register_messages

if TYPE_CHECKING:
    from llama_index_lava_mistral.callbacks import LavaCallEvent, LavaUsageHandler
    from llama_index_lava_mistral.embeddings import LavaMistralEmbeddings
    from llama_index_lava_mistral.llms import ChatLavaMistral

__all__ = ["ChatLavaMistral", "LavaCallEvent", "LavaMistralEmbeddings", "LavaUsageHandler"]

_MODULES = {
    "ChatLavaMistral": "llms",
    "LavaCallEvent": "callbacks",
    "LavaMistralEmbeddings": "embeddings",
    "LavaUsageHandler": "callbacks",
}

register_messages("llama_index", lambda messages: import_module(f"{__name__}._to_wire").to_wire(messages))


def __getattr__(name: str) -> Any:
    # Imported at first use (PEP 562).
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
