"""Mistral's models through the Lava AI gateway: the core that the LangChain and LlamaIndex packages stand on.

Names are imported when they are first used (PEP 562), so that a program loads only what it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lava_mistral.billing.credentials import Billing as Billing
    from lava_mistral.billing.lava_record_types import RequestRecord as RequestRecord
    from lava_mistral.billing.lava_record_types import UsageReport as UsageReport
    from lava_mistral.billing.scope import billed_to as billed_to
    from lava_mistral.billing.spend_limit import SpendLimit as SpendLimit
    from lava_mistral.billing.usage import CallRecord as CallRecord
    from lava_mistral.billing.usage_totals import UsageTotals as UsageTotals
    from lava_mistral.billing.usage_totals import track_usage as track_usage
    from lava_mistral.client.clients import AsyncLavaMistral as AsyncLavaMistral
    from lava_mistral.client.clients import LavaMistral as LavaMistral
    from lava_mistral.client.price_list import refresh_models as refresh_models
    from lava_mistral.embedding.results import PartialEmbedding as PartialEmbedding
    from lava_mistral.embedding.results import partial_of as partial_of
    from lava_mistral.errors import *  # noqa: F403
    from lava_mistral.pricing.catalog import Model as Model
    from lava_mistral.pricing.catalog import models as models
    from lava_mistral.pricing.estimate import CostEstimate as CostEstimate
    from lava_mistral.pricing.estimate import estimate_cost as estimate_cost
    from lava_mistral.pricing.token_counting import TokenCount as TokenCount
    from lava_mistral.pricing.token_counting import count_tokens as count_tokens
    from lava_mistral.transport.lava_transport import AsyncLavaTransport as AsyncLavaTransport
    from lava_mistral.transport.lava_transport import LavaTransport as LavaTransport

# Where the public names are defined.
_NAMES = {
    "billing.credentials": "Billing",
    "billing.lava_record_types": "RequestRecord UsageReport",
    "billing.scope": "billed_to",
    "billing.spend_limit": "SpendLimit",
    "billing.usage": "CallRecord",
    "billing.usage_totals": "UsageTotals track_usage",
    "client.clients": "AsyncLavaMistral LavaMistral",
    "client.price_list": "refresh_models",
    "embedding.results": "PartialEmbedding partial_of",
    "errors": (
        "APIConnectionError APITimeoutError AuthenticationError BillingError ConfigurationError "
        "ContextOverflowError InsufficientBalanceError InvalidRequestError LavaError NotFoundError "
        "PermissionDeniedError RateLimitError ServerError SpendLimitError StreamInterruptedError "
        "StreamStalledError "
    ),
    "pricing.catalog": "Model models",
    "pricing.estimate": "CostEstimate estimate_cost",
    "pricing.token_counting": "TokenCount count_tokens",
    "transport.lava_transport": "AsyncLavaTransport LavaTransport",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
