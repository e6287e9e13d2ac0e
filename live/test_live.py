"""Against real Lava: what the package sends is accepted, and what comes back is read as it was meant.

The tests look at the protocol and never at a model's wording. A run costs less than a cent.
"""

from __future__ import annotations

import json
import math
import os
import re
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, Field

from lava_mistral import (
    AsyncLavaMistral,
    AuthenticationError,
    ConfigurationError,
    InvalidRequestError,
    LavaError,
    LavaMistral,
    NotFoundError,
    count_tokens,
)
from lava_mistral.billing.credentials import resolve_access

Seen = Callable[[str, object], None]

CHAT = "mistral-small-2603"
EMBEDDING = "mistral-embed"
SHORT: dict[str, Any] = {"model": CHAT, "temperature": 0, "max_tokens": 40}
QUESTION: Any = [{"role": "user", "content": "In one short sentence: what is a forward proxy?"}]
TEXTS = [
    "The cat sleeps on the warm window sill.",
    "Interest rates were raised by a quarter of a percent.",
    "To bake bread, mix flour, water, salt and yeast.",
    "The telescope photographed a distant galaxy.",
]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The present weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PERSON_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


class Person(BaseModel):
    """A person."""

    name: str = Field(description="the full name")
    age: int = Field(description="age in years")


def similarity(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def assert_finished(answer: Any) -> None:
    """A chat answer is whole: text, finish reason, tokens, cost and Lava's id."""
    assert answer.turn.text.strip()
    assert answer.turn.finish_reason in ("stop", "length")
    assert answer.usage["prompt_tokens"] > 0
    assert 0 < answer.usage["completion_tokens"] <= SHORT["max_tokens"]
    assert answer.usage["total_tokens"] >= answer.usage["prompt_tokens"] + answer.usage["completion_tokens"]
    assert answer.cost > 0
    assert answer.request_id


class TestCore:
    def test_models(self, client: LavaMistral) -> None:
        ids = {card["id"] for card in client.models()}
        assert {CHAT, EMBEDDING} <= ids

    def test_chat(self, client: LavaMistral, seen: Seen) -> None:
        completion = client.chat(QUESTION, **SHORT)
        assert_finished(completion)
        seen("model asked for and model named in the answer", f"{CHAT}, {completion.model}")
        counted = count_tokens(QUESTION, model=CHAT)
        seen("prompt tokens counted here and by Mistral", f"{counted}, {completion.usage['prompt_tokens']}")  # type: ignore[index]

    async def test_chat_async(self) -> None:
        assert_finished(await AsyncLavaMistral().chat(QUESTION, **SHORT))

    def test_stream(self, client: LavaMistral) -> None:
        with client.stream(QUESTION, **SHORT) as stream:
            pieces = [delta.text for delta in stream if delta.text]
        assert len(pieces) > 1
        assert "".join(pieces) == stream.turn.text
        assert_finished(stream)

    async def test_stream_async(self) -> None:
        pieces = []
        async with await AsyncLavaMistral().stream(QUESTION, **SHORT) as stream:
            async for delta in stream:
                pieces.append(delta.text)
        assert "".join(pieces) == stream.turn.text
        assert_finished(stream)

    def test_a_stream_that_is_left_early(self, client: LavaMistral) -> None:
        with client.stream(QUESTION, **SHORT) as stream:
            next(stream)
        assert_finished(client.chat(QUESTION, **SHORT))

    @pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
    def test_tool_call_and_its_result(self, client: LavaMistral, seen: Seen, streamed: bool) -> None:
        asked: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
        parameters = {**SHORT, "tools": [WEATHER], "tool_choice": "any"}
        if streamed:
            with client.stream(asked, **parameters) as stream:
                deltas = sum(len(delta.tool_calls) for delta in stream)
            turn = stream.turn
            seen("deltas of one streamed tool call", deltas)
        else:
            turn = client.chat(asked, **parameters).turn
        [call] = turn.tool_calls
        assert call.name == "get_weather"
        assert set(call.parsed() or ()) == {"city"}
        assert re.fullmatch("[a-zA-Z0-9]{9}", call.id)
        seen("finish reason of a turn with tool calls", turn.finish_reason)
        result = {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": "22 degrees, sunny"}
        after = client.chat([*asked, turn.to_wire(), result], **SHORT, tools=[WEATHER])
        assert after.turn.text.strip()

    def test_a_tool_call_id_of_another_form(self, client: LavaMistral) -> None:
        foreign = "call_of-another-kind"
        messages: list[Any] = [
            {"role": "user", "content": "What is the weather in Paris?"},
            {
                "role": "assistant",
                "tool_calls": [
                    {
                        "id": "call_of-another-kind",
                        "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": foreign, "name": "get_weather", "content": "sunny"},
        ]
        assert client.chat(messages, **SHORT, tools=[WEATHER]).turn.text.strip()

    def test_json_object(self, client: LavaMistral) -> None:
        asked: Any = [{"role": "user", "content": 'Give the keys "name" and "age" of Ada Lovelace, 36 years, as JSON.'}]
        assert isinstance(json.loads(client.chat(asked, **SHORT, response_format={"type": "json_object"}).text), dict)

    def test_json_schema(self, client: LavaMistral) -> None:
        wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON_SCHEMA, "strict": True}}
        asked: Any = [{"role": "user", "content": '"Ada Lovelace" is 36 years old.'}]
        person = json.loads(client.chat(asked, **SHORT, response_format=wanted).text)
        assert set(person) == {"name", "age"}
        assert isinstance(person["age"], int)

    def test_embeddings_come_in_order(self, client: LavaMistral) -> None:
        together = client.embed([*TEXTS, TEXTS[0]])
        assert (together.requests - together.retries, together.duplicates) == (1, 1)
        assert together.tokens > 0
        assert together.cost
        assert len(together.vectors) == 5
        for at, text in enumerate(TEXTS):
            vector = together.vectors[at]
            assert len(vector) == 1024
            assert math.isclose(similarity(vector, vector), 1, abs_tol=0.01)
            alone = client.embed([text]).vectors[0]
            near = [similarity(alone, other) for other in together.vectors[:4]]
            assert near.index(max(near)) == at
        assert together.vectors[4] == together.vectors[0]

    def test_embeddings_as_base64(self, client: LavaMistral, seen: Seen) -> None:
        answer = client.embedding_request(TEXTS[:1], model=EMBEDDING, encoding_format="base64")
        [entry] = answer.response["data"]
        seen("base64 embeddings honoured", isinstance(entry["embedding"], str))
        plain = client.embedding_request(TEXTS[:1], model=EMBEDDING).response["data"][0]["embedding"]
        assert isinstance(plain, list)
        # Whichever comes, what the engine makes of it is the same vector.
        assert similarity(client.embed(TEXTS[:1]).vectors[0], plain) > 0.99
        limits = {name: value for name, value in answer.headers.items() if name.lower().startswith("x-ratelimit")}
        seen("rate-limit headers of embeddings", limits or "none")

    def test_embedding_limits(self, client: LavaMistral, seen: Seen) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            client.embedding_request(["word"] * 513, model=EMBEDDING)
        seen("513 inputs are refused with", f"{caught.value.status_code}, code {caught.value.code}")
        assert len(client.embed([f"word {number}" for number in range(513)]).vectors) == 513


class TestLava:
    def test_metadata_and_record(self, client: LavaMistral, seen: Seen) -> None:
        try:
            resolve_access().secret_key  # noqa: B018 - asked whether there is one
        except ConfigurationError:
            pytest.skip("an opaque forward token can't read Lava's records")
        run = uuid.uuid4().hex
        completion = client.chat(QUESTION, **SHORT, lava_metadata={"suite": "live", "run": run})
        assert completion.request_id
        record = client.request(completion.request_id, wait=60)
        assert record.request_id == completion.request_id
        assert record.status == "completed"
        assert record.metadata == {"suite": "live", "run": run}
        assert completion.usage
        assert record.usage.input_tokens == completion.usage["prompt_tokens"]
        assert record.usage.output_tokens == completion.usage["completion_tokens"]
        seen("cost computed here and recorded by Lava", f"{completion.cost}, {record.cost} ({record.usage.total_cost})")
        # Lava may round what it records.
        assert record.usage.total_cost == pytest.approx(completion.cost, rel=Decimal("0.01"), abs=Decimal("0.000001"))
        [found] = client.requests(metadata={"run": run}, limit=5)
        assert found.request_id == completion.request_id

    def test_a_wrong_key_is_refused(self, client: LavaMistral) -> None:
        right = os.environ.get("LAVA_SECRET_KEY", "")
        wrong = ("aks_test_" if right.startswith("aks_test_") else "aks_live_") + "0" * 24
        with pytest.raises(AuthenticationError) as caught:
            LavaMistral(api_key=wrong).chat(QUESTION, **SHORT)
        assert caught.value.status_code == 401
        assert caught.value.origin == "lava"
        assert not caught.value.retryable
        assert wrong not in f"{caught.value} {caught.value!r}"

    @pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
    def test_an_unknown_model_is_refused(self, client: LavaMistral, seen: Seen, streamed: bool) -> None:
        with pytest.raises((InvalidRequestError, NotFoundError)) as caught:
            (client.stream if streamed else client.chat)(QUESTION, model="no-such-model-2603", max_tokens=5)
        error = caught.value
        assert not error.retryable
        seen("an unknown model", f"{error.status_code}, code {error.code}, from {error.origin}, {error.message!r}")

    def test_a_request_that_mistral_refuses(self, client: LavaMistral, seen: Seen) -> None:
        with pytest.raises(LavaError) as caught:
            client.chat(QUESTION, **SHORT, no_such_field=1)
        error = caught.value
        assert error.status_code in (400, 422)
        assert "no_such_field" in str(error)
        seen("an unknown field", f"{error.status_code} from {error.origin}, request id {bool(error.request_id)}")

    def test_billing_needs_a_meter(self) -> None:
        from lava_mistral import Billing

        with pytest.raises(ConfigurationError):
            Billing(customer_id="c_1")


class TestLangChain:
    @pytest.fixture
    def model(self) -> Any:
        from langchain_lava_mistral import ChatLavaMistral

        return ChatLavaMistral(model=CHAT, temperature=0, max_tokens=40)

    def test_invoke(self, model: Any) -> None:
        message = model.invoke("In one short sentence: what is a forward proxy?")
        assert message.text.strip()
        assert message.usage_metadata["output_tokens"] > 0
        assert message.response_metadata["finish_reason"] in ("stop", "length")
        assert message.response_metadata["lava_request_id"]
        assert Decimal(message.response_metadata["cost"]) > 0

    def test_stream(self, model: Any) -> None:
        chunks = list(model.stream("In one short sentence: what is a forward proxy?"))
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        assert sum(bool(chunk.text) for chunk in chunks) > 1
        assert sum(chunk.usage_metadata is not None for chunk in chunks) == 1
        assert whole.response_metadata["model_name"].count("mistral") == 1
        assert whole.response_metadata["lava_request_id"]

    async def test_astream(self, model: Any) -> None:
        texts = [chunk.text async for chunk in model.astream("In one short sentence: what is a forward proxy?")]
        assert "".join(texts).strip()

    def test_tools(self, model: Any) -> None:
        message = model.bind_tools([WEATHER], tool_choice="any").invoke("What is the weather in Paris?")
        [call] = message.tool_calls
        assert call["name"] == "get_weather"
        assert set(call["args"]) == {"city"}
        assert not message.invalid_tool_calls

    @pytest.mark.parametrize("method", ["json_schema", "function_calling"])
    def test_structured_output(self, model: Any, method: str) -> None:
        structured = model.with_structured_output(Person, method=method)
        person = structured.invoke('"Ada Lovelace" is 36 years old.')
        assert isinstance(person, Person)

    def test_embeddings(self) -> None:
        from langchain_lava_mistral import LavaMistralEmbeddings

        vectors = LavaMistralEmbeddings().embed_documents(TEXTS)
        question = LavaMistralEmbeddings().embed_query("How do I make bread?")
        near = [similarity(question, vector) for vector in vectors]
        assert len(near) == 4
        assert near.index(max(near)) == 2

    def test_a_wrong_key_is_langchains_error_too(self) -> None:
        from langchain_core.exceptions import ModelAuthenticationError

        from langchain_lava_mistral import ChatLavaMistral

        right = os.environ.get("LAVA_SECRET_KEY", "")
        wrong = ("aks_test_" if right.startswith("aks_test_") else "aks_live_") + "0" * 24
        with pytest.raises(ModelAuthenticationError):
            ChatLavaMistral(model=CHAT, api_key=wrong).invoke("Hello")


class TestLlamaIndex:
    @pytest.fixture
    def llm(self) -> Any:
        from llama_index_lava_mistral import ChatLavaMistral

        return ChatLavaMistral(model=CHAT, temperature=0, max_tokens=40)

    @pytest.fixture
    def messages(self) -> Any:
        from llama_index.core.llms import ChatMessage

        return [ChatMessage(role="user", content="In one short sentence: what is a forward proxy?")]

    def test_chat(self, llm: Any, messages: Any) -> None:
        response = llm.chat(messages)
        assert response.message.content.strip()
        assert response.raw["usage"]["completion_tokens"] > 0
        assert response.additional_kwargs["lava_request_id"]

    def test_stream_chat(self, llm: Any, messages: Any) -> None:
        responses = list(llm.stream_chat(messages))
        assert sum(bool(response.delta) for response in responses) > 1
        assert "".join(response.delta or "" for response in responses) == responses[-1].message.content

    async def test_astream_chat(self, llm: Any, messages: Any) -> None:
        last = None
        async for response in await llm.astream_chat(messages):
            last = response
        assert last is not None
        assert last.message.content.strip()

    def test_tools(self, llm: Any) -> None:
        from llama_index.core.tools import FunctionTool

        def get_weather(city: str) -> str:
            """The present weather in a city."""
            return f"sunny in {city}"

        tool = FunctionTool.from_defaults(get_weather)
        response = llm.chat_with_tools([tool], "What is the weather in Paris?", tool_required=True)
        [call] = llm.get_tool_calls_from_response(response)
        assert call.tool_name == "get_weather"
        assert set(call.tool_kwargs) == {"city"}

    def test_structured_predict(self, llm: Any) -> None:
        from llama_index.core.prompts import PromptTemplate

        person = llm.structured_predict(Person, PromptTemplate('"{name}" is 36 years old.'), name="Ada Lovelace")
        assert isinstance(person, Person)

    def test_embeddings(self) -> None:
        from llama_index_lava_mistral import LavaMistralEmbeddings

        embeddings = LavaMistralEmbeddings()
        vectors = embeddings.get_text_embedding_batch(TEXTS)
        question = embeddings.get_query_embedding("How do I make bread?")
        near = [similarity(question, vector) for vector in vectors]
        assert len(near) == 4
        assert near.index(max(near)) == 2
