"""Copies and pickles of models: what goes along, what is shared, what is read anew."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import ConfigurableField

from langchain_lava_mistral import AuthenticationError, ChatLavaMistral, ConfigurationError, LavaMistralEmbeddings
from lava_mistral import Billing, SpendLimit
from lava_mistral.gateway import LocalGateway

MODELS = pytest.mark.parametrize("model_class", [ChatLavaMistral, LavaMistralEmbeddings])


def ask(model: Any) -> Any:
    """Make any call."""
    return model.invoke("Hi") if isinstance(model, ChatLavaMistral) else model.embed_query("Hi")


@MODELS
@pytest.mark.parametrize("name", ["LAVA_SECRET_KEY", "LAVA_FORWARD_TOKEN"])
def test_a_pickle_does_not_hold_the_environment(
    model_class: Any, name: str, gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = gateway.secret_key if name == "LAVA_SECRET_KEY" else Billing(meter_slug="m").forward_token(gateway.secret_key)
    monkeypatch.setenv(name, key)
    monkeypatch.setenv("LAVA_BASE_URL", gateway.base_url)
    model = model_class()
    ask(model)

    held = pickle.dumps(model)

    assert key.encode() not in held
    assert gateway.base_url.encode() not in held
    assert pickle.loads(held).model_dump() == model.model_dump()
    ask(pickle.loads(held))
    monkeypatch.setenv(name, "aks_test_another")
    with pytest.raises(AuthenticationError):
        ask(pickle.loads(held))
    monkeypatch.delenv(name)
    with pytest.raises(ConfigurationError, match="LAVA_SECRET_KEY"):
        ask(pickle.loads(held))


def test_a_configured_model_does_not_pickle_the_environment_either(
    gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LangChain makes such a model anew of all the fields that the first one has."""
    monkeypatch.setenv("LAVA_SECRET_KEY", gateway.secret_key)
    model: Any = ChatLavaMistral(base_url=gateway.base_url).configurable_fields(temperature=ConfigurableField("t"))
    made = model.with_config(configurable={"t": 0.5})
    assert gateway.secret_key.encode() not in pickle.dumps(made)
    pickle.loads(pickle.dumps(made)).invoke("Hi")
    assert gateway.requests[0].body["temperature"] == 0.5


@MODELS
def test_a_given_key_goes_along(model_class: Any, gateway: LocalGateway) -> None:
    model = model_class(api_key=gateway.secret_key, base_url=gateway.base_url)
    ask(model)
    ask(pickle.loads(pickle.dumps(model)))
    assert [request.status for request in gateway.requests] == [200, 200]


class Vault:
    """A source of keys that can't be copied."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.client = httpx.Client()

    def read(self) -> str:
        return self.key


@MODELS
def test_a_deep_copy_shares_what_can_not_be_copied(model_class: Any, gateway: LocalGateway) -> None:
    with httpx.Client(headers={"x-team": "red"}) as client:
        settings: dict[str, Any] = {
            "billing": Billing(meter_slug="m"),
            "spend_limit": SpendLimit(1),
            "http_client": client,
            "http_async_client": httpx.AsyncClient(),
        }
        if model_class is ChatLavaMistral:
            settings |= {"rate_limiter": InMemoryRateLimiter(requests_per_second=100), "cache": InMemoryCache()}
        model = model_class(
            api_key=Vault(gateway.secret_key).read, base_url=gateway.base_url, lava_metadata={"a": "b"}, **settings
        )
        ask(model)
        for copied in (copy.deepcopy(model), model.model_copy(deep=True), copy.deepcopy([model])[0]):
            assert all(getattr(copied, name) is value for name, value in settings.items())
            assert copied.lava_metadata == model.lava_metadata
            assert copied.lava_metadata is not model.lava_metadata
            copied.lava_metadata["c"] = "d"
            copied.model = {"mistral-small-2603": "mistral-large-latest"}.get(copied.model, copied.model)
            ask(copied)
            assert gateway.requests[-1].metadata == {"a": "b", "c": "d"}
            assert gateway.requests[-1].headers["x-team"] == "red"
        assert model.lava_metadata == {"a": "b"}


def test_a_deep_copy_of_embeddings_has_a_limit_of_its_own() -> None:
    with LocalGateway(latency=0.2) as gateway:
        model = LavaMistralEmbeddings(api_key=gateway.secret_key, base_url=gateway.base_url, max_concurrency=1)
        model.embed_query("Hi")
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(ask, (model, model.model_copy())))
            assert gateway.max_in_flight == 1
            list(pool.map(ask, (model, copy.deepcopy(model))))
        assert gateway.max_in_flight == 2
