"""What goes wrong in other integrations of Mistral, and in gateways: each test is named for one of these defects.

The threads in which their users report them are cited by repository and number.
"""

from __future__ import annotations

import asyncio
import json
import time
from decimal import Decimal
from typing import Any

import httpx
import pytest
from langchain_core.exceptions import ModelError, ModelRateLimitError
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_lava_mistral import (
    APIConnectionError,
    AuthenticationError,
    InsufficientBalanceError,
    InvalidRequestError,
    ServerError,
    StreamInterruptedError,
    StreamStalledError,
)
from lava_mistral import Billing
from lava_mistral.gateway import Interrupted, LocalGateway, Reset, Status, WrongVectors
from lava_mistral.transport.failures import TransportError
from tests.langchain.scenario import KEY, USAGE, Caller, Script, answer, call, chat, chunk, embeddings, events

both = pytest.mark.parametrize("streamed", [False, True], ids=["invoke", "stream"])


@pytest.fixture
def gateway(shared_gateway: LocalGateway) -> LocalGateway:
    """One gateway for all these tests, emptied for each."""
    shared_gateway.reset()
    return shared_gateway


@both
def test_429_and_5xx_are_never_retried_and_retry_after_is_ignored(
    streamed: bool, gateway: LocalGateway, caller: Caller
) -> None:
    """langchain#36753"""
    gateway.queue(Status(429, retry_after=0.2), Status(503, retry_after=0))
    began = time.monotonic()
    assert caller.ask(streamed, chat(gateway), "Hi").text
    assert time.monotonic() - began >= 0.2
    assert [r.status for r in gateway.requests] == [429, 503, 200]

    gateway.reset()
    gateway.queue(Status(429, retry_after=0), Status(429, retry_after=0))
    with pytest.raises(ModelRateLimitError):
        caller.ask(streamed, chat(gateway, max_retries=1), "Hi")
    assert len(gateway.requests) == 2


def test_stream_connection_errors_are_not_retried(gateway: LocalGateway, caller: Caller) -> None:
    gateway.queue(Reset(), Interrupted(after=0, how="reset"))
    assert caller.whole(chat(gateway), "Hi").text
    assert len(gateway.requests) == 3


@pytest.mark.parametrize("how", ["error event", "clean", "closed", "reset"])
def test_a_broken_stream_looks_like_success(how: Any, gateway: LocalGateway, caller: Caller) -> None:
    """langchain#34209, client-python#449"""
    gateway.queue(Interrupted(after=4, how=how))
    with pytest.raises(StreamInterruptedError) as caught:
        caller.whole(chat(gateway), "Is the sky blue?")
    assert caught.value.partial.text
    # The first words are with the caller: nothing is tried again.
    assert len(gateway.requests) == 1


def test_a_stalled_stream_hangs(gateway: LocalGateway, caller: Caller) -> None:
    """client-python#597"""
    gateway.queue(Interrupted(after=4, how="stalled"))
    began = time.monotonic()
    with pytest.raises(StreamStalledError):
        caller.whole(chat(gateway), "Is the sky blue?", stream_chunk_timeout=0.2)
    assert time.monotonic() - began < 5


def fragments(*pieces: tuple[int | None, str | None, str, str]) -> list[dict[str, Any]]:
    made = []
    for index, id, name, arguments in pieces:
        call: dict[str, Any] = {"id": id, "function": {"name": name, "arguments": arguments}}
        made.append({"tool_calls": [call if index is None else {**call, "index": index}]})
    return made


FRAGMENTS: dict[str, Any] = {
    "index 0": [(0, "aaaaaaaa1", "f", '{"x"'), (0, None, "", ": 1}")],
    "id null": [(0, "aaaaaaaa1", "f", '{"x"'), (0, "null", "", ": 1}")],
    "no index": [(None, "aaaaaaaa1", "f", '{"x"'), (None, "null", "", ": 1}")],
    "no id at all": [(0, "null", "f", '{"x"'), (0, "null", "", ": 1}")],
}


@pytest.mark.parametrize("pieces", FRAGMENTS.values(), ids=FRAGMENTS)
def test_fragments_of_one_call_become_two_and_an_invalid_one(pieces: Any, caller: Caller) -> None:
    """langchain#38677, langchainjs#11505"""
    got = caller.whole(Script(events(*fragments(*pieces), finish_reason="tool_calls")).model(), "?")
    ((name, arguments, identity),) = [(c["name"], c["args"], c["id"]) for c in got.tool_calls]
    assert (name, arguments) == ("f", {"x": 1})
    assert identity is not None
    assert len(identity) == 9
    assert got.invalid_tool_calls == []


def test_foreign_tool_ids_are_refused(gateway: LocalGateway, caller: Caller) -> None:
    """langchain#29021"""
    history = [
        HumanMessage("1+1?"),
        AIMessage("", tool_calls=[{"name": "add", "args": {}, "id": "call_abc-0123456789_xyz"}]),
        ToolMessage("2", tool_call_id="call_abc-0123456789_xyz"),
    ]
    caller.invoke(chat(gateway), history)
    caller.invoke(chat(gateway), [*history, AIMessage("It is 2."), HumanMessage("Sure?")])
    first, second = (request.body["messages"] for request in gateway.requests)
    (made,) = first[1]["tool_calls"]
    assert len(made["id"]) == 9
    assert made["id"].isalnum()
    assert first[2]["tool_call_id"] == made["id"] == second[1]["tool_calls"][0]["id"] == second[2]["tool_call_id"]


CALLED = AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "aaaaaaaa1"}])
DONE = ToolMessage("r", tool_call_id="aaaaaaaa1")
DISORDER: dict[str, Any] = {
    "user after tool": [HumanMessage("a"), CALLED, DONE, HumanMessage("b")],
    "system after tool": [HumanMessage("a"), CALLED, DONE, SystemMessage("b")],
    "last is assistant": [HumanMessage("a"), AIMessage("b")],
    "call without result": [HumanMessage("a"), CALLED, AIMessage("b"), HumanMessage("c")],
    "result without call": [HumanMessage("a"), DONE],
}


@pytest.mark.parametrize("messages", DISORDER.values(), ids=DISORDER)
def test_the_order_of_messages_is_not_checked(messages: Any, gateway: LocalGateway, caller: Caller) -> None:
    """langchain#23703, onyx#6458, litellm#17761"""
    with pytest.raises(InvalidRequestError):
        caller.invoke(chat(gateway, repair_messages=False), messages)
    assert gateway.requests == []
    caller.invoke(chat(gateway), messages)
    assert gateway.requests[0].status == 200


@both
def test_text_and_thinking_are_thrown_away_beside_tool_calls(streamed: bool, caller: Caller) -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    made = [call("f", {})]
    script = (
        Script(events([thought], "Let me see.", {"tool_calls": made}))
        if streamed
        else Script(answer([thought, {"type": "text", "text": "Let me see."}], calls=made))
    )
    got = caller.ask(streamed, script.model(), "?")
    assert [b["type"] for b in got.content_blocks] == ["reasoning", "text", "tool_call"]
    again = Script(answer())
    caller.invoke(again.model(), [HumanMessage("?"), got, ToolMessage("r", tool_call_id="a1B2c3D4e")])
    assert again.body["messages"][1]["content"] == [thought, {"type": "text", "text": "Let me see."}]


def test_thinking_crashes_in_streams_and_on_replay(gateway: LocalGateway, caller: Caller) -> None:
    got = caller.whole(chat(gateway, reasoning_effort="high"), "Is the sky blue?")
    assert [b["type"] for b in got.content_blocks] == ["reasoning", "text"]
    caller.invoke(chat(gateway), [HumanMessage("Is the sky blue?"), got, HumanMessage("Sure?")])
    assert gateway.requests[1].status == 200


def test_foreign_reasoning_is_sent_as_it_is(gateway: LocalGateway, caller: Caller) -> None:
    """litellm#16272"""
    foreign = [
        AIMessage([{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "id": "rs_1"}, "Yes"]),
        AIMessage([{"type": "thinking", "thinking": "hm", "signature": "x"}, "Yes"]),
        AIMessage([{"type": "redacted_thinking", "data": "x"}, "Yes"]),
        AIMessage("Yes", additional_kwargs={"reasoning_content": "hm"}),
    ]
    for message in foreign:
        caller.invoke(chat(gateway), [HumanMessage("?"), message, HumanMessage("Sure?")])
    assert {request.status for request in gateway.requests} == {200}


@both
def test_citations_crash_or_lose_text(streamed: bool, caller: Caller) -> None:
    """langchain#35259, client-python#325"""
    parts = [{"type": "text", "text": "Paris"}, {"type": "reference", "reference_ids": ["doc-1", 2]}]
    got = caller.ask(streamed, (Script(events(parts, ".")) if streamed else Script(answer(parts))).model(), "?")
    assert got.text.startswith("Paris")
    text: Any = got.content_blocks[0]
    assert text["annotations"] == [{"type": "citation", "extras": {"reference_ids": ["doc-1", 2]}}]


@both
def test_cached_tokens_are_dropped(streamed: bool, caller: Caller) -> None:
    """langchain#38384"""
    usage = {**USAGE, "prompt_tokens_details": {"cached_tokens": 10}}
    script = Script(events("Hi", usage=usage)) if streamed else Script(answer(usage=usage))
    got = caller.ask(streamed, script.model(), "Hi")
    assert got.usage_metadata is not None
    assert got.usage_metadata["input_token_details"] == {"cache_read": 10}
    # 2 tokens and 10 at a tenth, at 0.15 USD a million; 5 at 0.60.
    assert Decimal(got.response_metadata["cost"]) == Decimal("0.00000345")


def test_nested_usage_of_several_prompts_is_a_type_error(caller: Caller) -> None:
    """langchain#38482"""
    model = Script(answer(usage={**USAGE, "prompt_tokens_details": {"cached_tokens": 1}})).model()
    prompts: Any = [[HumanMessage("a")], [HumanMessage("b")]]
    result = asyncio.run(model.agenerate(prompts)) if caller.is_async else model.generate(prompts)
    assert result.llm_output is not None
    assert result.llm_output["token_usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


def test_extra_fields_in_the_body_are_refused(gateway: LocalGateway, caller: Caller) -> None:
    """litellm#30835"""
    model = chat(gateway, metadata={"tracing": "1"}, lava_metadata={"stored": "2"}).with_structured_output(
        {"title": "r", "type": "object", "properties": {"x": {"type": "string"}}}
    )
    caller.invoke(model, "Give me 'x'", {"metadata": {"more": "3"}, "tags": ["t"]})
    (request,) = gateway.requests
    assert request.status == 200
    assert request.body.keys() == {"model", "messages", "response_format"}
    assert request.metadata == {"stored": "2"}


def test_the_event_loop_is_closed_on_the_second_run(gateway: LocalGateway) -> None:
    """langchain#35783, llama_index#13827"""
    model, vectors = chat(gateway), embeddings(gateway)

    async def run() -> None:
        assert (await model.ainvoke("Hi")).text
        assert [chunk async for chunk in model.astream("Hi")]
        assert await vectors.aembed_query("Hi")

    for _ in range(3):
        asyncio.run(run())


def test_a_pdf_becomes_a_block_that_mistral_refuses(gateway: LocalGateway, caller: Caller) -> None:
    """LibreChat#12144"""
    pdf = {"type": "file", "base64": "JVBERi0xLjc=", "mime_type": "application/pdf"}
    caller.invoke(chat(gateway), [HumanMessage([{"type": "text", "text": "Summarize"}, pdf])])
    (request,) = gateway.requests
    assert request.status == 200
    assert request.body["messages"][0]["content"][1]["type"] == "document_url"


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FORMS: dict[str, dict[str, Any]] = {
    "response format": {"type": "json_schema", "json_schema": {"name": "r", "schema": SCHEMA}},
    "name and schema": {"name": "r", "schema": SCHEMA},
}


@pytest.mark.parametrize("schema", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("strict", [None, True, False])
def test_documented_forms_of_a_schema_are_a_key_error_and_strict_is_ignored(
    schema: dict[str, Any], strict: bool | None, gateway: LocalGateway, caller: Caller
) -> None:
    """langchain#37290"""
    before = json.dumps(schema)
    model = chat(gateway).with_structured_output(schema, method="json_schema", strict=strict)
    assert caller.invoke(model, "In 'Oslo'?") == {"city": "Oslo"}
    assert gateway.requests[0].body["response_format"]["json_schema"]["strict"] is (strict is not False)
    assert json.dumps(schema) == before


def test_headers_land_in_the_body_and_an_own_client_loses_the_key(gateway: LocalGateway, caller: Caller) -> None:
    """langchain#21007"""
    own: Any = {"headers": {"x-team": "red"}, "limits": httpx.Limits(max_keepalive_connections=0)}
    client, async_client = httpx.Client(**own), httpx.AsyncClient(**own)
    model = chat(gateway, http_client=client, http_async_client=async_client)
    assert caller.invoke(model, "Hi").text
    (request,) = gateway.requests
    assert request.headers["x-team"] == "red"
    assert request.credential == {"secret_key": gateway.secret_key}
    with pytest.raises(ModelError, match="http_client="):
        caller.invoke(model, "Hi", headers={"x-team": "blue"})
    assert len(gateway.requests) == 1


def test_usage_on_a_chunk_without_choices_is_lost(caller: Caller) -> None:
    """client-ts#75"""
    stream = [*events("Hi", usage=None), {**chunk(usage=USAGE), "choices": []}]
    got = caller.whole(Script(stream).model(), "Hi")
    assert got.usage_metadata == {"input_tokens": 12, "output_tokens": 5, "total_tokens": 17}


@both
def test_finish_reason_error_is_taken_for_an_answer(streamed: bool, caller: Caller) -> None:
    """client-python#74"""
    script = (
        Script(events("Half of", finish_reason="error"))
        if streamed
        else Script(answer("Half of", finish_reason="error"))
    )
    with pytest.raises(StreamInterruptedError if streamed else ServerError) as caught:
        caller.ask(streamed, script.model(max_retries=0), "Hi")
    assert caught.value.partial.text == "Half of"


@both
def test_402_is_retried(streamed: bool, gateway: LocalGateway, caller: Caller) -> None:
    """hermes-agent#31273"""
    gateway.queue(Status(402))
    with pytest.raises(InsufficientBalanceError) as caught:
        caller.ask(streamed, chat(gateway), "Hi")
    assert caught.value.is_retryable is False
    assert len(gateway.requests) == 1


@both
def test_errors_hide_the_body_or_leak_the_key(streamed: bool, caller: Caller) -> None:
    """litellm#15799"""
    response = httpx.Response(401, json={"error": f"the key {KEY} is not known"}, headers={"x-lava-request-id": "r1"})
    with pytest.raises(AuthenticationError, match="is not known") as caught:
        caller.ask(streamed, Script(response).model(), "Hi")
    assert caught.value.request_id == "r1"
    assert caught.value.response is not None
    for shown in (str(caught.value), repr(caught.value), str(caught.value.body), caught.value.response.text):
        assert KEY not in shown


def test_vectors_end_up_on_the_wrong_documents(gateway: LocalGateway, caller: Caller) -> None:
    model = embeddings(gateway)
    texts = ["a cat", "the sky", "a ship"]
    alone = [model.embed_query(text) for text in texts]
    gateway.queue(WrongVectors("shuffled"))
    assert caller.embed(model, texts) == alone
    gateway.queue(WrongVectors("short"))
    assert caller.embed(model, texts) == alone


@both
def test_the_cause_hides_behind_a_retry_error(streamed: bool, gateway: LocalGateway, caller: Caller) -> None:
    """langchain#30524"""
    gateway.queue(Reset(), Reset())
    with pytest.raises(APIConnectionError) as caught:
        caller.ask(streamed, chat(gateway, max_retries=1), "Hi")
    assert isinstance(caught.value.__cause__, TransportError)
    gateway.queue(Status(429, retry_after=0), Status(429, retry_after=0))
    with pytest.raises(ModelRateLimitError, match="Rate limit exceeded"):
        caller.embed(embeddings(gateway, max_retries=1), ["a"])


@both
def test_a_call_has_no_billing_identity_metadata_request_id_or_cost(
    streamed: bool, gateway: LocalGateway, caller: Caller
) -> None:
    """langchain#16567, langchain#36983, litellm#22024"""
    got = caller.ask(streamed, chat(gateway), "Hi", billing=Billing("c_1", "m"), lava_metadata={"user": "ann"})
    (request,) = gateway.requests
    assert (request.customer_id, request.meter_slug, request.metadata) == ("c_1", "m", {"user": "ann"})
    assert got.response_metadata["lava_request_id"] == request.request_id
    assert Decimal(got.response_metadata["cost"]) == request.cost > 0
