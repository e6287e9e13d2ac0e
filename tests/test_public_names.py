"""The names that users rely on: nothing comes or goes by accident, and importing them loads no framework."""

from __future__ import annotations

import subprocess
import sys

import langchain_lava_mistral
import lava_mistral
import lava_mistral.gateway
import llama_index_lava_mistral

NAMES = {
    lava_mistral: """
        APIConnectionError APITimeoutError AsyncLavaMistral AsyncLavaTransport AuthenticationError Billing BillingError
        CallRecord ConfigurationError ContextOverflowError CostEstimate InsufficientBalanceError InvalidRequestError
        LavaError LavaMistral LavaTransport Model NotFoundError PartialEmbedding PermissionDeniedError RateLimitError
        RequestRecord ServerError SpendLimit SpendLimitError StreamInterruptedError StreamStalledError TokenCount
        UsageReport UsageTotals billed_to count_tokens estimate_cost models partial_of refresh_models track_usage
    """,
    langchain_lava_mistral: """
        ChatLavaMistral LavaMistralEmbeddings LavaUsageCallbackHandler get_lava_usage_callback
    """,
    llama_index_lava_mistral: "ChatLavaMistral LavaMistralEmbeddings LavaUsageHandler",
    lava_mistral.gateway: "LocalGateway",
}


def test_every_name_is_there() -> None:
    for module, names in NAMES.items():
        assert set(names.split()) <= set(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)
        assert list(module.__all__) == sorted(module.__all__)
    assert set(lava_mistral.__all__) == set(NAMES[lava_mistral].split())


def test_the_core_loads_no_framework_and_no_server() -> None:
    absent = ("langchain_core", "llama_index", "pydantic", "numpy", "starlette", "mistral_common", "ray", "aiohttp")
    code = f"import sys, lava_mistral; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_llama_index_models_load_what_calls_need_with_the_first_call() -> None:
    absent = ("lava_mistral.client.clients", "lava_mistral.embedding.engine", "lava_mistral.mistral.types")
    models = "from llama_index_lava_mistral import ChatLavaMistral, LavaMistralEmbeddings"
    code = f"import sys\n{models}\nprint([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
