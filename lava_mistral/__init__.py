"""Mistral's models through the Lava AI gateway: the core that the LangChain and LlamaIndex packages stand on."""

from lava_mistral.billing import Billing
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
from lava_mistral.estimate import CostEstimate, estimate_cost
from lava_mistral.outcome import PartialEmbedding, partial_of
from lava_mistral.records import RequestRecord, UsageReport
from lava_mistral.scopes import billed_to
from lava_mistral.spend import SpendLimit
from lava_mistral.tokens import TokenCount, count_tokens
from lava_mistral.transport import AsyncLavaTransport, LavaTransport
from lava_mistral.usage import CallRecord, UsageTotals, track_usage

__all__ = [
    "APIConnectionError",
    "APITimeoutError",
    "AsyncLavaMistral",
    "AsyncLavaTransport",
    "AuthenticationError",
    "Billing",
    "BillingError",
    "CallRecord",
    "ConfigurationError",
    "ContextOverflowError",
    "CostEstimate",
    "InsufficientBalanceError",
    "InvalidRequestError",
    "LavaError",
    "LavaMistral",
    "LavaTransport",
    "Model",
    "NotFoundError",
    "PartialEmbedding",
    "PermissionDeniedError",
    "RateLimitError",
    "RequestRecord",
    "ServerError",
    "SpendLimit",
    "SpendLimitError",
    "StreamInterruptedError",
    "StreamStalledError",
    "TokenCount",
    "UsageReport",
    "UsageTotals",
    "billed_to",
    "count_tokens",
    "estimate_cost",
    "models",
    "partial_of",
    "track_usage",
]
