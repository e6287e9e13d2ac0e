"""Chat answers and streams: the same on the wire as Mistral's."""

from __future__ import annotations

import json
import re
from decimal import Decimal

import httpx_sse
import pytest

from lava_mistral.gateway import LocalGateway
from lava_mistral.pricing.catalog import get_model

from .conftest import events

CITY = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
FACTS = "Paris is the capital of France. Rome is the capital of Italy."
ASKED = [{"role": "system", "content": FACTS}, {"role": "user", "content": "What is the capital of France?"}]


def choice(response) -> dict:
    assert response.status_code == 200, response.text
    [only] = response.json()["choices"]
    return only


def text_of(stream: list) -> str:
    deltas = [one["delta"].get("content") for event in stream[:-1] for one in event["choices"]]
    return "".join(delta for delta in deltas if isinstance(delta, str))


def test_an_answer_has_the_fields_of_a_recorded_one(forward):
    body = forward.chat(ASKED).json()
    assert body.keys() == {"id", "created", "model", "usage", "object", "choices"}
    assert re.fullmatch("[0-9a-f]{32}", body["id"])
    assert (body["object"], body["model"]) == ("chat.completion", "mistral-small-2603")
    assert body["choices"] == [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "tool_calls": None, "content": "Paris is the capital of France."},
        }
    ]
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}


def test_a_stream_is_made_like_a_recorded_one(forward, gateway):
    response = forward.chat(ASKED, stream=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["x-lava-request-id"] == gateway.requests[0].request_id
    assert re.fullmatch(r"(data: [^\n]+\n\n)+", response.text)
    *chunks, last, done = events(response.text)
    assert done == "[DONE]"
    assert chunks[0]["choices"] == [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
    assert "p" not in chunks[0]
    for chunk in chunks[1:]:
        assert list(chunk) == ["id", "object", "created", "model", "choices", "p"]
        assert chunk["choices"][0]["delta"].keys() == {"content"}
        assert chunk["choices"][0]["finish_reason"] is None
    assert {len(chunk["p"]) for chunk in chunks[1:]} > {len(chunks[1]["p"])}
    assert last["choices"] == [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}]
    assert last["usage"] == gateway.requests[0].usage == forward.chat(ASKED).json()["usage"]
    assert text_of([*chunks, last, done]) == "Paris is the capital of France."
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in [*chunks, last]}) == 1


def test_a_strict_reader_of_event_streams_can_read_it(forward, gateway):
    body = {"model": "mistral-small-2603", "messages": ASKED, "stream": True}
    headers = {"authorization": f"Bearer {gateway.secret_key}"}
    url = f"{gateway.base_url}/forward?u=https://api.mistral.ai/v1/chat/completions"
    with httpx_sse.connect_sse(forward.client, "POST", url, json=body, headers=headers) as source:
        datas = [event.data for event in source.iter_sse()]
    assert datas[-1] == "[DONE]"
    assert text_of([*map(json.loads, datas[:-1]), "[DONE]"]) == "Paris is the capital of France."


def test_a_stream_costs_what_its_usage_says(forward, gateway):
    usage = events(forward.chat(ASKED, stream=True).text)[-2]["usage"]
    cost = (Decimal("0.15") * usage["prompt_tokens"] + Decimal("0.60") * usage["completion_tokens"]) / 10**6
    assert gateway.requests[0].cost == cost
    assert gateway.wallet.merchant == 1000 - cost
    assert gateway.requests[0].streamed


def test_a_whole_tool_call_comes_in_one_delta(forward):
    *_, called, done = events(forward.chat("What's the weather in Oslo?", tools=[CITY], stream=True).text)
    assert done == "[DONE]"
    [one] = called["choices"]
    [call] = one["delta"]["tool_calls"]
    assert one["finish_reason"] == "tool_calls"
    assert re.fullmatch("[a-zA-Z0-9]{9}", call["id"])
    assert call["index"] == 0
    assert call["function"] == {"name": "get_weather", "arguments": '{"city":"Oslo"}'}
    assert called["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize(
    "parameters", [{"model": "magistral-small-latest"}, {"model": "mistral-small-latest", "reasoning_effort": "high"}]
)
def test_a_reasoning_model_thinks_before_it_speaks(forward, parameters):
    content = choice(forward.chat(ASKED, **parameters))["message"]["content"]
    thinking, text = content
    assert (thinking["type"], thinking["closed"]) == ("thinking", True)
    assert "capital of France" in thinking["thinking"][0]["text"]
    assert text == {"type": "text", "text": "Paris is the capital of France."}

    deltas = [
        chunk["choices"][0]["delta"]["content"]
        for chunk in events(forward.chat(ASKED, stream=True, **parameters).text)[1:-1]
    ]
    thoughts = [delta for delta in deltas if isinstance(delta, list)]
    assert deltas[: len(thoughts)] == thoughts
    assert "".join(part["thinking"][0]["text"] for [part] in thoughts) == thinking["thinking"][0]["text"]
    assert "".join(deltas[len(thoughts) :]) == text["text"]


def test_no_reasoning_unless_asked_for(forward):
    for parameters in ({}, {"reasoning_effort": "none"}):
        assert isinstance(choice(forward.chat(ASKED, **parameters))["message"]["content"], str)


def test_thinking_stands_beside_a_tool_call(forward):
    message = choice(forward.chat("The weather in Oslo?", tools=[CITY], model="magistral-medium-latest"))["message"]
    assert [part["type"] for part in message["content"]] == ["thinking"]
    assert message["tool_calls"][0]["function"]["name"] == "get_weather"


def test_several_choices_come_interleaved(forward):
    facts = "Tea is a drink. Tea comes from China. Tea is hot."
    messages = [{"role": "system", "content": facts}, {"role": "user", "content": "What is tea?"}]
    body = forward.chat(messages, n=3).json()
    texts = [one["message"]["content"] for one in body["choices"]]
    assert [one["index"] for one in body["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    *chunks, last, _ = events(forward.chat(messages, n=3, stream=True).text)
    assert [one["index"] for chunk in chunks[:3] for one in chunk["choices"]] == [0, 1, 2]
    streamed = ["", "", ""]
    for chunk in [*chunks, last]:
        [one] = chunk["choices"]
        streamed[one["index"]] += one["delta"]["content"]
    assert streamed == texts
    assert [bool(chunk.get("usage")) for chunk in [*chunks, last]] == [False] * len(chunks) + [True]
    assert sum(one["choices"][0]["finish_reason"] == "stop" for one in [*chunks, last]) == 3


def test_the_same_seed_gives_the_same_answer(forward):
    facts = "Tea is a drink. Tea comes from China. Tea is hot."
    messages = [{"role": "system", "content": facts}, {"role": "user", "content": "What is tea?"}]

    def said(seed: int) -> str:
        return choice(forward.chat(messages, random_seed=seed))["message"]["content"]

    assert said(1) == said(1)
    assert len({said(0), said(1), said(2)}) == 3


def test_max_tokens_ends_an_answer(forward):
    body = forward.chat(ASKED, max_tokens=3).json()
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["choices"][0]["message"]["content"] == "Paris is the"
    assert body["usage"]["completion_tokens"] == 3
    thinking = choice(forward.chat(ASKED, max_tokens=3, model="magistral-small-latest"))
    assert [part["type"] for part in thinking["message"]["content"]] == ["thinking"]
    assert thinking["finish_reason"] == "length"
    assert choice(forward.chat(ASKED, max_tokens=0))["message"]["content"] == ""


@pytest.mark.parametrize("model", ["mistral-small-2603", "magistral-small-latest"])
def test_max_tokens_holds_for_thinking_and_tool_calls(forward, model):
    asked = "The weather in Oslo and Rome?"
    whole = forward.chat(asked, tools=[CITY], model=model).json()
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    tokens = whole["usage"]["completion_tokens"]
    arguments = [call["function"]["arguments"] for call in whole["choices"][0]["message"]["tool_calls"]]
    for limit in range(tokens):
        body = forward.chat(asked, tools=[CITY], model=model, max_tokens=limit).json()
        [cut] = body["choices"]
        assert body["usage"]["completion_tokens"] <= limit
        assert cut["finish_reason"] == "length"
        calls = cut["message"]["tool_calls"] or []
        for call, argument in zip(calls, arguments, strict=False):
            assert call["function"]["name"] == "get_weather"
            assert argument.startswith(call["function"]["arguments"])
    assert [call["function"]["arguments"] for call in calls] != arguments
    again = forward.chat(asked, tools=[CITY], model=model, max_tokens=tokens).json()
    assert (again["choices"][0]["finish_reason"], again["usage"]["completion_tokens"]) == ("tool_calls", tokens)


def test_a_stream_of_a_tool_call_ends_at_max_tokens(forward):
    for limit in (1, 6):
        stream = events(forward.chat("Weather in Oslo?", tools=[CITY], stream=True, max_tokens=limit).text)
        assert stream[-2]["choices"][0]["finish_reason"] == "length"
        assert stream[-2]["usage"]["completion_tokens"] <= limit


@pytest.mark.parametrize(
    ("stop", "text"), [(" of", "Paris is the capital"), (["France", "the"], "Paris is "), ("", None)]
)
def test_stop_words_end_an_answer(forward, stop, text):
    only = choice(forward.chat(ASKED, stop=stop))
    assert only["message"]["content"] == (text or "Paris is the capital of France.")
    assert only["finish_reason"] == "stop"


def test_a_prefix_begins_the_answer(forward):
    for prefix, text in [
        ("In short:", "In short: Paris is the capital of France."),
        ("Paris is", "Paris is the capital of France."),
        ([{"type": "text", "text": "So, "}], "So, Paris is the capital of France."),
    ]:
        messages = [*ASKED, {"role": "assistant", "content": prefix, "prefix": True}]
        assert choice(forward.chat(messages))["message"]["content"] == text


def test_a_repeated_prompt_is_cached_under_its_key(forward, gateway):
    long = [{"role": "system", "content": "word " * 100}, {"role": "user", "content": "Hello"}]

    def cached(messages, **parameters) -> int:
        usage = forward.chat(messages, **parameters).json()["usage"]
        if "prompt_cache_key" in parameters:
            assert usage["num_cached_tokens"] == usage["prompt_tokens_details"]["cached_tokens"]
        return usage["prompt_tokens_details"]["cached_tokens"]

    assert cached(long) == cached(long) == 0
    assert cached(long, prompt_cache_key="a") == 0
    assert cached(long, prompt_cache_key="a") == 96
    assert cached(long, prompt_cache_key="b") == 0
    assert cached([long[0], {"role": "user", "content": "Bye"}], prompt_cache_key="a") == 96
    assert cached([{"role": "system", "content": "else " * 100}, long[1]], prompt_cache_key="a") == 0
    # A cached token costs a tenth.
    first, again = gateway.requests[2], gateway.requests[3]
    assert first.cost - again.cost == Decimal("0.15") * 96 * Decimal("0.9") / 10**6


def test_json_mode_without_the_word_writes_white_space(forward):
    only = choice(forward.chat("Hello", response_format={"type": "json_object"}, max_tokens=50))
    assert only["message"]["content"] == " " * 50
    assert only["finish_reason"] == "length"
    # It ends with the model's window, whatever was allowed.
    endless = forward.chat("Hello", response_format={"type": "json_object"}, max_tokens=10**18)
    assert endless.json()["usage"]["completion_tokens"] == get_model("mistral-small-2603").context_window
    told = choice(forward.chat("Hello, answer in JSON", response_format={"type": "json_object"}))
    assert json.loads(told["message"]["content"])


def test_counts_grow_with_every_part_of_a_prompt(forward):
    def counted(content, **parameters) -> int:
        return forward.chat(content, **parameters).json()["usage"]["prompt_tokens"]

    assert counted("hello") == 4
    picture = [{"type": "text", "text": "hello"}, {"type": "image_url", "image_url": "https://example.com/a.png"}]
    document = [
        {"type": "text", "text": "hello"},
        {"type": "document_url", "document_url": "https://example.com/a.pdf"},
    ]
    sound = [{"type": "text", "text": "hello"}, {"type": "input_audio", "input_audio": "UklGRg=="}]
    for parts, model in (
        (picture, "mistral-small-2603"),
        (document, "mistral-small-2603"),
        (sound, "voxtral-small-latest"),
    ):
        assert counted([{"role": "user", "content": parts}], model=model) >= 4 + 64
    assert counted("hello", tools=[CITY]) > 30
    call = {"id": "abcdefgh1", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
    spoken = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "Snow", "tool_call_id": "abcdefgh1"},
    ]
    assert counted(spoken) > 10


def test_exact_counts_are_those_of_the_tokenizer(connect):
    from lava_mistral.pricing import token_counting as tokens

    with LocalGateway(tokenizer="exact") as gateway:
        forward = connect(gateway)
        expected = tokens.count_tokens(ASKED, model="mistral-small-2603").tokens
        assert forward.chat(ASKED).json()["usage"]["prompt_tokens"] == expected
        text = "Tell me a joke about OpenTelemetry"
        exact = tokens.count_tokens(text, model="mistral-embed").tokens
        assert forward.embed([text, text]).json()["usage"]["prompt_tokens"] == 2 * exact


def test_a_stream_may_be_paced(connect):
    with LocalGateway(pace=0.02, latency=0.1) as gateway:
        response = connect(gateway).chat(ASKED, stream=True)
    assert response.elapsed.total_seconds() >= 0.1 + 0.02 * 7
    assert text_of(events(response.text)) == "Paris is the capital of France."
