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
    from langchain_lava_mistral.callbacks import LavaUsageCallbackHandler, get_lava_usage_callback
    from langchain_lava_mistral.chat_models import ChatLavaMistral
    from langchain_lava_mistral.embeddings import LavaMistralEmbeddings
    from langchain_lava_mistral.errors import *  # noqa: F403

# Where each public name is defined; the errors are in `errors`.
_HOME = {"ChatLavaMistral": "chat_models", "LavaMistralEmbeddings": "embeddings"}
_HOME |= dict.fromkeys(("LavaUsageCallbackHandler", "get_lava_usage_callback"), "callbacks")

__all__ = ["APIConnectionError", "APITimeoutError", "AuthenticationError", "BillingError", "ChatLavaMistral"]
__all__ += ["ConfigurationError", "ContextOverflowError", "InsufficientBalanceError", "InvalidRequestError"]
__all__ += ["LavaMistralEmbeddings", "LavaUsageCallbackHandler", "NotFoundError", "PermissionDeniedError"]
__all__ += ["RateLimitError", "ServerError", "SpendLimitError", "StreamInterruptedError", "StreamStalledError"]
__all__ += ["get_lava_usage_callback", "register"]

register_translator(PROVIDER, translate_message, translate_chunk)
register_messages("langchain_core", lambda messages: import_module(f"{__name__}._to_wire").to_wire(messages))


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME.get(name, 'errors')}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def register() -> None:
    """Let `init_chat_model("lava_mistral:…")` and `init_embeddings("lava_mistral:…")` make this package's models.

    LangChain's list of providers is closed and private; this adds to it for the running process, or raises RuntimeError
    where this version of `langchain` keeps it elsewhere. Instances of the classes work everywhere without it.
    """
    for kind, name in (("chat_models", "ChatLavaMistral"), ("embeddings", "LavaMistralEmbeddings")):
        providers = getattr(import_module(f"langchain.{kind}.base"), "_BUILTIN_PROVIDERS", None)
        if not isinstance(providers, dict):
            raise RuntimeError(f"langchain.{kind} has no list of providers to add to: give it an instance of {name}.")
        providers[PROVIDER] = (__name__, name, lambda cls, **kwargs: cls(**kwargs))
