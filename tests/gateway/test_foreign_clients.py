"""Clients that know nothing of this project get along with the gateway: Mistral's SDK, langchain-mistralai, Lava's."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_mistralai import ChatMistralAI, MistralAIEmbeddings
from mistralai.client import Mistral
from mistralai.client.errors import HTTPValidationError, SDKError

from lava_mistral.gateway import LocalGateway, Status

from .conftest import AsyncForwardTransport, ForwardTransport

MODEL = "mistral-small-2603"
FACTS = "Paris is the capital of France. Rome is the capital of Italy."
ASKED = [{"role": "system", "content": FACTS}, {"role": "user", "content": "What is the capital of France?"}]
TOLD = "Paris is the capital of France."
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
def mistral(gateway: LocalGateway) -> Iterator[Mistral]:
    """Mistral's own SDK; it validates every response."""
    with httpx.Client(transport=ForwardTransport(gateway)) as client, Mistral(api_key="unused", client=client) as sdk:
        yield sdk


@pytest.fixture
async def async_mistral(gateway: LocalGateway) -> AsyncIterator[Mistral]:
    async with httpx.AsyncClient(transport=AsyncForwardTransport(gateway)) as client:
        yield Mistral(api_key="unused", async_client=client)


class TestMistral:
    def test_chat(self, mistral, gateway):
        answer = mistral.chat.complete(model=MODEL, messages=ASKED, temperature=0.2, max_tokens=50, random_seed=1)
        assert answer.choices[0].message.content == TOLD
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.prompt_tokens == gateway.requests[0].usage["prompt_tokens"] > 0

    def test_stream(self, mistral, gateway):
        with mistral.chat.stream(model=MODEL, messages=ASKED) as stream:
            chunks = [event.data for event in stream]
        assert "".join(chunk.choices[0].delta.content for chunk in chunks) == TOLD
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert chunks[-1].usage.total_tokens == gateway.requests[0].usage["total_tokens"]

    async def test_asynchronous_chat_and_stream(self, async_mistral):
        answer = await async_mistral.chat.complete_async(model=MODEL, messages=ASKED)
        assert answer.choices[0].message.content == TOLD
        async with await async_mistral.chat.stream_async(model=MODEL, messages=ASKED) as stream:
            text = "".join([event.data.choices[0].delta.content async for event in stream])
        assert text == TOLD

    def test_thinking(self, mistral):
        answer = mistral.chat.complete(model="magistral-small-latest", messages=ASKED)
        thinking, text = answer.choices[0].message.content
        assert (thinking.type, text.text) == ("thinking", TOLD)
        # What came goes back as it is.
        history = [*ASKED, answer.choices[0].message, {"role": "user", "content": "And of Italy?"}]
        again = mistral.chat.complete(model="magistral-small-latest", messages=history)
        assert again.choices[0].message.content[1].text == "Rome is the capital of Italy."
        with mistral.chat.stream(model="magistral-small-latest", messages=ASKED) as stream:
            deltas = [event.data.choices[0].delta.content for event in stream]
        thoughts = [part.thinking[0].text for delta in deltas if isinstance(delta, list) for part in delta]
        assert "".join(thoughts) == thinking.thinking[0].text

    def test_tools(self):
        with (
            LocalGateway() as gateway,
            httpx.Client(transport=ForwardTransport(gateway)) as client,
            Mistral(api_key="unused", client=client) as mistral,
        ):
            asked = [{"role": "user", "content": "What's the weather in Oslo?"}]
            answer = mistral.chat.complete(model=MODEL, messages=asked, tools=[WEATHER], tool_choice="any")
            [call] = answer.choices[0].message.tool_calls
            assert json.loads(call.function.arguments) == {"city": "Oslo"}
            result = {"role": "tool", "name": call.function.name, "content": "Snow, -3 C", "tool_call_id": call.id}
            history = [*asked, answer.choices[0].message, result]
            final = mistral.chat.complete(model=MODEL, messages=history, tools=[WEATHER])
            assert final.choices[0].message.content == "Snow, -3 C"
            with mistral.chat.stream(model=MODEL, messages=asked, tools=[WEATHER]) as stream:
                calls = [call for event in stream for call in event.data.choices[0].delta.tool_calls or []]
            assert json.loads("".join(call.function.arguments for call in calls)) == {"city": "Oslo"}
            assert len(calls) == 1

    def test_json_schema(self, mistral):
        schema = {
            "type": "object",
            "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
            "required": ["name", "age"],
            "additionalProperties": False,
        }
        wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
        asked = [{"role": "user", "content": 'The user "Anna Berg" is 41.'}]
        answer = mistral.chat.complete(model=MODEL, messages=asked, response_format=wanted)
        assert json.loads(answer.choices[0].message.content) == {"name": "Anna Berg", "age": 41}

    def test_images_documents_and_several_choices(self, mistral):
        parts = [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": "data:image/png;base64,iVBORw0KGgo="},
            {"type": "document_url", "document_url": "https://example.com/a.pdf"},
        ]
        answer = mistral.chat.complete(model=MODEL, messages=[{"role": "user", "content": parts}], n=2)
        assert len(answer.choices) == 2
        assert "an image and a document" in answer.choices[0].message.content

    def test_embeddings(self, mistral):
        answer = mistral.embeddings.create(model="mistral-embed", inputs=["one", "two"])
        assert [one.index for one in answer.data] == [0, 1]
        assert all(len(one.embedding) == 1024 for one in answer.data)
        assert answer.usage.prompt_tokens == 2

    def test_models(self, mistral):
        listed = mistral.models.list()
        assert MODEL in [model.id for model in listed.data]
        card = mistral.models.retrieve(model_id=MODEL)
        assert card.capabilities.vision
        assert card.max_context_length == 256_000

    def test_errors(self, mistral, gateway):
        with pytest.raises(SDKError) as error:
            mistral.chat.complete(model="gpt-5", messages=ASKED)
        assert error.value.status_code == 400
        assert json.loads(error.value.body)["code"] == "1500"
        with pytest.raises(HTTPValidationError):
            mistral.chat.complete(model=MODEL, messages=ASKED, temperature=9)
        gateway.queue(Status(429, retry_after=1))
        with pytest.raises(SDKError) as error:
            mistral.chat.complete(model=MODEL, messages=ASKED)
        assert (error.value.status_code, error.value.headers["retry-after"]) == (429, "1")


BASE = "https://api.mistral.ai/v1"


@pytest.fixture
def chat_mistral(gateway: LocalGateway) -> Iterator[ChatMistralAI]:
    with httpx.Client(base_url=BASE, transport=ForwardTransport(gateway)) as client:
        yield ChatMistralAI(model=MODEL, api_key="unused", max_retries=1, client=client)


class TestLangChainMistral:
    def test_chat_and_stream(self, chat_mistral, gateway):
        asked = [("system", FACTS), ("user", "What is the capital of France?")]
        answer = chat_mistral.invoke(asked)
        assert (answer.content, answer.usage_metadata["input_tokens"]) == (
            TOLD,
            gateway.requests[0].usage["prompt_tokens"],
        )
        chunks = list(chat_mistral.stream(asked))
        assert "".join(chunk.content for chunk in chunks) == TOLD
        assert sum(chunk.usage_metadata["total_tokens"] for chunk in chunks if chunk.usage_metadata) > 0

    async def test_asynchronous_chat(self, gateway):
        async with httpx.AsyncClient(base_url=BASE, transport=AsyncForwardTransport(gateway)) as client:
            llm = ChatMistralAI(model=MODEL, api_key="unused", async_client=client)
            answer = await llm.ainvoke([("system", FACTS), ("user", "What is the capital of Italy?")])
            assert answer.content == "Rome is the capital of Italy."
            streamed = [chunk.content async for chunk in llm.astream("Hello")]
            assert "".join(streamed).startswith("Hello")

    def test_tools(self, chat_mistral):
        bound = chat_mistral.bind_tools([WEATHER])
        asked = HumanMessage("What's the weather in Oslo?")
        called = bound.invoke([asked])
        [call] = called.tool_calls
        assert (call["name"], call["args"]) == ("get_weather", {"city": "Oslo"})
        assert bound.invoke([asked, called, ToolMessage("Snow", tool_call_id=call["id"])]).content == "Snow"

    @pytest.mark.parametrize("method", ["function_calling", "json_schema"])
    def test_structured_output(self, chat_mistral, method):
        schema = {
            "title": "person",
            "description": "A person.",
            "type": "object",
            "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
            "required": ["name", "age"],
        }
        structured = chat_mistral.with_structured_output(schema, method=method)
        assert structured.invoke('The person "Anna Berg" is 41.') == {"name": "Anna Berg", "age": 41}

    @pytest.mark.filterwarnings("ignore:Could not download mistral tokenizer")
    def test_embeddings(self, gateway, monkeypatch):
        # It would ask the internet for a tokenizer, for 20 seconds where there is none.
        monkeypatch.setattr("tokenizers.Tokenizer.from_pretrained", _no_tokenizer)
        with httpx.Client(base_url=f"{BASE}/", transport=ForwardTransport(gateway)) as client:
            embeddings = MistralAIEmbeddings(model="mistral-embed", api_key="unused", client=client)
            first, second = embeddings.embed_documents(["one", "two"])
            assert len(first) == len(second) == 1024
            assert embeddings.embed_query("one") == first


def _no_tokenizer(name: str) -> Any:
    raise OSError("there is no network here")


def node(folder: Path, script: str, gateway: LocalGateway) -> Any:
    """Run a script with Lava's SDK as `lava`; what it returns comes back."""
    program = f"""
        const {{ Lava }} = require("@lavapayments/nodejs");
        const lava = new Lava({json.dumps(gateway.secret_key)}, {{ baseUrl: {json.dumps(gateway.base_url + "/")} }});
        const CHAT = "https://api.mistral.ai/v1/chat/completions";
        const EMBEDDINGS = "https://api.mistral.ai/v1/embeddings";
        const failure = async (work) => {{
            try {{ await work(); return null; }} catch (error) {{ return error.message; }}
        }};
        (async () => {{ {script} }})().then((value) => process.stdout.write(JSON.stringify(value ?? null)));
    """
    done = subprocess.run(["node", "-e", program], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class TestNode:
    def test_chat_and_embeddings(self, node_sdk, gateway):
        chat, embedded = node(
            node_sdk,
            f"""
            const messages = {json.dumps(ASKED)};
            const chat = await lava.gateway(CHAT, {{ body: {{ model: "{MODEL}", messages }} }});
            const embedded = await lava.gateway(EMBEDDINGS, {{ body: {{ model: "mistral-embed", input: ["a", "b"] }},
                headers: {{ "x-lava-metadata": JSON.stringify({{ team: "search" }}) }} }});
            return [chat, embedded];
            """,
            gateway,
        )
        assert chat["choices"][0]["message"]["content"] == TOLD
        assert [len(one["embedding"]) for one in embedded["data"]] == [1024, 1024]
        assert gateway.requests[1].metadata == {"team": "search"}
        assert gateway.requests[0].credential == {"secret_key": gateway.secret_key}

    def test_every_kind_of_token(self, node_sdk, gateway):
        tokens = node(
            node_sdk,
            f"""
            const body = {{ model: "{MODEL}", messages: {json.dumps(ASKED)} }};
            for (const options of [
                {{}}, {{ meter_slug: "m" }}, {{ customer_id: "c", meter_slug: "m" }},
                {{ customer_id: "c", meter_slug: "m", disable_billing: true }},
                {{ customer_id: "c", meter_slug: "m", provider_key: "own" }},
            ]) await lava.gateway(CHAT, {{ body, ...options }});
            return [lava.generateForwardToken({{ customer_id: "c", meter_slug: "m" }})];
            """,
            gateway,
        )
        credentials = [
            {key: value for key, value in record.credential.items() if value is not None} for record in gateway.requests
        ]
        key = {"secret_key": gateway.secret_key}
        assert credentials == [
            key,
            {**key, "meter_slug": "m"},
            {**key, "customer_id": "c", "meter_slug": "m"},
            {**key, "customer_id": "c", "meter_slug": "m", "disable_billing": True},
            {**key, "customer_id": "c", "meter_slug": "m", "provider_key": "own"},
        ]
        assert [record.payer for record in gateway.requests] == [
            "merchant",
            "merchant",
            "customer",
            "merchant",
            "customer",
        ]
        assert json.loads(base64.b64decode(tokens[0])) == {**key, "customer_id": "c", "meter_slug": "m"}

    def test_its_rest_resources(self, node_sdk, gateway):
        found = node(
            node_sdk,
            f"""
            const headers = {{ "x-lava-metadata": JSON.stringify({{ team: "a" }}) }};
            const body = {{ model: "{MODEL}", messages: {json.dumps(ASKED)} }};
            for (let turn = 0; turn < 3; turn++)
                await lava.gateway(CHAT, {{ body, headers: turn ? headers : {{}}, customer_id: "c", meter_slug: "m" }});
            const page = await lava.requests.list({{ limit: 2, customer_id: "c" }});
            const rest = await lava.requests.list({{ limit: 2, cursor: page.next_cursor }});
            const one = await lava.requests.retrieve(page.data[0].request_id);
            const team = await lava.requests.list({{ metadata_filters: {{ team: "a" }} }});
            const usage = await lava.usage.retrieve({{ start: "2020-01-01", metadata_filters: {{ team: "a" }} }});
            const models = await lava.models.list();
            return {{ page, rest, one, team, usage, models }};
            """,
            gateway,
        )
        assert (len(found["page"]["data"]), found["page"]["has_more"]) == (2, True)
        assert (len(found["rest"]["data"]), found["rest"]["has_more"]) == (1, False)
        assert found["one"] == found["page"]["data"][0]
        assert (found["one"]["customer_id"], found["one"]["metadata"]) == ("c", {"team": "a"})
        assert len(found["team"]["data"]) == found["usage"]["totals"]["total_requests"] == 2
        assert found["usage"]["totals"]["total_cost"] == f"{sum(r.cost for r in gateway.requests[1:]):f}"
        assert MODEL in [model["id"] for model in found["models"]["data"]]

    def test_its_errors(self, node_sdk):
        with LocalGateway(customers={"poor": 0}, balance=0) as gateway:
            told = node(
                node_sdk,
                f"""
                const body = {{ model: "{MODEL}", messages: {json.dumps(ASKED)} }};
                return [
                    await failure(() => lava.gateway(CHAT, {{ body }})),
                    await failure(() => lava.gateway(CHAT, {{ body, customer_id: "poor", meter_slug: "m" }})),
                    await failure(() => lava.gateway(CHAT, {{ body, customer_id: "who", meter_slug: "m" }})),
                    await failure(() => lava.requests.retrieve("req_none")),
                    await failure(() => new Lava("aks_test_other", {{ baseUrl: lava.baseUrl }}).models.list()),
                ];
                """,
                gateway,
            )
        assert [message.split(" - ")[0].split(":")[1].split()[0] for message in told] == [
            "402",
            "402",
            "403",
            "404",
            "401",
        ]
        assert "merchant's wallet" in told[0]
        assert "'poor'" in told[1]
        assert "'who'" in told[2]
