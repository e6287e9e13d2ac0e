"""Answers: what is sent, what the caller gets, streamed and whole, in sync and async code."""

from __future__ import annotations

import gc
import pickle
import time
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, TextBlock, ThinkingBlock, ToolCallBlock

from lava_mistral import (
    Billing,
    ConfigurationError,
    InvalidRequestError,
    RateLimitError,
    StreamInterruptedError,
    billed_to,
    track_usage,
)
from lava_mistral.billing.credentials import decode_forward_token
from lava_mistral.gateway import Cut, LocalGateway
from llama_index_lava_mistral import ChatLavaMistral
from tests.fakes.llama_index_scripted import KEY, USAGE, Caller, Scripted, answer, ask, call, chunk, stream

THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "Let me see. "}]}
MORE_THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "2+2."}], "closed": True}
FACTS = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17, "cached_tokens": 0}


def test_a_chat(caller: Caller) -> None:
    mistral = Scripted(answer("Good day"))
    response = caller.chat(mistral.llm(), ask())
    assert response.message.content == "Good day"
    assert response.message.role == "assistant"
    assert response.raw == answer("Good day") | {"cost": "0.0000048"}
    assert response.additional_kwargs == {
        "lava_request_id": "req_1",
        "finish_reason": "stop",
        "cost": "0.0000048",
        **FACTS,
    }
    assert mistral.body == {"model": "mistral-small-2603", "messages": [{"role": "user", "content": "Hello"}]}


def test_a_streamed_chat_is_exact_to_the_letter(caller: Caller) -> None:
    mistral = Scripted(stream("Good", " day", ",\n", "you"))
    responses = caller.stream_chat(mistral.llm(), ask())
    assert [r.delta for r in responses] == ["Good", " day", ",\n", "you", ""]
    assert [r.message.content for r in responses] == [
        "Good",
        "Good day",
        "Good day,\n",
        "Good day,\nyou",
        "Good day,\nyou",
    ]
    assert all([type(block) for block in r.message.blocks] == [TextBlock] for r in responses)
    last = responses[-1]
    assert (last.raw["object"], last.raw["usage"]) == ("chat.completion.chunk", USAGE)
    assert last.additional_kwargs == {
        "lava_request_id": "req_1",
        "finish_reason": "stop",
        "cost": "0.0000048",
        **FACTS,
    }
    assert all("usage" not in r.raw and "cost" not in r.additional_kwargs for r in responses[:-1])
    assert mistral.body["stream"] is True


def test_a_response_does_not_know_what_comes_after_it(caller: Caller) -> None:
    """All events in one piece of bytes: the connection is ahead of what is handed on."""
    mistral = Scripted(stream("a", "b", {"tool_calls": [call("f", {})]}), together=True)
    responses = caller.stream_chat(mistral.llm(), ask())
    assert [r.message.content for r in responses] == ["a", "ab", "ab", "ab"]
    assert [len(r.message.blocks) for r in responses] == [1, 1, 2, 2]
    assert ["usage" in r.raw for r in responses] == [False, False, False, True]


def test_responses_of_a_stream_share_nothing(caller: Caller) -> None:
    responses = caller.stream_chat(Scripted(stream("a", "b")).llm(), ask())
    first, second = responses[0].message, responses[1].message
    first.blocks.append(TextBlock(text="!"))
    first.additional_kwargs["x"] = 1
    assert first.blocks is not second.blocks
    assert (second.content, second.additional_kwargs) == ("ab", {})
    assert second == ChatMessage.model_validate(second.model_dump()) == second.model_copy(deep=True)
    assert pickle.loads(pickle.dumps(second)) == second


def test_a_conversation_without_messages_is_refused_before_it_is_sent(caller: Caller) -> None:
    mistral = Scripted()
    for ask_for in (caller.chat, caller.stream_chat):
        with pytest.raises(InvalidRequestError, match="at least one message"):
            ask_for(mistral.llm(), [])
    assert mistral.requests == []


def test_thinking_is_never_text(caller: Caller) -> None:
    whole = Scripted(answer([THINKING, {"type": "text", "text": "4"}]))
    response = caller.chat(whole.llm(), ask())
    assert response.message.content == "4"
    assert [type(b) for b in response.message.blocks] == [ThinkingBlock, TextBlock]
    assert response.message.blocks[0].content == "Let me see. "

    mistral = Scripted(stream({"content": [THINKING]}, {"content": [MORE_THINKING]}, "4", "!"))
    responses = caller.stream_chat(mistral.llm(), ask())
    assert [r.delta for r in responses] == ["", "", "4", "!", ""]
    assert [r.message.content for r in responses] == ["", "", "4", "4!", "4!"]
    assert [r.additional_kwargs.get("thinking_delta") for r in responses] == [
        "Let me see. ",
        "2+2.",
        None,
        None,
        None,
    ]
    thinking = responses[-1].message.blocks[0]
    assert isinstance(thinking, ThinkingBlock)
    assert thinking.content == "Let me see. 2+2."
    assert thinking.additional_information["closed"] is True


def test_text_and_thinking_and_references_in_one_delta(caller: Caller) -> None:
    delta = {
        "content": [
            {"type": "text", "text": "Paris"},
            {"type": "reference", "reference_ids": [7]},
            {"type": "text", "text": "."},
        ]
    }
    responses = caller.stream_chat(Scripted(stream(delta)).llm(), ask())
    assert (responses[0].delta, responses[0].message.content) == ("Paris.", "Paris.")
    inside = {
        "content": [{"type": "reference", "reference_ids": ["a"], "text": "Paris"}, {"type": "text", "text": "."}]
    }
    (first, _) = caller.stream_chat(Scripted(stream(inside)).llm(), ask())
    assert (first.delta, first.message.content) == ("Paris.", "Paris.")
    assert responses[0].raw["choices"][0]["delta"]["content"] == delta["content"]


def test_completions(caller: Caller) -> None:
    mistral = Scripted(answer("Paris"))
    response = caller.complete(mistral.llm(), "Capital of France?")
    assert (response.text, response.raw["usage"]) == ("Paris", USAGE)
    assert response.additional_kwargs["lava_request_id"] == "req_1"
    assert mistral.body["messages"] == [{"role": "user", "content": "Capital of France?"}]

    mistral = Scripted(stream("Pa", "ris"))
    responses = caller.stream_complete(mistral.llm(), "Capital of France?", formatted=True)
    assert [r.delta for r in responses] == ["Pa", "ris", ""]
    assert [r.text for r in responses] == ["Pa", "Paris", "Paris"]
    assert responses[-1].additional_kwargs["cost"] == "0.0000048"


def test_usage_on_a_chunk_without_choices(caller: Caller) -> None:
    events = [
        chunk({"content": "Hi"}),
        chunk({"content": ""}, finish_reason="stop"),
        {**chunk(), "choices": [], "usage": USAGE},
    ]
    last = caller.stream_chat(Scripted(events).llm(), ask())[-1]
    assert (last.message.content, last.raw["usage"]) == ("Hi", USAGE)
    assert last.additional_kwargs["finish_reason"] == "stop"


def test_of_several_choices_the_first_is_the_answer(caller: Caller) -> None:
    events = [
        chunk({"content": "a"}, index=0),
        chunk({"content": "x"}, index=1),
        chunk({"content": "b"}, index=0, finish_reason="stop"),
        chunk({"content": "y"}, index=1, finish_reason="stop", usage=USAGE),
    ]
    mistral = Scripted(events)
    responses = caller.stream_chat(mistral.llm(), ask())
    assert [r.message.content for r in responses if r.delta] == ["a", "ab"]
    assert responses[-1].raw["usage"] == USAGE


def test_nothing_is_sent_that_was_not_set() -> None:
    mistral = Scripted()
    mistral.llm().chat(ask())
    assert mistral.body.keys() == {"model", "messages"}


PARAMETERS: dict[str, Any] = {
    "temperature": 0.0,
    "max_tokens": 7,
    "top_p": 0.9,
    "stop": ["END"],
    "presence_penalty": 0.0,
    "frequency_penalty": 0.1,
    "safe_prompt": False,
    "prompt_mode": "reasoning",
    "reasoning_effort": "high",
    "prediction": {"type": "content", "content": "x"},
    "response_format": {"type": "text"},
    "prompt_cache_key": "k",
    "top_k": 40,
    "min_tokens": 2,
    "repetition_penalty": 1.1,
    "logprobs": True,
    "top_logprobs": 2,
    "prompt_logprobs": True,
    "top_prompt_logprobs": 1,
    "service_tier": "default",
    "guardrails": [{"block_on_error": True}],
}


def test_every_parameter_by_the_model_and_by_the_call(caller: Caller) -> None:
    mistral = Scripted()
    caller.chat(mistral.llm(**PARAMETERS, seed=0), ask())
    caller.chat(mistral.llm(), ask(), **PARAMETERS, seed=0)
    caller.chat(mistral.llm(**PARAMETERS, seed=0, mistral_metadata={"team": "red"}), ask())
    assert mistral.body.pop("metadata") == {"team": "red"}
    expected = PARAMETERS | {"random_seed": 0}
    for body in mistral.bodies:
        assert {k: v for k, v in body.items() if k not in ("model", "messages", "metadata")} == expected


def test_the_call_overrides_the_model_and_its_additional_kwargs(caller: Caller) -> None:
    mistral = Scripted()
    llm = mistral.llm(random_seed=1, temperature=0.1, additional_kwargs={"top_p": 0.5})
    caller.chat(llm, ask(), model="mistral-large-2512", temperature=0.7, top_p=0.6, random_seed=2)
    assert mistral.body["model"] == "mistral-large-2512"
    sent = {name: mistral.body[name] for name in ("temperature", "top_p", "random_seed")}
    assert sent == {"temperature": 0.7, "top_p": 0.6, "random_seed": 2}
    caller.chat(llm, ask(), seed=3)
    assert mistral.body["random_seed"] == 3


def test_parallel_tool_calls_go_with_tools_alone() -> None:
    mistral = Scripted()
    mistral.llm(parallel_tool_calls=True).chat(ask())
    assert "parallel_tool_calls" not in mistral.body


def credential(mistral: Scripted) -> dict[str, Any]:
    token = mistral.requests[-1].headers["authorization"].removeprefix("Bearer ")
    return decode_forward_token(token) or {"secret_key": token}


BILLING = Billing(customer_id="c_1", meter_slug="chat")


@pytest.mark.parametrize("method", ["chat", "stream_chat", "complete", "stream_complete"])
def test_who_pays(caller: Caller, method: str) -> None:
    streamed = method.startswith("stream")
    mistral = Scripted(stream("Hi") if streamed else answer())
    argument: Any = "Hello" if "complete" in method else ask()

    def run(llm: ChatLavaMistral, **kwargs: Any) -> None:
        (caller.all if streamed else caller.one)(llm, method, argument, **kwargs)

    run(mistral.llm())
    assert credential(mistral) == {"secret_key": KEY}
    run(mistral.llm(), billing=BILLING)
    assert credential(mistral) == {"secret_key": KEY, "customer_id": "c_1", "meter_slug": "chat"}
    run(mistral.llm(billing=BILLING))
    assert credential(mistral)["customer_id"] == "c_1"
    with billed_to("c_2", metadata={"team": "red"}):
        run(mistral.llm(billing=BILLING), lava_metadata={"run": "7"})
    assert credential(mistral) == {"secret_key": KEY, "customer_id": "c_2", "meter_slug": "chat"}
    assert mistral.requests[-1].headers["x-lava-metadata"] == '{"team":"red","run":"7"}'
    assert not {"billing", "lava_metadata", "metadata"} & mistral.body.keys()


@pytest.mark.parametrize("method", ["chat", "stream_chat", "complete", "stream_complete"])
@pytest.mark.parametrize("by_environment", [False, True])
def test_a_call_without_a_customer_is_refused_where_one_is_required(
    caller: Caller, method: str, by_environment: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_environment:
        monkeypatch.setenv("LAVA_REQUIRE_CUSTOMER", "1")
    mistral = Scripted(stream("Hi") if method.startswith("stream") else answer())
    llm = mistral.llm(require_customer=not by_environment)
    run = caller.all if method.startswith("stream") else caller.one
    argument: Any = "Hello" if "complete" in method else ask()
    with pytest.raises(ConfigurationError, match="customer"):
        run(llm, method, argument)
    assert not mistral.requests
    run(llm, method, argument, billing=BILLING)
    with billed_to("c_2", "chat"):
        run(llm, method, argument)
    assert len(mistral.requests) == 2


def test_a_stream_is_billed_to_whom_it_was_opened_for() -> None:
    mistral = Scripted(stream("Hi"))
    with billed_to("c_2", "chat"):
        responses = mistral.llm().stream_chat(ask())
    assert [r.delta for r in responses] == ["Hi", ""]
    assert credential(mistral)["customer_id"] == "c_2"


def test_metadata_of_the_model_goes_with_every_call(caller: Caller) -> None:
    mistral = Scripted()
    caller.chat(mistral.llm(lava_metadata={"app": "x"}), ask())
    assert mistral.requests[-1].headers["x-lava-metadata"] == '{"app":"x"}'


def test_errors_come_as_they_are(caller: Caller) -> None:
    with pytest.raises(RateLimitError) as caught:
        caller.chat(Scripted(429).llm(), ask())
    assert (caught.value.status_code, caught.value.request_id) == (429, "req_1")
    with pytest.raises(RateLimitError):
        caller.stream_chat(Scripted(429).llm(), ask())


def test_an_error_before_the_first_chunk_is_raised_by_the_call_itself() -> None:
    with pytest.raises(RateLimitError):
        Scripted(429).llm().stream_chat(ask())


def test_retries_are_those_of_max_retries(caller: Caller) -> None:
    mistral = Scripted(503, answer("again"))
    assert caller.chat(mistral.llm(max_retries=1), ask()).message.content == "again"
    assert len(mistral.requests) == 2


def test_a_stream_that_is_cut_raises_after_what_had_come(caller: Caller) -> None:
    mistral = Scripted([chunk({"content": "Hal"})])
    mistral_cut = Unfinished(mistral)
    llm = mistral_cut.llm()
    seen: list[str] = []
    with pytest.raises(StreamInterruptedError) as caught:
        caller.one(Collector(seen, llm), "run")
    assert seen == ["Hal"]
    assert caught.value.partial.text == "Hal"


class Unfinished(Scripted):
    """Ends its streams without `[DONE]`."""

    def __init__(self, inner: Scripted) -> None:
        super().__init__(*inner._answers)

    def __call__(self, request: Any) -> Any:
        response = super().__call__(request)
        response.stream._pieces = response.stream._pieces[:-1]
        return response


class Collector:
    """Keeps the deltas of a stream also when it fails."""

    def __init__(self, seen: list[str], llm: ChatLavaMistral) -> None:
        self._seen = seen
        self._llm = llm

    def run(self) -> None:
        for response in self._llm.stream_chat(ask()):
            self._seen.append(response.delta or "")

    async def arun(self) -> None:
        async for response in await self._llm.astream_chat(ask()):
            self._seen.append(response.delta or "")


@pytest.mark.parametrize("events", [[], [{**chunk(), "choices": [], "usage": USAGE}]], ids=["nothing", "usage alone"])
def test_a_stream_without_an_answer_raises(caller: Caller, events: list[Any]) -> None:
    with pytest.raises(StreamInterruptedError, match="no answer"):
        caller.stream_chat(Scripted(events).llm(), ask())


def test_a_missing_key_is_reported_on_first_use(caller: Caller) -> None:
    llm = Scripted().llm(api_key=None)
    with pytest.raises(ConfigurationError, match="LAVA_SECRET_KEY"):
        caller.chat(llm, ask())


def test_a_key_from_a_function_is_asked_for_at_each_call(caller: Caller) -> None:
    keys = iter(["aks_test_1", "aks_test_2"])
    mistral = Scripted()
    llm = mistral.llm(api_key=lambda: next(keys))
    caller.chat(llm, ask())
    caller.chat(llm, ask())
    assert [r.headers["authorization"] for r in mistral.requests] == ["Bearer aks_test_1", "Bearer aks_test_2"]


def test_a_wrong_order_is_repaired_or_refused(caller: Caller) -> None:
    history = [*ask(), ChatMessage(role="assistant", content="Well,")]
    mistral = Scripted()
    with pytest.raises(InvalidRequestError, match="repair_messages"):
        caller.chat(mistral.llm(repair_messages=False), history)
    with pytest.raises(InvalidRequestError, match="repair_messages"):
        caller.chat(mistral.llm(), history, repair_messages=False)
    caller.chat(mistral.llm(), history)
    caller.chat(mistral.llm(repair_messages=False), history, repair_messages=True)
    assert [body["messages"][-1]["prefix"] for body in mistral.bodies] == [True, True]


def test_an_answer_goes_back_into_the_conversation(caller: Caller) -> None:
    content = [{**THINKING, "closed": True, "signature": "sig"}, {"type": "text", "text": "4"}]
    mistral = Scripted(answer(content), answer("yes"))
    llm = mistral.llm()
    first = caller.chat(llm, ask("2+2?"))
    caller.chat(llm, [*ask("2+2?"), first.message, *ask("Sure?")])
    assert mistral.body["messages"][1] == {"role": "assistant", "content": content}


def test_closing_a_stream_early_is_quiet() -> None:
    responses = Scripted(stream("a", "b", "c")).llm().stream_chat(ask())
    assert next(responses).delta == "a"
    responses.close()


@pytest.mark.parametrize("read", [0, 1])
def test_a_stream_that_nobody_reads_to_its_end_is_closed(caller: Caller, read: int) -> None:
    """Else its connection would never be used again."""
    with LocalGateway(pace=0.2) as gateway:
        llm = ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)
        question = ask("Repeat: one two three four five six seven eight nine ten eleven twelve.")
        caller.one(Leaving(llm, question, read), "run")
        deadline = time.monotonic() + 1.0
        while gateway.in_flight and time.monotonic() < deadline:
            time.sleep(0.01)
        assert gateway.in_flight == 0


def test_a_stream_that_is_left_after_a_retry_waits_for_no_garbage_collector(caller: Caller) -> None:
    """A failed try must not keep the frames alive that hold the stream of the next one."""
    with LocalGateway(pace=0.2) as gateway, track_usage(listener=(told := []).append):
        gateway.queue([b": not yet\n\n", Cut()])
        llm = ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)
        question = ask("Repeat: one two three four five six seven eight nine ten eleven twelve.")
        gc.collect()
        gc.disable()
        try:
            caller.one(Leaving(llm, question, 1), "run")
            assert [record.complete for record in told] == [False, False]
        finally:
            gc.enable()
        assert len(gateway.requests) == 2


class Leaving:
    """Asks, reads a little, and forgets the rest."""

    def __init__(self, llm: ChatLavaMistral, question: list[ChatMessage], read: int) -> None:
        self._llm, self._question, self._read = llm, question, read

    def run(self) -> None:
        responses = self._llm.stream_chat(self._question)
        for _ in range(self._read):
            next(responses)

    async def arun(self) -> None:
        responses = await self._llm.astream_chat(self._question)
        for _ in range(self._read):
            await anext(responses)


def test_calls_beside_text_keep_both(caller: Caller) -> None:
    mistral = Scripted(answer("Looking.", calls=[call("f", {"a": 1})], finish_reason="tool_calls"))
    message = caller.chat(mistral.llm(), ask()).message
    assert message.content == "Looking."
    assert message.blocks[1] == ToolCallBlock(tool_call_id="a1B2c3D4e", tool_name="f", tool_kwargs='{"a": 1}')
