"""Mistral's models through the Lava AI gateway: the core that the LangChain and LlamaIndex packages stand on."""

from lava_mistral.billing import Billing, billed_to
from lava_mistral.catalog import Model, models
from lava_mistral.client import AsyncLavaMistral, LavaMistral
from lava_mistral.errors import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    BillingError,
    ConfigurationError,
    ContextOverflowError,
    InsufficientBalanceError,
    InvalidRequestError,
    LavaError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    SpendLimitError,
    StreamInterruptedError,
    StreamStalledError,
)
from lava_mistral.tokens import TokenCount, count_tokens
from lava_mistral.transport import AsyncLavaTransport, LavaTransport

__all__ = [
    "APIConnectionError",
    "APITimeoutError",
    "AsyncLavaMistral",
    "AsyncLavaTransport",
    "AuthenticationError",
    "Billing",
    "BillingError",
    "ConfigurationError",
    "ContextOverflowError",
    "InsufficientBalanceError",
    "InvalidRequestError",
    "LavaError",
    "LavaMistral",
    "LavaTransport",
    "Model",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "ServerError",
    "SpendLimitError",
    "StreamInterruptedError",
    "StreamStalledError",
    "TokenCount",
    "billed_to",
    "count_tokens",
    "models",
]
