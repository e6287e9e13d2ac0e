"""What goes wrong in today's integrations, as their users report it, and must be right here."""

from __future__ import annotations

import asyncio
import base64
import copy
from decimal import Decimal
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    CitationBlock,
    DocumentBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.tools import FunctionTool

from lava_mistral import InvalidRequestError, LavaError, ServerError
from lava_mistral.gateway import LocalGateway, WrongVectors
from llama_index_lava_mistral import ChatLavaMistral, LavaMistralEmbeddings
from tests.fakes.llama_index_scripted import USAGE, Caller, Scripted, answer, ask, call, chunk, stream


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


def fragment(arguments: str, **more: Any) -> dict[str, Any]:
    return {"tool_calls": [{"function": {"name": "", "arguments": arguments}, **more}]}


def begin(name: str, **more: Any) -> dict[str, Any]:
    return {"tool_calls": [{"function": {"name": name, "arguments": ""}, **more}]}


@pytest.mark.parametrize(
    "deltas",
    [
        [begin("weather", index=0, id="aaaaaaaaa"), fragment('{"city": ', index=0), fragment('"Rome"}', index=0)],
        [begin("weather", index=0, id="aaaaaaaaa"), fragment('{"city": "Rome"}', index=0, id="null")],
        [begin("weather", id="aaaaaaaaa"), fragment('{"city": "Rome"}', id=None)],
    ],
    ids=["index 0", "id null", "no index"],
)
def test_defect_5_fragments_of_a_tool_call_are_one_call(caller: Caller, deltas: list[Any]) -> None:
    llm = Scripted(stream(*deltas, finish_reason="tool_calls")).llm()
    last = caller.stream_chat(llm, ask())[-1]
    assert [(c.tool_id, c.tool_kwargs) for c in llm.get_tool_calls_from_response(last)] == [
        ("aaaaaaaaa", {"city": "Rome"})
    ]


def test_defect_5_parallel_calls_that_all_say_index_0_are_several(caller: Caller) -> None:
    calls = [call("weather", {"city": c}, id=i, index=0) for c, i in (("Rome", "aaaaaaaaa"), ("Oslo", "bbbbbbbbb"))]
    llm = Scripted(stream({"tool_calls": calls})).llm()
    last = caller.stream_chat(llm, ask())[-1]
    assert [c.tool_kwargs["city"] for c in llm.get_tool_calls_from_response(last)] == ["Rome", "Oslo"]


def test_defect_5_a_call_whose_id_is_null_gets_one(caller: Caller) -> None:
    llm = Scripted(stream({"tool_calls": [call("weather", {"city": "Rome"}, id="null")]})).llm()
    (made,) = llm.get_tool_calls_from_response(caller.stream_chat(llm, ask())[-1])
    assert len(made.tool_id) == 9
    assert made.tool_id.isalnum()


@pytest.mark.parametrize("id", ["call_01HZX4T5", "toolu_abc-123", "x", "0f3b" * 9])
def test_defect_6_any_tool_id_becomes_one_of_mistrals_on_both_sides(
    gateway: LocalGateway, caller: Caller, id: str
) -> None:
    history = [
        *ask("Weather in Rome?"),
        ChatMessage(
            role="assistant",
            blocks=[ToolCallBlock(tool_call_id=id, tool_name="weather", tool_kwargs={"city": "Rome"})],
        ),
        ChatMessage(role="tool", content="sunny", additional_kwargs={"tool_call_id": id}),
    ]
    llm = ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)
    for _ in range(2):
        caller.one(llm, "chat_with_tools", [FunctionTool.from_defaults(weather)], chat_history=history)
    bodies = [request.body["messages"] for request in gateway.requests]
    ids = {m["tool_call_id"] for b in bodies for m in b if m["role"] == "tool"}
    assert ids == {c["id"] for b in bodies for m in b for c in m.get("tool_calls") or ()}
    (only,) = ids
    assert len(only) == 9


ORPHAN = [
    *ask("Weather?"),
    ChatMessage(
        role="assistant", blocks=[ToolCallBlock(tool_call_id="a", tool_name="weather", tool_kwargs={"city": "Rome"})]
    ),
    *ask("Never mind. Say hello."),
]


def test_defect_7_an_orphan_call_is_named_before_it_is_sent(gateway: LocalGateway, caller: Caller) -> None:
    llm = ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)
    before = copy.deepcopy(ORPHAN)
    with pytest.raises(InvalidRequestError, match="'weather'"):
        caller.chat(llm, ORPHAN, repair_messages=False)
    assert gateway.requests == []
    assert caller.chat(llm, ORPHAN).message.content
    assert before == ORPHAN


def test_defect_7_a_user_message_after_a_tool_result(gateway: LocalGateway, caller: Caller) -> None:
    history = [
        *ORPHAN[:2],
        ChatMessage(role="tool", content="sunny", additional_kwargs={"tool_call_id": "a"}),
        *ask("So?"),
    ]
    llm = ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)
    with pytest.raises(InvalidRequestError, match="repair_messages"):
        caller.chat(llm, history, repair_messages=False)
    assert caller.chat(llm, history).message.content


def test_defect_8_text_and_thinking_beside_tool_calls_are_kept(caller: Caller) -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}], "closed": True}
    said = answer([thinking, {"type": "text", "text": "Looking."}], calls=[call("weather", {"city": "Rome"})])
    mistral = Scripted(said, answer("Sunny."))
    llm = mistral.llm()
    first = caller.chat(llm, ask())
    assert [type(b) for b in first.message.blocks] == [ThinkingBlock, TextBlock, ToolCallBlock]
    result = ChatMessage(role="tool", content="sunny", additional_kwargs={"tool_call_id": "a1B2c3D4e"})
    caller.chat(llm, [*ask(), first.message, result])
    sent = mistral.body["messages"][1]
    assert sent["content"] == [thinking, {"type": "text", "text": "Looking."}]
    assert sent["tool_calls"][0]["function"]["arguments"] == '{"city": "Rome"}'


def test_defect_9_thinking_is_not_lost_in_streams_and_on_replay(gateway: LocalGateway, caller: Caller) -> None:
    llm = ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url, model="magistral-small-latest")
    responses = caller.stream_chat(llm, ask("What is 2 + 2? The sum of 2 and 2 is 4."), prompt_mode="reasoning")
    thought = "".join(r.additional_kwargs.get("thinking_delta") or "" for r in responses)
    last = responses[-1].message
    (block,) = [b for b in last.blocks if isinstance(b, ThinkingBlock)]
    assert thought == block.content != ""
    assert thought not in (last.content or "")
    caller.chat(llm, [*ask("What is 2 + 2?"), last, *ask("Are you sure?")])
    replayed = gateway.requests[-1].body["messages"][1]["content"]
    assert replayed[0]["thinking"] == [{"type": "text", "text": thought}]


@pytest.mark.parametrize(
    "information",
    [
        {"signature": "EqQBCkgIARABGAIiQ"},
        {"id": "rs_1", "type": "reasoning", "encrypted_content": "gAAAAA", "status": None},
        {"thought_signature": b"\x01"},
    ],
    ids=["anthropic", "openai", "google"],
)
def test_defect_9_reasoning_of_other_providers_is_sent_as_text_alone(
    gateway: LocalGateway, caller: Caller, information: dict[str, Any]
) -> None:
    llm = ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)

    def foreign(content: str | None) -> ChatMessage:
        blocks = [ThinkingBlock(content=content, additional_information=information), TextBlock(text="4")]
        return ChatMessage(role="assistant", blocks=blocks)

    history = [*ask("2+2?"), foreign("Hm."), *ask("And?"), foreign(None), *ask("Sure?")]
    caller.chat(llm, history)
    messages = gateway.requests[-1].body["messages"]
    assert messages[1]["content"] == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
        {"type": "text", "text": "4"},
    ]
    assert messages[3]["content"] == "4"


@pytest.mark.parametrize(
    "spelled",
    [
        {"num_cached_tokens": 10},
        {"prompt_tokens_details": {"cached_tokens": 10}},
        {"prompt_token_details": {"cached_tokens": 10}},
    ],
    ids=lambda value: next(iter(value)),
)
def test_defect_11_cached_tokens_are_counted_in_the_cost(caller: Caller, spelled: dict[str, Any]) -> None:
    usage = {**USAGE, **spelled}
    full = Decimal("0.0000048")
    whole = caller.chat(Scripted(answer(usage=usage)).llm(), ask())
    streamed = caller.stream_chat(Scripted([chunk({"content": "a"}, finish_reason="stop", usage=usage)]).llm(), ask())
    for response in (whole, streamed[-1]):
        assert response.additional_kwargs["cached_tokens"] == 10
        assert Decimal(response.additional_kwargs["cost"]) < full


def test_defect_15_streamed_text_has_no_repeated_prefixes_and_no_new_lines(caller: Caller) -> None:
    words = ["You", " said", ":", "\n", "- hi"]
    parts = [{"content": [{"type": "text", "text": word}]} for word in words]
    for deltas in (words, parts):
        responses = caller.stream_chat(Scripted(stream(*deltas)).llm(), ask())
        assert "".join(r.delta or "" for r in responses) == "You said:\n- hi"
        assert responses[-1].message.content == "You said:\n- hi"
        assert [r.message.content for r in responses[:2]] == ["You", "You said"]


def test_defect_15_thinking_does_not_leak_into_deltas(caller: Caller) -> None:
    thinking = {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "secret thought"}]}]}
    responses = caller.stream_chat(Scripted(stream(thinking, "4")).llm(model="magistral-small-2509"), ask())
    assert "".join(r.delta or "" for r in responses) == "4"
    assert responses[-1].message.content == "4"


def test_defect_15_an_unknown_model_does_not_raise(caller: Caller) -> None:
    llm = Scripted().llm(model="ft:mistral-large-9999:me")
    assert llm.metadata.is_function_calling_model
    assert caller.chat(llm, ask()).message.content == "Hi"


@pytest.mark.parametrize("choices", [[], None], ids=["empty", "absent"])
def test_defect_15_an_answer_without_choices_is_an_error_that_says_so(caller: Caller, choices: Any) -> None:
    with pytest.raises(ServerError, match="without choices"):
        caller.chat(Scripted(answer(choices=choices)).llm(), ask())


def test_defect_15_a_chunk_without_choices_is_passed_over(caller: Caller) -> None:
    events = [{**chunk(), "choices": []}, *stream("Hi")]
    assert caller.stream_chat(Scripted(events).llm(), ask())[-1].message.content == "Hi"


def test_defect_15_the_history_is_not_changed(caller: Caller) -> None:
    history = ask("Before")
    before = copy.deepcopy(history)
    caller.one(Scripted().llm(), "chat_with_tools", [], user_msg="Now", chat_history=history)
    assert history == before


def test_defect_15_no_hidden_limit_on_the_answer(caller: Caller) -> None:
    mistral = Scripted()
    caller.chat(mistral.llm(), ask())
    assert "max_tokens" not in mistral.body


def test_defect_15_sounds_documents_and_citations_do_not_raise(caller: Caller) -> None:
    mistral = Scripted()
    blocks = [
        TextBlock(text="See."),
        AudioBlock(audio=b"ID3" + bytes(9)),
        DocumentBlock(data=b"%PDF-1.4"),
        CitationBlock(cited_content="Rome", source="s", title="t", additional_location_info={}),
    ]
    caller.chat(mistral.llm(), [ChatMessage(role="user", blocks=blocks)])
    kinds = [part["type"] for part in mistral.body["messages"][0]["content"]]
    assert kinds == ["text", "input_audio", "document_url", "text"]


def test_defect_16_a_pdf_becomes_what_mistral_takes(gateway: LocalGateway, caller: Caller) -> None:
    pdf = b"%PDF-1.4\n1 0 obj<<>>endobj\n%%EOF"
    llm = ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)
    message = ChatMessage(role="user", blocks=[TextBlock(text="Read."), DocumentBlock(data=pdf, title="a.pdf")])
    caller.chat(llm, [message])
    assert gateway.requests[0].status == 200
    assert gateway.requests[0].body["messages"][0]["content"][1] == {
        "type": "document_url",
        "document_url": f"data:application/pdf;base64,{base64.b64encode(pdf).decode()}",
        "document_name": "a.pdf",
    }


def test_defect_20_finish_reason_error_is_an_error(caller: Caller) -> None:
    with pytest.raises(LavaError, match="'error'"):
        caller.chat(Scripted(answer("Hal", finish_reason="error")).llm(), ask())
    with pytest.raises(LavaError, match="'error'") as caught:
        caller.stream_chat(Scripted(stream("Hal", finish_reason="error")).llm(), ask())
    assert caught.value.partial.text == "Hal"


def embeddings(gateway: LocalGateway, **settings: Any) -> LavaMistralEmbeddings:
    return LavaMistralEmbeddings(api_key=gateway.secret_key, base_url=gateway.base_url, **settings)


def test_defect_26_vectors_go_by_their_index(gateway: LocalGateway, caller: Caller) -> None:
    texts = ["rivers", "mountains", "cities"]
    expected = [embeddings(gateway).get_text_embedding(text) for text in texts]
    gateway.queue(WrongVectors("shuffled"))
    assert caller.one(embeddings(gateway), "get_text_embedding_batch", texts) == expected


@pytest.mark.parametrize("how", ["short", "duplicated", "empty"])
def test_defect_26_a_short_answer_never_moves_vectors(gateway: LocalGateway, caller: Caller, how: Any) -> None:
    texts = ["rivers", "mountains", "cities"]
    expected = [embeddings(gateway).get_text_embedding(text) for text in texts]
    gateway.queue(WrongVectors(how))
    assert caller.one(embeddings(gateway, max_retries=1), "get_text_embedding_batch", texts) == expected
    gateway.queue(WrongVectors(how))
    with pytest.raises(LavaError):
        caller.one(embeddings(gateway, max_retries=0), "get_text_embedding_batch", texts)


def test_defect_28_aget_text_embedding_works_and_does_not_block() -> None:
    with LocalGateway(latency=0.2) as gateway:
        model = embeddings(gateway)

        async def run() -> tuple[list[float], bool]:
            task = asyncio.ensure_future(model.aget_text_embedding("a"))
            await asyncio.sleep(0.05)
            free = not task.done()
            return await task, free

        vector, free = asyncio.run(run())
        assert free
        assert vector == model.get_text_embedding("a")
