"""Mistral's models through the Lava AI gateway: the core that the LangChain and LlamaIndex packages stand on."""

from lava_mistral.billing.identity import Billing
from lava_mistral.billing.lava_records import RequestRecord, UsageReport
from lava_mistral.billing.listeners import track_usage
from lava_mistral.billing.scope import billed_to
from lava_mistral.billing.spend_limit import SpendLimit
from lava_mistral.billing.usage import CallRecord
from lava_mistral.billing.usage_totals import UsageTotals
from lava_mistral.client.async_client import AsyncLavaMistral
from lava_mistral.client.sync_client import LavaMistral
from lava_mistral.embedding.results import PartialEmbedding, partial_of
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
from lava_mistral.pricing.catalog import Model, models
from lava_mistral.pricing.estimate import CostEstimate, estimate_cost
from lava_mistral.pricing.tokens import TokenCount, count_tokens
from lava_mistral.transport.lava import AsyncLavaTransport, LavaTransport

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
