"""One table of wire examples for the converters of both frameworks."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from langchain_lava_mistral import _from_wire as langchain_from
from langchain_lava_mistral import _to_wire as langchain
from lava_mistral.calls.responses import Completion
from lava_mistral.mistral.turn import Turn
from llama_index_lava_mistral import _from_wire, _to_wire
from tests.fakes.answers import whole_turn
from tests.fakes.wire_examples import meaning

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(16))
PDF = b"%PDF-1.4\n%%EOF"
MP3 = b"ID3" + bytes(range(16))
WEB = "https://example.invalid/"


class Example(NamedTuple):
    """One message, as each framework's users write it, and what goes on the wire."""

    wire: dict[str, Any]
    langchain: BaseMessage
    llama_index: ChatMessage


def to_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{to_base64(content)}"


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def call(arguments: str = '{"a": 1}', id: str = "abcDEF123") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}}


THINKING = {"type": "thinking", "thinking": [text("Hm.")]}

SENT = {
    "a system message": Example(
        {"role": "system", "content": "Be brief."},
        SystemMessage("Be brief."),
        ChatMessage(role="system", content="Be brief."),
    ),
    "a question": Example(
        {"role": "user", "content": "Why?"}, HumanMessage("Why?"), ChatMessage(role="user", content="Why?")
    ),
    "texts and a picture by URL": Example(
        {"role": "user", "content": [text("See:"), image(WEB + "a.png"), text("Well?")]},
        HumanMessage([text("See:"), {"type": "image", "url": WEB + "a.png"}, text("Well?")]),
        ChatMessage(blocks=[TextBlock(text="See:"), ImageBlock(url=WEB + "a.png"), TextBlock(text="Well?")]),
    ),
    "a picture": Example(
        {"role": "user", "content": [image(data("image/png", PNG))]},
        HumanMessage([{"type": "image", "base64": to_base64(PNG), "mime_type": "image/png"}]),
        ChatMessage(blocks=[ImageBlock(image=PNG)]),
    ),
    "a PDF": Example(
        {"role": "user", "content": [{"type": "document_url", "document_url": data("application/pdf", PDF)}]},
        HumanMessage([{"type": "file", "base64": to_base64(PDF), "mime_type": "application/pdf"}]),
        ChatMessage(blocks=[DocumentBlock(data=PDF)]),
    ),
    "a PDF by URL": Example(
        {"role": "user", "content": [{"type": "document_url", "document_url": WEB + "a.pdf"}]},
        HumanMessage([{"type": "file", "url": WEB + "a.pdf", "mime_type": "application/pdf"}]),
        ChatMessage(blocks=[DocumentBlock(url=WEB + "a.pdf")]),
    ),
    "a sound": Example(
        {"role": "user", "content": [{"type": "input_audio", "input_audio": to_base64(MP3)}]},
        HumanMessage([{"type": "audio", "base64": to_base64(MP3), "mime_type": "audio/mpeg"}]),
        ChatMessage(blocks=[AudioBlock(audio=MP3)]),
    ),
    "a text file": Example(
        {"role": "user", "content": "a.txt:\nHello"},
        HumanMessage([{"type": "file", "base64": to_base64(b"Hello"), "mime_type": "text/plain", "filename": "a.txt"}]),
        ChatMessage(blocks=[DocumentBlock(data=b"Hello", title="a.txt", document_mimetype="text/plain")]),
    ),
    "an answer": Example(
        {"role": "assistant", "content": "So."}, AIMessage("So."), ChatMessage(role="assistant", content="So.")
    ),
    "a tool call beside text": Example(
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call()]},
        AIMessage("Let me see.", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "abcDEF123"}]),
        ChatMessage(
            role="assistant",
            blocks=[
                TextBlock(text="Let me see."),
                ToolCallBlock(tool_call_id="abcDEF123", tool_name="f", tool_kwargs={"a": 1}),
            ],
        ),
    ),
    "thinking of another provider": Example(
        {"role": "assistant", "content": [THINKING, text("So.")]},
        AIMessage([{"type": "reasoning", "reasoning": "Hm."}, text("So.")]),
        ChatMessage(
            role="assistant",
            blocks=[
                ThinkingBlock(content="Hm.", additional_information={"signature": "another's", "id": "rs_1"}),
                TextBlock(text="So."),
            ],
        ),
    ),
    "a tool's result": Example(
        {"role": "tool", "tool_call_id": "abcDEF123", "content": "42"},
        ToolMessage("42", tool_call_id="abcDEF123"),
        ChatMessage(role="tool", content="42", additional_kwargs={"tool_call_id": "abcDEF123"}),
    ),
    "a picture as a tool's result": Example(
        {"role": "tool", "tool_call_id": "abcDEF123", "content": [image(data("image/png", PNG))]},
        ToolMessage([{"type": "image", "base64": to_base64(PNG), "mime_type": "image/png"}], tool_call_id="abcDEF123"),
        ChatMessage(role="tool", blocks=[ImageBlock(image=PNG)], additional_kwargs={"tool_call_id": "abcDEF123"}),
    ),
    "a prefix": Example(
        {"role": "assistant", "content": "Sure:", "prefix": True},
        AIMessage("Sure:", additional_kwargs={"prefix": True}),
        ChatMessage(role="assistant", content="Sure:", additional_kwargs={"prefix": True}),
    ),
}

ANSWERED: dict[str, dict[str, Any]] = {
    "text": {"role": "assistant", "content": "Hello"},
    "nothing": {"role": "assistant", "content": ""},
    "a call": {"role": "assistant", "content": "", "tool_calls": [call()]},
    "two calls beside text": {
        "role": "assistant",
        "content": "Both.",
        "tool_calls": [call(id="aaaaaaaaa"), call("{}", id="bbbbbbbbb")],
    },
    "a call with arguments that are no JSON": {"role": "assistant", "content": "", "tool_calls": [call("{a:")]},
    "thinking": {
        "role": "assistant",
        "content": [{**THINKING, "closed": True}, text("So.")],
    },
    "thinking and a call": {
        "role": "assistant",
        "content": [{**THINKING, "closed": True}, text("Let me see.")],
        "tool_calls": [call()],
    },
    "thinking in between": {"role": "assistant", "content": [text("One. "), THINKING, text("Two.")]},
    "references": {
        "role": "assistant",
        "content": [text("So"), {"type": "reference", "reference_ids": [0, "doc"]}, text(" it is.")],
    },
}


@pytest.mark.parametrize("example", SENT.values(), ids=SENT.keys())
def test_both_send_the_same(example: Example) -> None:
    assert meaning(langchain.to_wire([example.langchain])) == meaning([example.wire])
    assert meaning(_to_wire.to_wire([example.llama_index])) == meaning([example.wire])


@pytest.mark.parametrize("wire", ANSWERED.values(), ids=ANSWERED.keys())
def test_both_replay_an_answer_as_it_was(wire: dict[str, Any]) -> None:
    turn = whole_turn(wire, "stop")
    for replayed in (
        langchain.to_wire([langchain_message(turn)]),
        _to_wire.to_wire([_from_wire.from_turn(turn)]),
    ):
        assert comparable(replayed) == comparable([wire])


def langchain_message(turn: Turn) -> Any:
    answer = Completion("", "mistral-small-2603", 0, (turn,), None, None, {})
    return langchain_from.to_result(answer).generations[0].message


def comparable(messages: Any) -> Any:
    """By meaning, but with arguments as they are where they are no JSON."""
    for message in messages:
        for made in message.get("tool_calls") or ():
            if made["function"]["arguments"] == "{a:":
                made["function"] = {**made["function"], "arguments": {"as it was": "{a:"}}
    return meaning(messages)


@pytest.mark.parametrize("wire", ANSWERED.values(), ids=ANSWERED.keys())
def test_both_say_the_same_of_an_answer(wire: dict[str, Any]) -> None:
    turn = whole_turn(wire, "stop")
    one, other = langchain_message(turn), _from_wire.from_turn(turn)
    assert (one.text, other.content) == (turn.text, turn.text)
    thinking = [block.content or "" for block in other.blocks if isinstance(block, ThinkingBlock)]
    assert "".join(thinking) == turn.thinking
    calls = [block for block in other.blocks if isinstance(block, ToolCallBlock)]
    assert [(c.tool_call_id, c.tool_name) for c in calls] == [
        (c["id"], c["name"]) for c in (*one.tool_calls, *one.invalid_tool_calls)
    ]
