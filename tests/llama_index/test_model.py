"""The model as an object: settings, metadata, serialization, copies, secrets."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.indices.prompt_helper import PromptHelper
from llama_index.core.rate_limiter import TokenBucketRateLimiter
from pydantic import BaseModel, SecretStr, ValidationError

from lava_mistral import Billing
from lava_mistral.pricing.catalog import models
from llama_index_lava_mistral import ChatLavaMistral
from tests.fakes.llama_index_scripted import KEY, Caller, Scripted, answer, ask

PROVIDER_KEY = "mistral-key-hushhush"


def secretive() -> ChatLavaMistral:
    billing = Billing(customer_id="c", meter_slug="m", provider_key=PROVIDER_KEY)
    return ChatLavaMistral(api_key=KEY, billing=billing, lava_metadata={"team": "red"}, temperature=0.3)


def leaks(text: str) -> bool:
    return "hushhush" in text


@pytest.mark.parametrize("model", [each.id for each in models()] + ["made-up-by-nobody", ""])
def test_metadata_never_raises(model: str) -> None:
    metadata = ChatLavaMistral(model=model).metadata
    assert metadata.is_chat_model
    assert metadata.context_window > 0
    assert metadata.model_name == model


def test_metadata_of_a_known_and_of_an_unknown_model() -> None:
    known = ChatLavaMistral(model="mistral-small-2603").metadata
    assert known.is_function_calling_model
    assert known.context_window >= 128_000
    unknown = ChatLavaMistral(model="made-up-by-nobody").metadata
    assert unknown.is_function_calling_model
    assert not ChatLavaMistral(model="mistral-embed").metadata.is_function_calling_model


def test_metadata_can_be_overridden() -> None:
    llm = ChatLavaMistral(context_window=1000, is_function_calling_model=False, max_tokens=77)
    assert llm.metadata.context_window == 1000
    assert not llm.metadata.is_function_calling_model
    assert llm.metadata.num_output == 77


def test_without_max_tokens_the_answer_is_not_limited() -> None:
    llm = ChatLavaMistral()
    assert llm.max_tokens is None
    assert llm.metadata.num_output == -1
    assert PromptHelper.from_llm_metadata(llm.metadata).num_output == 256


def test_settings_under_the_names_they_have_elsewhere() -> None:
    client = httpx.AsyncClient()
    llm = ChatLavaMistral(
        model_name="mistral-large-2512", random_seed=7, model_kwargs={"min_tokens": 2}, http_async_client=client
    )
    assert (llm.model, llm.seed, llm.additional_kwargs) == ("mistral-large-2512", 7, {"min_tokens": 2})
    assert llm.async_http_client is client
    with pytest.raises(ValidationError, match="given twice"):
        ChatLavaMistral(seed=1, random_seed=2)


@pytest.mark.parametrize(
    "settings",
    [{"temprature": 1}, {"temperature": 2.0}, {"max_tokens": 0}, {"max_retries": -1}, {"context_window": 0}],
    ids=str,
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        ChatLavaMistral(**settings)


def test_a_refusal_does_not_quote_the_key() -> None:
    with pytest.raises(ValidationError) as caught:
        ChatLavaMistral(apikey=KEY, api_key=[KEY])
    assert not leaks(str(caught.value))


def test_a_model_as_a_field_of_another_object() -> None:
    class Holder(BaseModel):
        llm: ChatLavaMistral

    llm = ChatLavaMistral()
    assert Holder(llm=llm).llm is llm


def test_wrong_metadata_is_refused_when_it_is_given() -> None:
    with pytest.raises(ValidationError, match="a-b"):
        ChatLavaMistral(lava_metadata={"a-b": "x"})


def test_nothing_that_describes_the_model_holds_a_secret() -> None:
    llm = secretive()
    descriptions = [
        repr(llm),
        str(llm),
        repr(llm.to_dict()),
        llm.to_json(),
        llm.json(),
        repr(llm.model_dump()),
        llm.model_dump_json(),
        repr(llm.to_payload()),
        repr(llm.metadata),
        repr(llm.model_json_schema()),
    ]
    assert not any(map(leaks, descriptions))
    assert "'c'" not in llm.to_json()


def test_the_repr_says_which_of_the_two_classes_it_is() -> None:
    assert repr(ChatLavaMistral()).startswith("llama_index_lava_mistral.ChatLavaMistral(")
    assert "LlamaIndex" in str(ChatLavaMistral.__doc__)


def test_a_dictionary_and_back() -> None:
    llm = ChatLavaMistral(api_key=KEY, model="mistral-large-2512", temperature=0.2, stop=["x"], seed=1, max_tokens=9)
    again = ChatLavaMistral.from_dict(llm.to_dict())
    assert again.api_key is None
    assert again.to_dict() == llm.to_dict()
    assert json.loads(llm.to_json())["class_name"] == ChatLavaMistral.class_name() == "ChatLavaMistral"


def test_events_say_what_is_set() -> None:
    payload = ChatLavaMistral(temperature=0.2, random_seed=3).to_payload()
    assert payload["class_name"] == "ChatLavaMistral"
    assert payload["model_name"] == "mistral-small-2603"
    assert (payload["temperature"], payload["random_seed"]) == (0.2, 3)
    assert "top_p" not in payload


def test_pickled_models_keep_their_key_and_settings() -> None:
    llm = secretive()
    again = pickle.loads(pickle.dumps(llm))
    assert isinstance(again.api_key, SecretStr)
    assert again.api_key.get_secret_value() == KEY
    assert again.billing == llm.billing
    assert again.to_dict() == llm.to_dict()
    assert again.to_payload() == llm.to_payload()


def test_a_model_that_was_used_can_be_pickled(caller: Caller) -> None:
    llm = ChatLavaMistral(api_key=KEY, base_url="http://127.0.0.1:9/v1", max_retries=0)
    with pytest.raises(Exception, match="connection"):
        caller.chat(llm, ask())
    assert pickle.loads(pickle.dumps(llm)).to_dict() == llm.to_dict()


def test_deep_copies_share_connections_and_limits_and_nothing_else(caller: Caller) -> None:
    mistral = Scripted()
    limiter = TokenBucketRateLimiter(requests_per_minute=600)
    llm = mistral.llm(additional_kwargs={"n": 1}, rate_limiter=limiter)
    for again in (copy.deepcopy(llm), llm.model_copy(deep=True)):
        assert again.http_client is llm.http_client
        assert again.async_http_client is llm.async_http_client
        assert again.rate_limiter is limiter
        assert again.additional_kwargs is not llm.additional_kwargs
        assert caller.chat(again, ask()).message.content == "Hi"


def test_a_changed_setting_holds_from_the_next_call_on(caller: Caller) -> None:
    mistral = Scripted(503, 503, answer())
    llm = mistral.llm()
    llm.max_retries = 2
    llm.temperature = 0.5
    assert caller.chat(llm, ask()).message.content == "Hi"
    assert mistral.body["temperature"] == 0.5


def test_threads_share_one_model() -> None:
    mistral = Scripted()
    llm = mistral.llm()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: llm.chat(ask(str(n))).message.content, range(64)))
    assert answers == ["Hi"] * 64
    assert sorted(int(body["messages"][0]["content"]) for body in mistral.bodies) == list(range(64))


def test_one_model_in_one_event_loop_after_another() -> None:
    llm = Scripted().llm()
    for _ in range(2):
        assert asyncio.run(llm.achat(ask())).message.content == "Hi"


def test_the_rate_limiter_is_asked_once_a_call(caller: Caller) -> None:
    class Counting(TokenBucketRateLimiter):
        asked: int = 0

        def acquire(self, num_tokens: int = 0) -> None:
            self.asked += 1

        async def async_acquire(self, num_tokens: int = 0) -> None:
            self.asked += 1

    limiter = Counting(requests_per_minute=60)
    llm = Scripted().llm(rate_limiter=limiter)
    caller.chat(llm, ask())
    caller.complete(llm, "Hello")
    assert limiter.asked == 2


def test_the_conversation_stays_as_it_was(caller: Caller) -> None:
    history = [ChatMessage(role="system", content="Be brief."), *ask()]
    before = copy.deepcopy(history)
    caller.chat(Scripted().llm(), history)
    assert history == before


BLOCK = """
import importlib.abc, sys
asked = []
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {absent!r}:
            asked.append(name)
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Absent())
"""


def test_langchain_need_not_be_there_and_is_not_asked_for() -> None:
    code = BLOCK.format(absent=("langchain", "langchain_core", "langchain_lava_mistral", "mistralai"))
    code += (
        "import llama_index_lava_mistral as p\n"
        "print(asked, p.ChatLavaMistral().metadata.model_name, p.LavaMistralEmbeddings().model_name)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["[]", "mistral-small-2603", "mistral-embed"]


def test_a_missing_llama_index_is_named_with_its_extra() -> None:
    code = BLOCK.format(absent=("llama_index",)) + "import llama_index_lava_mistral"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "lava-mistral[llama-index]" in ran.stderr
