"""Everything that an answer of Mistral's may hold: steps of built-in tools, log probabilities, odd parts, counts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CitationBlock

from tests.fakes.llama_index_scripted import USAGE, Caller, Scripted, answer, ask, chunk, stream

SEARCH = {"id": "aaaaaaaaa", "type": "function", "function": {"name": "web_search", "arguments": '{"q": "x"}'}}
CITED = {"type": "tool_reference", "tool": "web_search", "title": "Mistral", "url": "https://mistral.ai/"}
DRAWN = {"type": "tool_file", "tool": "image_generation", "file_id": "f_1", "file_name": "cat.png"}
STEPS = [
    {"role": "assistant", "content": "", "tool_calls": [SEARCH]},
    {"role": "tool", "tool_call_id": "aaaaaaaaa", "content": "found"},
]
PARTS = [{"type": "text", "text": "It is "}, CITED, {"type": "text", "text": "so."}, DRAWN]
SAYS = {"role": "assistant", "content": PARTS}


def chat(caller: Caller, streamed: bool, whole: Any, chunks: list[Any], **settings: Any) -> tuple[ChatResponse, Any]:
    """The last response of a chat, and the model."""
    llm = Scripted(chunks if streamed else whole, answer()).llm(**settings)
    response = caller.stream_chat(llm, ask())[-1] if streamed else caller.chat(llm, ask())
    return response, llm


def several_messages() -> tuple[Any, list[Any]]:
    whole = answer()
    whole["choices"] = [{"index": 0, "finish_reason": "stop", "messages": [*STEPS, SAYS]}]
    pieces = [{**message, "index": at} for at, message in enumerate((*STEPS, SAYS))]
    return whole, stream(*pieces)


@pytest.mark.parametrize("streamed", [False, True])
def test_the_answer_after_mistrals_own_tools_is_there_with_citations_files_and_steps(
    caller: Caller, streamed: bool
) -> None:
    response, llm = chat(caller, streamed, *several_messages())
    assert response.message.content == "It is so."
    (citation,) = [block for block in response.message.blocks if isinstance(block, CitationBlock)]
    assert (citation.title, citation.source) == ("Mistral", "https://mistral.ai/")
    assert response.additional_kwargs["files"] == [DRAWN]
    assert response.message.additional_kwargs["parts"] == [CITED, DRAWN]
    assert [step["role"] for step in response.additional_kwargs["steps"]] == ["assistant", "tool"]
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    json.dumps(response.additional_kwargs)


def test_such_an_answer_goes_back_into_the_conversation(caller: Caller) -> None:
    whole, _ = several_messages()
    mistral = Scripted(whole, answer())
    llm = mistral.llm()
    message = ChatMessage.model_validate_json(caller.chat(llm, ask()).message.model_dump_json())
    caller.chat(llm, [*ask(), message, *ask("Sure?")])
    # Mistral takes no source of its own tools back.
    assert mistral.body["messages"][1]["content"] == [part for part in PARTS[:3] if part["type"] == "text"]


TOKENS = [
    {"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "token_id": 1, "top_logprobs": None},
    {
        "token": "!",
        "logprob": -0.2,
        "bytes": [33],
        "token_id": 2,
        "top_logprobs": [
            {"token": "!", "logprob": -0.2, "bytes": [33], "token_id": 2},
            {"token": ".", "logprob": -2.0, "bytes": [46], "token_id": 3},
        ],
    },
]


@pytest.mark.parametrize("streamed", [False, True])
def test_log_probabilities_are_where_llama_index_has_a_place_for_them(caller: Caller, streamed: bool) -> None:
    whole = answer("Hi!")
    whole["choices"][0]["logprobs"] = {"content": TOKENS}
    events = [chunk({"content": text}) for text in ("Hi", "!")] + [chunk({}, finish_reason="stop", usage=USAGE)]
    for event, token in zip(events, TOKENS, strict=False):
        event["choices"][0]["logprobs"] = {"content": [token]}
    llm = Scripted(events if streamed else whole).llm(logprobs=True, top_logprobs=2)
    responses = caller.stream_chat(llm, ask()) if streamed else [caller.chat(llm, ask())]
    places = [place for response in responses for place in response.logprobs or ()]
    assert [[(each.token, each.logprob) for each in place] for place in places] == [
        [("Hi", -0.1)],
        [("!", -0.2), (".", -2.0)],
    ]


@pytest.mark.parametrize("streamed", [False, True])
def test_thoughts_and_the_service_tier_are_counted(caller: Caller, streamed: bool) -> None:
    usage = {**USAGE, "completion_tokens_details": {"reasoning_tokens": 3}, "service_tier": "standard"}
    chunks = [chunk({"content": "Hi"}), chunk({}, finish_reason="stop", usage=usage)]
    response, _ = chat(caller, streamed, answer("Hi", usage=usage), chunks)
    assert response.additional_kwargs["reasoning_tokens"] == 3
    assert response.additional_kwargs["service_tier"] == "standard"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_usage_without_a_total_adds_up(caller: Caller, streamed: bool) -> None:
    usage = {"prompt_tokens": 12, "completion_tokens": 5}
    chunks = [chunk({"content": "Hi"}), chunk({}, finish_reason="stop", usage=usage)]
    response, _ = chat(caller, streamed, answer("Hi", usage=usage), chunks)
    assert response.additional_kwargs["total_tokens"] == 17


ODD: list[Any] = [
    {"type": "resource", "uri": "mcp://a", "content": {"type": "text", "text": "x"}},
    {"type": "resource_link", "uri": "mcp://b"},
    {"type": "file", "file_id": "f_1"},
    {"type": "input_audio", "input_audio": "UklGRg=="},
    {"type": "made_up_tomorrow", "x": 1},
]


@pytest.mark.parametrize("streamed", [False, True])
def test_parts_for_which_llama_index_has_no_block_are_kept(caller: Caller, streamed: bool) -> None:
    parts = [{"type": "text", "text": "Hi"}, *ODD]
    response, _ = chat(caller, streamed, answer(parts), stream({"content": parts}))
    assert response.message.content == "Hi"
    assert response.message.additional_kwargs["parts"] == ODD
    again = ChatMessage.model_validate_json(response.message.model_dump_json())
    assert again.additional_kwargs["parts"] == ODD


@pytest.mark.parametrize("arguments", ["null", "", "{}", '"{}"', '"null"'])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_without_arguments_is_called_in_every_spelling_of_none(
    caller: Caller, streamed: bool, arguments: str
) -> None:
    made = {"id": "aaaaaaaaa", "type": "function", "function": {"name": "clock", "arguments": arguments}}
    whole = answer("", calls=[made], finish_reason="tool_calls")
    response, llm = chat(caller, streamed, whole, stream({"tool_calls": [made]}, finish_reason="tool_calls"))
    (selection,) = llm.get_tool_calls_from_response(response)
    assert (selection.tool_name, selection.tool_kwargs) == ("clock", {})


@pytest.mark.parametrize("streamed", [False, True])
def test_arguments_that_are_encoded_twice_are_decoded(caller: Caller, streamed: bool) -> None:
    arguments = json.dumps(json.dumps({"city": "Rome"}))
    made = {"id": "aaaaaaaaa", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    whole = answer("", calls=[made], finish_reason="tool_calls")
    response, llm = chat(caller, streamed, whole, stream({"tool_calls": [made]}, finish_reason="tool_calls"))
    (selection,) = llm.get_tool_calls_from_response(response)
    assert selection.tool_kwargs == {"city": "Rome"}


@pytest.mark.parametrize("method", ["chat", "stream_chat", "complete", "stream_complete"])
def test_the_headers_of_an_answer_on_demand(caller: Caller, method: str) -> None:
    streamed = method.startswith("stream")
    run = caller.all if streamed else caller.one
    argument: Any = "Hello" if "complete" in method else ask()

    def facts(settings: dict[str, Any], **given: Any) -> dict[str, Any]:
        response = run(Scripted(stream("Hi") if streamed else answer()).llm(**settings), method, argument, **given)
        found: dict[str, Any] = (response[-1] if streamed else response).additional_kwargs
        return found

    for headers in (
        facts({"include_response_headers": True})["headers"],
        facts({}, include_response_headers=True)["headers"],
    ):
        assert headers["x-lava-request-id"] == "req_1"
    assert "headers" not in facts({})
    assert "headers" not in facts({"include_response_headers": True}, include_response_headers=False)
