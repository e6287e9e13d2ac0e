"""Mistral's models through Lava, for LangChain: `ChatLavaMistral` and `LavaMistralEmbeddings`.

Names are imported when they are first used (PEP 562), so that a program loads only what it needs.
"""

# ruff: noqa: F405

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

try:
    from langchain_core.messages.block_translators import register_translator
except ImportError as error:  # the extra is not installed
    raise ImportError('langchain_lava_mistral needs LangChain: pip install "lava-mistral[langchain]".') from error

from langchain_lava_mistral._content_blocks import PROVIDER, translate_chunk, translate_message
from lava_mistral.pricing.prompts import register_messages

if TYPE_CHECKING:
    from langchain_lava_mistral._registry import register as register
    from langchain_lava_mistral.callbacks import LavaUsageCallbackHandler as LavaUsageCallbackHandler
    from langchain_lava_mistral.callbacks import get_lava_usage_callback as get_lava_usage_callback
    from langchain_lava_mistral.chat_models import ChatLavaMistral as ChatLavaMistral
    from langchain_lava_mistral.embeddings import LavaMistralEmbeddings as LavaMistralEmbeddings
    from langchain_lava_mistral.errors import *  # noqa: F403

# Where each public name is defined; the errors are in `errors`.
_HOME = {
    "ChatLavaMistral": "chat_models",
    "LavaMistralEmbeddings": "embeddings",
    "LavaUsageCallbackHandler": "callbacks",
    "get_lava_usage_callback": "callbacks",
    "register": "_registry",
}

__all__ = [
    "APIConnectionError",
    "APITimeoutError",
    "AuthenticationError",
    "BillingError",
    "ChatLavaMistral",
    "ConfigurationError",
    "ContextOverflowError",
    "InsufficientBalanceError",
    "InvalidRequestError",
    "LavaMistralEmbeddings",
    "LavaUsageCallbackHandler",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "ServerError",
    "SpendLimitError",
    "StreamInterruptedError",
    "StreamStalledError",
    "get_lava_usage_callback",
    "register",
]

register_translator(PROVIDER, translate_message, translate_chunk)
register_messages("langchain_core", lambda messages: import_module(f"{__name__}._to_wire").to_wire(messages))


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME.get(name, 'errors')}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
