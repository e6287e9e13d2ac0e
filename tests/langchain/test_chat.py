"""`ChatLavaMistral`: what it asks for, and what its messages hold, streamed and not, in sync and async code."""

from __future__ import annotations

import asyncio
import warnings
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import LLMResult

from langchain_lava_mistral import ChatLavaMistral, ConfigurationError, InvalidRequestError
from lava_mistral import Billing
from lava_mistral.gateway import LocalGateway
from tests.langchain.scenario import KEY, USAGE, Caller, Script, answer, call, chat, chunk, events

PROVIDER = "lava_mistral"
pytestmark = pytest.mark.filterwarnings("ignore:.*is in beta")
both = pytest.mark.parametrize("streamed", [False, True], ids=["invoke", "stream"])
THOUGHTS = [{"type": "thinking", "thinking": [{"type": "text", "text": "Let me "}, {"type": "text", "text": "see."}]}]


def script(streamed: bool, *deltas: Any, finish_reason: str = "stop", **more: Any) -> Script:
    """The same answer streamed or not: contents in turn, or the deltas of tool calls."""
    if streamed:
        return Script(events(*deltas, finish_reason=finish_reason))
    contents = [delta for delta in deltas if not isinstance(delta, dict)]
    parts = [
        part
        for content in contents
        for part in ([{"type": "text", "text": content}] if isinstance(content, str) else content)
    ]
    plain = all(part["type"] == "text" for part in parts)
    content = "".join(part["text"] for part in parts) if plain else parts
    calls = [made for delta in deltas if isinstance(delta, dict) for made in delta["tool_calls"]]
    return Script(answer(content, calls=calls, finish_reason=finish_reason, **more))


# What is asked


def test_nothing_is_sent_that_was_not_set() -> None:
    asked = Script(answer())
    asked.model().invoke("Hi")
    assert asked.body == {"model": "mistral-small-2603", "messages": [{"role": "user", "content": "Hi"}]}


PARAMETERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "temperature": ({"temperature": 0}, {"temperature": 0.0}),
    "max_tokens": ({"max_tokens": 5}, {"max_tokens": 5}),
    "top_p": ({"top_p": 0.5}, {"top_p": 0.5}),
    "stop": ({"stop": ["END"]}, {"stop": ["END"]}),
    "no stop": ({"stop": []}, {}),
    "seed": ({"seed": 0}, {"random_seed": 0}),
    "random_seed": ({"random_seed": 7}, {"random_seed": 7}),
    "penalties": (
        {"presence_penalty": 0.5, "frequency_penalty": -0.5},
        {"presence_penalty": 0.5, "frequency_penalty": -0.5},
    ),
    "n": ({"n": 2}, {"n": 2}),
    "safe_prompt": ({"safe_prompt": False}, {"safe_prompt": False}),
    "parallel_tool_calls": ({"parallel_tool_calls": False}, {"parallel_tool_calls": False}),
    "prompt_mode": ({"prompt_mode": "reasoning"}, {"prompt_mode": "reasoning"}),
    "reasoning_effort": ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
    "prediction": ({"prediction": "x = 1"}, {"prediction": {"type": "content", "content": "x = 1"}}),
    "prediction, Mistral's": (
        {"prediction": {"type": "content", "content": "x"}},
        {"prediction": {"type": "content", "content": "x"}},
    ),
    "response_format": ({"response_format": {"type": "text"}}, {"response_format": {"type": "text"}}),
    "prompt_cache_key": ({"prompt_cache_key": "k"}, {"prompt_cache_key": "k"}),
    "model": ({"model": "mistral-large-latest"}, {"model": "mistral-large-latest"}),
}


@pytest.mark.parametrize(("given", "sent"), PARAMETERS.values(), ids=PARAMETERS)
def test_a_parameter_goes_out_from_the_model_and_from_the_call(given: Any, sent: Any) -> None:
    asked = Script(answer())
    plain = {"model": "mistral-small-2603", "messages": [{"role": "user", "content": "Hi"}]}

    asked.model(**given).invoke("Hi")
    assert asked.body == {**plain, **sent}

    asked.model().invoke("Hi", **given)
    assert asked.body == {**plain, **sent}

    asked.model().bind(**given).invoke("Hi")
    assert asked.body == {**plain, **sent}


def test_a_call_wins_over_the_model_and_none_unsets() -> None:
    asked = Script(answer())
    model = asked.model(temperature=0.5, max_tokens=9, stop=["A"], model_kwargs={"guardrails": []})

    model.invoke("Hi", temperature=None, max_tokens=3, stop=["B"])

    assert asked.body == {
        "model": "mistral-small-2603",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 3,
        "stop": ["B"],
        "guardrails": [],
    }


def test_the_names_that_other_integrations_use_are_understood() -> None:
    model = ChatLavaMistral(model_name="mistral-large-latest", random_seed=3, stop_sequences=["x"], request_timeout=5)  # type: ignore[call-arg]
    assert (model.model, model.model_name, model.seed, model.stop, model.timeout) == (
        "mistral-large-latest",
        "mistral-large-latest",
        3,
        ["x"],
        5,
    )


def test_a_call_understands_what_the_constructor_does(caller: Caller) -> None:
    asked = Script(answer())
    names: dict[str, Any] = {
        "model_name": "mistral-large-latest",
        "stop_sequences": ["x"],
        "random_seed": 3,
        "safe_mode": True,
        "request_timeout": 5,
        "model_kwargs": {"temperature": 0.5, "guardrails": []},
    }
    sent = {"model": "mistral-large-latest", "stop": ["x"], "random_seed": 3, "safe_prompt": True}
    sent |= {"temperature": 0.5, "guardrails": []}
    for runnable, given in ((asked.model(), names), (asked.model().bind(**names), {})):
        caller.invoke(runnable, "Hi", **given)
        assert {name: value for name, value in asked.body.items() if name != "messages"} == sent
        assert asked.requests[-1].extensions["timeout"]["read"] == pytest.approx(5, abs=0.5)
    params = asked.model()._get_ls_params(**names)
    assert (params["ls_model_name"], params["ls_stop"]) == ("mistral-large-latest", ["x"])


def test_a_call_says_whether_it_streams(caller: Caller) -> None:
    asked = Script(events("Hi"))
    got = caller.invoke(asked.model(), "Hi", streaming=True)
    assert (got.text, asked.body["stream"]) == ("Hi", True)
    assert caller.invoke(asked.model(streaming=False).bind(streaming=True), "Hi").text == "Hi"

    asked = Script(answer("Hi"))
    assert [chunk.text for chunk in caller.stream(asked.model(), "Hi", streaming=False)] == ["Hi"]
    assert caller.invoke(asked.model(streaming=True), "Hi", streaming=False).text == "Hi"
    assert caller.invoke(asked.model(streaming=True), "Hi", model_kwargs={"n": 2}).text == "Hi"
    assert all("stream" not in body and "streaming" not in body for body in asked.bodies)


def test_an_unknown_argument_goes_to_the_body_with_a_warning(caller: Caller) -> None:
    asked = Script(answer())
    with pytest.warns(UserWarning, match="'brand_new_field'.*Mistral refuses"):
        model = asked.model(brand_new_field=0)
    caller.invoke(model, "Hi")
    assert asked.body["brand_new_field"] == 0


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("temprature", "temperature"),
        ("max_token", "max_tokens"),
        ("max_output_tokens", "max_tokens"),
        ("seeds", "seed"),
        ("paralel_tool_calls", "parallel"),
    ],
)
def test_a_misspelt_argument_is_refused_with_what_was_meant(wrong: str, meant: str, caller: Caller) -> None:
    asked = Script(answer())
    with pytest.raises(ValueError, match=f"{wrong}'. Did you mean '{meant}"):
        asked.model(**{wrong: 1})
    with pytest.raises(ConfigurationError, match=f"{wrong}'. Did you mean '{meant}"):
        caller.invoke(asked.model(), "Hi", **{wrong: 1})
    with pytest.raises(ConfigurationError, match=f"{wrong}'. Did you mean '{meant}"):
        asked.model().bind(**{wrong: 1})
    assert asked.requests == []
    # A field that Mistral may have one day.
    caller.invoke(asked.model(model_kwargs={wrong: 1}), "Hi", extra_body={wrong: 2})
    assert asked.body[wrong] == 2


@pytest.mark.parametrize("name", ["max_concurrent_requests", "wait_time", "show_thinking", "logit_bias"])
def test_an_argument_without_meaning_here_is_refused_with_a_hint(name: str, caller: Caller) -> None:
    asked = Script(answer())
    with pytest.raises(ValueError, match=f"'{name}' has no meaning here: "):
        asked.model(**{name: 1})
    with pytest.raises(ConfigurationError, match=f"'{name}' has no meaning here: "):
        caller.invoke(asked.model(), "Hi", **{name: 1})
    assert asked.requests == []


def test_a_client_of_another_kind_is_refused() -> None:
    for name in ("http_client", "client", "http_async_client", "async_client"):
        with pytest.raises(ValueError, match=r"must be an httpx\.\w*Client or httpx2\.\w*Client, not object"):
            ChatLavaMistral(**{name: object()})


@pytest.mark.parametrize("name", ["mistral_api_key", "lava_secret_key", "provider_key"])
def test_a_key_under_another_name_is_refused_not_sent(name: str) -> None:
    for given in ({name: "sk-secret"}, {"model_kwargs": {name: "sk-secret"}}):
        with pytest.raises(ValueError, match=rf"{name} can't be sent.*api_key=") as caught:
            ChatLavaMistral(**given)
        assert "sk-secret" not in str(caught.value)


def test_a_known_argument_in_model_kwargs_finds_its_field() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = ChatLavaMistral(model_kwargs={"temperature": 0.5, "brand_new": []})
    assert (model.temperature, model.model_kwargs) == (0.5, {"brand_new": []})


def test_an_argument_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="given twice"):
        ChatLavaMistral(temperature=0, model_kwargs={"temperature": 1})


def test_a_wrong_setting_is_refused_without_showing_the_key() -> None:
    for wrong in ({"timeout": -1}, {"max_retries": -1}, {"base_url": "http://lava.so/v1"}, {"n": 0}, {"billing": 3}):
        with pytest.raises(ValueError, match="1 validation error") as caught:
            ChatLavaMistral(api_key=KEY, **wrong)  # type: ignore[arg-type]
        assert KEY not in str(caught.value)


def test_billing_and_metadata_stay_out_of_the_body(gateway: LocalGateway, caller: Caller) -> None:
    model = chat(gateway, billing=Billing(meter_slug="m"), lava_metadata={"team": "red"})

    caller.invoke(model, "Hi")
    caller.invoke(model, "Hi", billing=Billing("c_1", "m"), lava_metadata={"user": "ann"})
    caller.stream(model.bind(billing={"customer_id": "c_2", "meter_slug": "m"}), "Hi")

    first, second, third = gateway.requests
    assert first.meter_slug == second.meter_slug == third.meter_slug == "m"
    assert (first.customer_id, second.customer_id, third.customer_id) == (None, "c_1", "c_2")
    assert (first.metadata, second.metadata) == ({"team": "red"}, {"team": "red", "user": "ann"})
    for request in gateway.requests:
        assert request.body.keys() <= {"model", "messages", "stream"}


def test_settings_of_a_call_are_no_part_of_the_body() -> None:
    asked = Script(answer())
    model = asked.model(stream_chunk_timeout=None)
    model.invoke("Hi", timeout=3.0, max_retries=0, stream_chunk_timeout=1.0, repair_messages=True, stream=False)
    assert asked.body.keys() == {"model", "messages"}
    assert asked.requests[0].extensions["timeout"]["read"] == pytest.approx(3, abs=0.5)


def test_a_conversation_is_repaired_unless_that_is_refused(caller: Caller) -> None:
    asked = Script(answer())
    conversation = [HumanMessage("Write a poem"), AIMessage("Roses")]
    with pytest.raises(InvalidRequestError, match="repair_messages"):
        caller.invoke(asked.model(repair_messages=False), conversation)
    with pytest.raises(InvalidRequestError, match="repair_messages"):
        caller.invoke(asked.model(), conversation, repair_messages=False)
    assert not asked.requests
    caller.invoke(asked.model(), conversation)
    caller.invoke(asked.model(repair_messages=False), conversation, repair_messages=True)
    assert [body["messages"][-1].get("prefix") for body in asked.bodies] == [True, True]


def test_a_prefix_begins_the_answer(gateway: LocalGateway, caller: Caller) -> None:
    start = AIMessage("My favourite city is", additional_kwargs={"prefix": True})
    got = caller.invoke(chat(gateway), [HumanMessage("Name a city. Answer in a word."), start])
    assert got.text.startswith("My favourite city is")


# What comes back


@both
def test_a_plain_answer(streamed: bool, caller: Caller) -> None:
    got = caller.ask(streamed, script(streamed, "Hel", "lo").model(), "Hi")

    assert got.content == "Hello"
    assert got.content_blocks == [{"type": "text", "text": "Hello", **({"index": "lc_txt_0"} if streamed else {})}]
    assert got.usage_metadata == {"input_tokens": 12, "output_tokens": 5, "total_tokens": 17}
    metadata = got.response_metadata
    assert {key: metadata[key] for key in metadata if key not in ("token_usage", "cost")} == {
        "model_name": "mistral-small-2603",
        "model_provider": PROVIDER,
        "finish_reason": "stop",
        "id": "cmpl-1",
        "created": 1_700_000_000,
        "lava_request_id": "req_1",
    }
    # 12 tokens in at 0.15 USD a million, 5 out at 0.60.
    assert Decimal(metadata["cost"]) == Decimal("0.0000048")


@both
def test_a_model_without_known_prices_says_no_cost(streamed: bool) -> None:
    scripted = Script([chunk({"content": "Hi"}, finish_reason="stop", usage=USAGE, model="my-own")])
    if not streamed:
        scripted = Script(answer("Hi", model="my-own"))
    got = Caller(False).ask(streamed, scripted.model(model="my-own"), "Hi")
    assert got.text == "Hi"
    assert "cost" not in got.response_metadata


@both
def test_thinking_comes_as_reasoning_and_stays_out_of_the_text(streamed: bool, caller: Caller) -> None:
    got = caller.ask(streamed, script(streamed, THOUGHTS, "It ", "is 4.").model(), "2+2?")

    assert got.text == "It is 4."
    assert [(b["type"], b.get("reasoning", b.get("text"))) for b in got.content_blocks] == [
        ("reasoning", "Let me see."),
        ("text", "It is 4."),
    ]
    again = Script(answer())
    caller.invoke(again.model(), [HumanMessage("2+2?"), got, HumanMessage("Sure?")])
    assert again.body["messages"][1] == {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": "Let me see."}]},
            {"type": "text", "text": "It is 4."},
        ],
    }


@both
@pytest.mark.parametrize("version", ["v0", "v1"])
def test_citations_stand_on_the_text_that_they_are_for(streamed: bool, version: str, caller: Caller) -> None:
    deltas = (
        [{"type": "text", "text": "Paris"}, {"type": "reference", "reference_ids": [1, "two"]}],
        " is big",
        [{"type": "reference", "reference_ids": [3]}, {"type": "reference", "reference_ids": [4]}],
        ".",
    )
    model = script(streamed, *deltas).model(output_version=version)

    got = caller.ask(streamed, model, "Where?")

    assert got.text == "Paris is big."
    cited = [
        (block["text"], [a["extras"]["reference_ids"] for a in block.get("annotations", ())])  # type: ignore[typeddict-item]
        for block in got.content_blocks
        if block["type"] == "text"
    ]
    assert [text for text, _ in cited if text] == ["Paris", " is big", "."]
    assert [ids for _, found in cited for ids in found] == [[1, "two"], [3], [4]]
    assert cited[0] == ("Paris", [[1, "two"]])
    again = Script(answer())
    caller.invoke(again.model(), [HumanMessage("Where?"), got, HumanMessage("Sure?")])
    sent = again.body["messages"][1]["content"]
    # Mistral sends identifiers that are text, but takes only numbers.
    assert [p["reference_ids"] for p in sent if p["type"] == "reference"] == [[1], [3], [4]]


@both
def test_text_inside_a_reference_is_not_lost(streamed: bool, caller: Caller) -> None:
    cited = [{"type": "reference", "reference_ids": [1], "text": "Paris"}]
    got = caller.ask(streamed, script(streamed, "In ", cited, ".").model(), "Where?")
    assert got.text == "In Paris."


@both
def test_a_reference_of_a_tool_names_its_source(streamed: bool, caller: Caller) -> None:
    part = {"type": "tool_reference", "tool": "web_search", "title": "A page", "url": "https://x.org"}
    got = caller.ask(streamed, script(streamed, "In Paris.", [part]).model(), "Where?")
    (annotation,) = [a for block in got.content_blocks for a in block.get("annotations", ())]  # type: ignore[attr-defined]
    assert annotation == {
        "type": "citation",
        "title": "A page",
        "url": "https://x.org",
        "extras": {"tool": "web_search"},
    }


@both
def test_a_part_that_langchain_has_no_block_for_is_kept(streamed: bool, caller: Caller) -> None:
    part = {"type": "image_url", "image_url": "https://x.org/a.png"}
    got = caller.ask(streamed, script(streamed, "See ", [part], "there.").model(), "Where?")
    assert got.text == "See there."
    assert [block["type"] for block in got.content_blocks] == ["text", "non_standard", "text"]
    assert got.content_blocks[1]["value"] == part  # type: ignore[typeddict-item]


@both
def test_a_thought_in_pieces_with_a_reference_between(streamed: bool, caller: Caller) -> None:
    thought = [
        {"type": "text", "text": "a"},
        {"type": "reference", "reference_ids": [1]},
        {"type": "text", "text": "b"},
    ]
    got = caller.ask(
        streamed, script(streamed, [{"type": "thinking", "thinking": thought, "closed": True}]).model(), "?"
    )
    assert got.content_blocks[0]["reasoning"] == "ab"  # type: ignore[typeddict-item]
    again = Script(answer())
    caller.invoke(again.model(), [HumanMessage("?"), got, HumanMessage("Sure?")])
    assert again.body["messages"][1]["content"] == [{"type": "thinking", "thinking": thought}]


@both
@pytest.mark.parametrize("version", [None, "v1"])
def test_the_signature_of_a_thought_is_sent_back(version: Any, streamed: bool, caller: Caller) -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}], "signature": "s1"}
    got = caller.ask(streamed, script(streamed, [thought], "Yes").model(output_version=version), "?")
    assert got.content_blocks[0]["extras"] == {"signature": "s1"}  # type: ignore[typeddict-item]
    again = Script(answer())
    caller.invoke(again.model(), [HumanMessage("?"), got, HumanMessage("Sure?")])
    assert again.body["messages"][1]["content"] == [thought, {"type": "text", "text": "Yes"}]


@both
def test_parallel_tool_calls(streamed: bool, caller: Caller) -> None:
    calls = [call("add", {"a": 1}, id="aaaaaaaa1"), call("sub", {"b": 2}, id="aaaaaaaa2")]
    model = script(streamed, "Let me see.", {"tool_calls": calls}, finish_reason="tool_calls").model()

    got = caller.ask(streamed, model, "1-2?")

    assert got.text == "Let me see."
    assert [(c["name"], c["args"], c["id"]) for c in got.tool_calls] == [
        ("add", {"a": 1}, "aaaaaaaa1"),
        ("sub", {"b": 2}, "aaaaaaaa2"),
    ]
    assert [b["type"] for b in got.content_blocks] == ["text", "tool_call", "tool_call"]
    assert got.response_metadata["finish_reason"] == "tool_calls"


@both
def test_calls_alone_have_no_text_block(streamed: bool, caller: Caller) -> None:
    model = script(streamed, {"tool_calls": [call("f", {})]}, finish_reason="tool_calls").model()
    assert [b["type"] for b in caller.ask(streamed, model, "?").content_blocks] == ["tool_call"]


@both
def test_standard_content_is_read_back(streamed: bool, caller: Caller) -> None:
    deltas = (THOUGHTS, "Yes", {"tool_calls": [call("f", {"x": 1})]})
    model = script(streamed, *deltas, finish_reason="tool_calls").model(output_version="v1")

    got = caller.ask(streamed, model, "?")

    assert [block["type"] for block in got.content] == ["reasoning", "text", "tool_call"]  # type: ignore[index]
    assert got.tool_calls[0]["args"] == {"x": 1}
    copied = AIMessage(content_blocks=got.content_blocks, response_metadata={"model_provider": PROVIDER})
    assert [block["type"] for block in copied.content_blocks] == ["reasoning", "text", "tool_call"]


def test_streamed_usage_and_names_stand_on_one_chunk_each(caller: Caller) -> None:
    chunks = caller.stream(Script(events("a", "b", "c")).model(), "Hi")

    assert [c.text for c in chunks] == ["a", "b", "c", ""]
    assert [c.usage_metadata is not None for c in chunks] == [False, False, False, True]
    assert [c.chunk_position for c in chunks] == [None, None, None, "last"]
    for key in ("model_name", "finish_reason", "id", "created", "lava_request_id", "cost"):
        assert sum(key in c.response_metadata for c in chunks) == 1, key
    assert {c.response_metadata["model_provider"] for c in chunks} == {PROVIDER}
    assert len({c.id for c in chunks}) == 1


def test_an_answer_without_words_still_says_where_it_came_from(caller: Caller) -> None:
    (only,) = caller.stream(Script(events()).model(), "Hi")
    assert only.content == ""
    assert only.response_metadata["lava_request_id"] == "req_1"
    assert only.response_metadata["finish_reason"] == "stop"


def test_a_chunk_is_nobody_elses(caller: Caller) -> None:
    chunks = caller.stream(Script(events("a", "b", "c")).model(), "Hi")
    for field in ("additional_kwargs", "response_metadata", "tool_calls", "invalid_tool_calls", "tool_call_chunks"):
        values = [getattr(c, field) for c in chunks]
        assert len({id(v) for v in values}) == len(values), field
    before = chunks[1].model_dump()
    chunks[2].response_metadata["x"] = 1
    chunks[2].extra_field = 1
    assert chunks[1].model_dump() == before
    assert type(chunks[1]).model_validate(before) == chunks[1]
    assert chunks[1] == chunks[1].model_copy(deep=True)


def test_usage_on_a_chunk_without_choices_counts(caller: Caller) -> None:
    stream = [*events("Hi", usage=None), chunk(usage=USAGE) | {"choices": []}]
    got = caller.whole(Script(stream).model(), "Hi")
    assert got.usage_metadata == {"input_tokens": 12, "output_tokens": 5, "total_tokens": 17}


def test_several_answers(gateway: LocalGateway, caller: Caller) -> None:
    model = chat(gateway, n=3)
    if caller.is_async:
        result = asyncio.run(model.agenerate([[HumanMessage("Name a city")]]))
    else:
        result = model.generate([[HumanMessage("Name a city")]])

    messages = [generation.message for generation in result.generations[0]]  # type: ignore[union-attr]
    assert len(messages) == 3
    assert all(message.text for message in messages)
    assert [message.usage_metadata is not None for message in messages] == [True, False, False]  # type: ignore[attr-defined]
    assert ["cost" in message.response_metadata for message in messages] == [True, False, False]


def test_several_answers_are_not_streamed_into_each_other(gateway: LocalGateway, caller: Caller) -> None:
    whole = caller.whole(chat(gateway, n=2), "Name a city")
    assert gateway.requests[0].body.get("stream") is None
    assert whole.text
    with pytest.raises(InvalidRequestError, match="generate"):
        list(chat(gateway)._stream([HumanMessage("Hi")], n=2))


def test_outputs_of_several_prompts_are_added_up(caller: Caller) -> None:
    usage = {**USAGE, "prompt_tokens_details": {"cached_tokens": 2}, "prompt_audio_seconds": None}
    model = Script(answer(usage=usage)).model()
    prompts: Any = [[HumanMessage("a")], [HumanMessage("b")]]
    result: LLMResult = asyncio.run(model.agenerate(prompts)) if caller.is_async else model.generate(prompts)

    assert result.llm_output is not None
    assert result.llm_output["token_usage"] == {
        "prompt_tokens": 24,
        "completion_tokens": 10,
        "total_tokens": 34,
        "prompt_tokens_details": {"cached_tokens": 4},
        "prompt_audio_seconds": None,
    }
    assert result.llm_output["model_name"] == "mistral-small-2603"
    # 10 + 2 cached at a tenth, times 0.15, and 5 times 0.60 USD a million; twice.
    assert Decimal(result.llm_output["cost"]) == Decimal("0.00000906")


def test_combining_outputs_bears_what_is_not_there() -> None:
    combine = ChatLavaMistral()._combine_llm_outputs
    assert combine([None, {}, {"token_usage": None}, {"token_usage": {"a": 1}}, {"token_usage": {"a": None}}]) == {
        "token_usage": {"a": 1}
    }
    assert combine([{"token_usage": {"a": None, "ok": True}}, {"token_usage": {"a": 1, "ok": True}}]) == {
        "token_usage": {"a": 1, "ok": True}
    }
    assert combine([{"x": 1}, {"x": {"a": 1}}]) == {"x": 1}


class Tokens(BaseCallbackHandler):
    def __init__(self) -> None:
        self.tokens: list[Any] = []
        self.ended = 0

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self.tokens.append(token)
        assert kwargs["chunk"].message is not None

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        self.ended += 1


def test_callbacks_hear_each_token_once(caller: Caller) -> None:
    for ask in ("stream", "invoke", "events"):
        heard = Tokens()
        model = Script(events("a", "b")).model(streaming=True, callbacks=[heard])
        if ask == "stream":
            caller.stream(model, "Hi")
        elif ask == "invoke":
            caller.invoke(model, "Hi")
        else:
            caller.events(model, "Hi")
        assert (heard.tokens, heard.ended) == (["a", "b", ""], 1), ask


def test_streaming_settings(caller: Caller) -> None:
    asked = Script(events("Hi"))
    assert caller.invoke(asked.model(streaming=True), "Hi").text == "Hi"
    assert asked.body["stream"] is True
    for quiet in ({"streaming": False}, {"disable_streaming": True}):
        asked = Script(answer("Hi"))
        assert [c.text for c in caller.stream(asked.model(**quiet), "Hi")] == ["Hi"]
        assert "stream" not in asked.body


def test_a_batch(gateway: LocalGateway, caller: Caller) -> None:
    model = chat(gateway)
    prompts = [f"Say the word number {i}" for i in range(10)]
    got = asyncio.run(model.abatch(prompts)) if caller.is_async else model.batch(prompts)
    assert len(got) == len(gateway.requests) == 10


def test_the_class_says_which_it_is() -> None:
    model = ChatLavaMistral(api_key=KEY, billing=Billing("c", "m", provider_key="SECRET"))
    assert repr(model).startswith("langchain_lava_mistral.ChatLavaMistral(")
    assert "SECRET" not in repr(model) + str(model)
