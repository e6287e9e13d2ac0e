"""Mistral's models through Lava, for LangChain: `ChatLavaMistral` and `LavaMistralEmbeddings`."""

try:
    import langchain_core  # noqa: F401
except ImportError as error:  # the extra is not installed
    raise ImportError('langchain_lava_mistral needs LangChain: pip install "lava-mistral[langchain]".') from error

from langchain_lava_mistral._blocks import register_blocks
from langchain_lava_mistral._registry import register
from langchain_lava_mistral.callbacks import LavaUsageCallbackHandler, get_lava_usage_callback
from langchain_lava_mistral.chat_models import ChatLavaMistral
from langchain_lava_mistral.embeddings import LavaMistralEmbeddings
from langchain_lava_mistral.errors import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    BillingError,
    ConfigurationError,
    ContextOverflowError,
    InsufficientBalanceError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    SpendLimitError,
    StreamInterruptedError,
    StreamStalledError,
)

register_blocks()

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
