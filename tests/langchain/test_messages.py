"""LangChain's messages on Mistral's wire: one row a block, whatever provider it was written for."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from lava_mistral.errors import InvalidRequestError
from tests.langchain.scenario import USAGE, Caller, Script, answer, call


def sent(*messages: BaseMessage) -> list[Any]:
    """The messages on the wire, between a question and another."""
    asked = Script(answer())
    asked.model().invoke([HumanMessage("?"), *messages, HumanMessage("!")])
    assert asked.body["messages"][0] == {"role": "user", "content": "?"}
    assert asked.body["messages"][-1] == {"role": "user", "content": "!"}
    return list(asked.body["messages"][1:-1])


PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n....").decode()
PDF = base64.b64encode(b"%PDF-1.7 ....").decode()
WAV = base64.b64encode(b"RIFF....WAVEfmt ").decode()
NOTES = base64.b64encode("héllo".encode()).decode()

IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
IMAGE_BY_URL = {"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}
DOCUMENT = {"type": "document_url", "document_url": f"data:application/pdf;base64,{PDF}"}
NAMED = {**DOCUMENT, "document_name": "a.pdf"}
DOCUMENT_BY_URL = {"type": "document_url", "document_url": "https://x.org/a.pdf"}
AUDIO = {"type": "input_audio", "input_audio": WAV}

INPUTS: dict[str, tuple[Any, Any]] = {
    "string": ("hi", {"type": "text", "text": "hi"}),
    "text": ({"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "hi"}),
    "text without type": ({"text": "hi"}, {"type": "text", "text": "hi"}),
    "plain text": (
        {"type": "text-plain", "text": "body", "mime_type": "text/plain", "title": "T", "context": "C"},
        {"type": "text", "text": "T\nC:\nbody"},
    ),
    "plain text, base64": (
        {"type": "text-plain", "base64": NOTES, "mime_type": "text/plain"},
        {"type": "text", "text": "héllo"},
    ),
    "plain text, url": (
        {"type": "text-plain", "url": "https://x.org/a.txt", "mime_type": "text/plain"},
        {"type": "document_url", "document_url": "https://x.org/a.txt"},
    ),
    "image, base64": ({"type": "image", "base64": PNG, "mime_type": "image/png"}, IMAGE),
    "image, url": ({"type": "image", "url": "https://x.org/a.png"}, IMAGE_BY_URL),
    "image, file": ({"type": "image", "file_id": "f1"}, {"type": "file", "file_id": "f1"}),
    "image, OpenAI": ({"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}, IMAGE_BY_URL),
    "image, OpenAI with detail": (
        {"type": "image_url", "image_url": {"url": "https://x.org/a.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://x.org/a.png", "detail": "low"}},
    ),
    "image, Mistral": ({"type": "image_url", "image_url": "https://x.org/a.png"}, IMAGE_BY_URL),
    "image, Anthropic": (
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        IMAGE,
    ),
    "image, Anthropic by url": (
        {"type": "image", "source": {"type": "url", "url": "https://x.org/a.png"}},
        IMAGE_BY_URL,
    ),
    "image, LangChain 0": (
        {"type": "image", "source_type": "base64", "data": PNG, "mime_type": "image/png"},
        IMAGE,
    ),
    "pdf, base64": ({"type": "file", "base64": PDF, "mime_type": "application/pdf"}, DOCUMENT),
    "pdf, named": (
        {"type": "file", "base64": PDF, "mime_type": "application/pdf", "extras": {"filename": "a.pdf"}},
        NAMED,
    ),
    "pdf, url": (
        {"type": "file", "url": "https://x.org/a.pdf", "mime_type": "application/pdf"},
        DOCUMENT_BY_URL,
    ),
    "pdf, OpenAI": (
        {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}},
        NAMED,
    ),
    "pdf, Anthropic": (
        {
            "type": "document",
            "title": "a.pdf",
            "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
        },
        NAMED,
    ),
    "pdf, Google": ({"type": "media", "mime_type": "application/pdf", "data": PDF}, DOCUMENT),
    "pdf, Mistral": ({"type": "document_url", "document_url": "https://x.org/a.pdf"}, DOCUMENT_BY_URL),
    "document, Anthropic's text": (
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "body"}},
        {"type": "text", "text": "body"},
    ),
    "document, Anthropic's content": (
        {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "body"}]}},
        {"type": "text", "text": "body"},
    ),
    "text file": (
        {"type": "file", "base64": NOTES, "mime_type": "text/markdown", "filename": "n.md"},
        {"type": "text", "text": "n.md:\nhéllo"},
    ),
    "uploaded file": ({"type": "file", "file_id": "f1"}, {"type": "file", "file_id": "f1"}),
    "uploaded file, OpenAI": ({"type": "file", "file": {"file_id": "f1"}}, {"type": "file", "file_id": "f1"}),
    "audio": ({"type": "audio", "base64": WAV, "mime_type": "audio/wav"}, AUDIO),
    "audio, url": (
        {"type": "audio", "url": "https://x.org/a.wav"},
        {"type": "input_audio", "input_audio": "https://x.org/a.wav"},
    ),
    "audio, OpenAI": ({"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}}, AUDIO),
    "audio, Mistral": ({"type": "input_audio", "input_audio": WAV}, AUDIO),
    "reference": (
        {"type": "reference", "reference_ids": [1, 2], "index": "lc_ref_0"},
        {"type": "reference", "reference_ids": [1, 2]},
    ),
    "non standard": (
        {"type": "non_standard", "value": {"type": "reference", "reference_ids": [3]}},
        {"type": "reference", "reference_ids": [3]},
    ),
}


@pytest.mark.parametrize(("block", "part"), INPUTS.values(), ids=INPUTS)
def test_a_block_becomes_mistrals_part(block: Any, part: Any) -> None:
    given = {**block} if isinstance(block, dict) else block

    assert sent(HumanMessage([block])) == [{"role": "user", "content": [part]}]
    assert block == given


REFUSED: dict[str, tuple[Any, str]] = {
    "video": ({"type": "video", "url": "https://x.org/a.mp4"}, "not video"),
    "video file": ({"type": "file", "base64": "AAAA", "mime_type": "video/mp4"}, "not video/mp4"),
    "archive": ({"type": "file", "base64": "AAAA", "mime_type": "application/zip"}, "not application/zip"),
    "nothing in it": ({"type": "image"}, "base64, url or file_id"),
    "no url": ({"type": "image_url", "image_url": {}}, "needs a URL"),
    "unknown": ({"type": "hologram"}, "'hologram'"),
    "no type": ({"data": 1}, "type None"),
}


@pytest.mark.parametrize(("block", "words"), REFUSED.values(), ids=REFUSED)
def test_what_mistral_does_not_take_is_refused_in_a_sentence(block: Any, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        sent(HumanMessage([block]))


THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
SAID: dict[str, tuple[AIMessage, Any]] = {
    "text": (AIMessage("hi"), "hi"),
    "Mistral's thinking": (AIMessage([THOUGHT, "hi"]), [THOUGHT, {"type": "text", "text": "hi"}]),
    "an open thought": (AIMessage([{**THOUGHT, "closed": False}]), [{**THOUGHT, "closed": False}]),
    "standard reasoning": (AIMessage([{"type": "reasoning", "reasoning": "hm"}]), [THOUGHT]),
    "reasoning in pieces": (
        AIMessage([{"type": "reasoning", "reasoning": "a"}, {"type": "reasoning", "reasoning": "b"}]),
        [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
    ),
    "Anthropic's thinking": (
        AIMessage(
            [{"type": "thinking", "thinking": "hm", "signature": "s"}],
            response_metadata={"model_provider": "anthropic"},
        ),
        [THOUGHT],
    ),
    "Mistral's thinking by another integration": (
        AIMessage([{**THOUGHT, "signature": "s"}], response_metadata={"model_provider": "mistralai"}),
        [{**THOUGHT, "signature": "s"}],
    ),
    "Mistral's thinking in two blocks": (
        AIMessage(
            [{**THOUGHT, "closed": False}, {**THOUGHT, "closed": True, "signature": "s"}],
            response_metadata={"model_provider": "mistralai"},
        ),
        [
            {
                "type": "thinking",
                "thinking": [*THOUGHT["thinking"], *THOUGHT["thinking"]],
                "signature": "s",
            }
        ],
    ),
    "thinking of nobody known": (AIMessage([{**THOUGHT, "signature": "s"}]), [THOUGHT]),
    "OpenAI's text": (AIMessage([{"type": "output_text", "text": "hi", "annotations": []}]), ["hi"]),
    "OpenAI's refusal": (AIMessage([{"type": "refusal", "refusal": "No."}]), ["No."]),
    "Anthropic's redacted thinking": (AIMessage([{"type": "redacted_thinking", "data": "x"}, "hi"]), ["hi"]),
    "OpenAI's reasoning": (
        AIMessage([{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "id": "rs_1"}]),
        [THOUGHT],
    ),
    "OpenAI's encrypted reasoning": (
        AIMessage([{"type": "reasoning", "summary": [], "encrypted_content": "x"}, "hi"]),
        ["hi"],
    ),
    "Bedrock's reasoning": (
        AIMessage([{"type": "reasoning_content", "reasoning_content": {"text": "hm", "signature": "s"}}]),
        [THOUGHT],
    ),
    "thinking with a reference": (
        AIMessage([{"type": "thinking", "thinking": ["a", {"type": "reference", "reference_ids": [1], "index": 1}]}]),
        [
            {
                "type": "thinking",
                "thinking": [{"type": "text", "text": "a"}, {"type": "reference", "reference_ids": [1]}],
            }
        ],
    ),
    "calls inside the content": (
        AIMessage([{"type": "tool_use", "id": "1", "name": "f", "input": {}}, "hi"]),
        ["hi"],
    ),
    "another provider's own block": (AIMessage([{"type": "server_tool_use", "id": "1"}, "hi"]), ["hi"]),
    "annotated text": (
        AIMessage(
            [
                {
                    "type": "text",
                    "text": "hi",
                    "annotations": [
                        {"type": "citation", "extras": {"reference_ids": [1]}},
                        {"type": "citation", "url": "https://x.org"},
                        {"type": "non_standard_annotation", "value": {"reference_ids": [2]}},
                    ],
                }
            ]
        ),
        ["hi", {"type": "reference", "reference_ids": [1]}, {"type": "reference", "reference_ids": [2]}],
    ),
    "langchain-mistralai's citation": (
        AIMessage([{"type": "text", "text": "hi", "reference": {"reference_ids": [1]}}]),
        ["hi", {"type": "reference", "reference_ids": [1]}],
    ),
}


@pytest.mark.parametrize(("message", "content"), SAID.values(), ids=SAID)
def test_what_an_assistant_said_is_replayed(message: AIMessage, content: Any) -> None:
    parts = [{"type": "text", "text": p} if isinstance(p, str) else p for p in content]
    assert sent(message) == [{"role": "assistant", "content": content if isinstance(content, str) else parts}]


ROLES: dict[str, tuple[BaseMessage, Any]] = {
    "user": (HumanMessage("u", name="Ann"), {"role": "user", "content": "u"}),
    "chunk": (AIMessageChunk("a"), {"role": "assistant", "content": "a"}),
    "chat, user": (ChatMessage("u", role="human"), {"role": "user", "content": "u"}),
    "chat, system": (ChatMessage("s", role="developer"), {"role": "system", "content": "s"}),
    "system": (SystemMessage("s"), {"role": "system", "content": "s"}),
    "chat, assistant": (ChatMessage("a", role="assistant"), {"role": "assistant", "content": "a"}),
}


@pytest.mark.parametrize(("message", "wire"), ROLES.values(), ids=ROLES)
def test_each_kind_of_message_has_its_role(message: BaseMessage, wire: Any) -> None:
    assert sent(message) == [wire]


@pytest.mark.parametrize(
    ("result", "named"),
    [(ToolMessage("r", tool_call_id="abcdefghi", name="f"), True), (FunctionMessage("r", name="f"), True)],
    ids=["tool", "function"],
)
def test_a_result_follows_its_call(result: BaseMessage, named: bool) -> None:
    asking = AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "abcdefghi"}])
    _, got = sent(asking, result, AIMessage("a"))[:2]
    assert got == {"role": "tool", "content": "r", "name": "f", "tool_call_id": "abcdefghi"}


def test_a_class_of_ones_own_is_sent_as_its_base() -> None:
    class Customer(HumanMessage):
        type: Any = "customer"

    class Reply(AIMessage):
        type: Any = "reply"

    assert [(each["role"], each["content"]) for each in sent(Customer("a"), Reply("b"))] == [
        ("user", "a"),
        ("assistant", "b"),
    ]


@pytest.mark.parametrize("message", [ChatMessage("x", role="narrator"), RemoveMessage(id="1")])
def test_a_message_without_a_role_at_mistral_is_refused(message: BaseMessage) -> None:
    with pytest.raises(InvalidRequestError, match=r"narrator|RemoveMessage"):
        sent(message)


def test_calls_are_replayed_with_the_broken_ones() -> None:
    message = AIMessage(
        "",
        tool_calls=[{"name": "f", "args": {"city": "Zürich"}, "id": "aaaaaaaa1"}],
        invalid_tool_calls=[
            {"name": "g", "args": "{oops", "id": "aaaaaaaa2", "error": "bad", "type": "invalid_tool_call"}
        ],
    )
    results = [ToolMessage("r", tool_call_id="aaaaaaaa1"), ToolMessage("no", tool_call_id="aaaaaaaa2")]
    assert sent(message, *results, AIMessage("a"))[0] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "aaaaaaaa1", "type": "function", "function": {"name": "f", "arguments": '{"city": "Zürich"}'}},
            {"id": "aaaaaaaa2", "type": "function", "function": {"name": "g", "arguments": "{oops"}},
        ],
    }


def test_anthropics_tool_results_leave_the_users_turn() -> None:
    asking = AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "abcdefghi"}])
    result = {"type": "tool_result", "tool_use_id": "abcdefghi", "content": [{"type": "text", "text": "r"}]}
    answered = {"role": "tool", "content": "r", "tool_call_id": "abcdefghi"}

    assert sent(asking, HumanMessage([result]), AIMessage("a"))[1] == answered
    asked = Script(answer())
    asked.model(repair_messages=True).invoke([HumanMessage("?"), asking, HumanMessage([result, "go on"])])
    assert answered in asked.body["messages"]
    assert asked.body["messages"][-1] == {"role": "user", "content": [{"type": "text", "text": "go on"}]}


def test_an_empty_text_is_no_part() -> None:
    assert sent(HumanMessage(["", {"type": "text", "text": ""}, "hi"])) == [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    ]


def test_arguments_that_are_no_object_are_kept_under_their_id(caller: Caller) -> None:
    message = caller.invoke(Script(answer("", calls=[call("f", "[1, 2", id="abcdefghi")])).model(), "?")

    assert message.tool_calls == []
    (broken,) = message.invalid_tool_calls
    assert (broken["name"], broken["args"], broken["id"]) == ("f", "[1, 2", "abcdefghi")
    assert "JSON object" in (broken["error"] or "")


@pytest.mark.parametrize(
    ("usage", "details"),
    [
        ({}, None),
        ({"num_cached_tokens": 7}, {"cache_read": 7}),
        ({"prompt_tokens_details": {"cached_tokens": 0}}, {"cache_read": 0}),
        ({"prompt_token_details": {"cached_tokens": 3}, "num_cached_tokens": None}, {"cache_read": 3}),
        ({"prompt_audio_seconds": 4}, {"audio_seconds": 4}),
    ],
)
def test_usage_names_cached_tokens_wherever_mistral_counts_them(usage: Any, details: Any, caller: Caller) -> None:
    got = caller.invoke(Script(answer(usage={**USAGE, **usage})).model(), "?").usage_metadata

    assert (got["input_tokens"], got["output_tokens"]) == (12, 5)
    assert got.get("input_token_details") == details
