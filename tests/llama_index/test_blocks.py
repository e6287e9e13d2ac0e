"""Messages to the wire: every role, every block, and replay of the model's own turns."""

from __future__ import annotations

import base64
import copy
import io
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)

from lava_mistral import InvalidRequestError
from tests.fakes.llama_index_scripted import Scripted, answer, ask

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PDF = b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF\n"
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sent(history: list[ChatMessage]) -> Any:
    """The messages of a conversation as they are sent."""
    mistral = Scripted()
    mistral.llm().chat(history)
    return mistral.body["messages"]


def wire(*blocks: Any, role: str = "user", **kwargs: Any) -> Any:
    """A message as it is sent, in a conversation that has a place for it."""
    message = ChatMessage(role=role, blocks=list(blocks), **kwargs)
    match role:
        case "assistant" | "chatbot" | "model":
            results = [result(call.tool_call_id) for call in blocks if isinstance(call, ToolCallBlock)]
            older = kwargs.get("additional_kwargs", {}).get("tool_calls")
            if older and not results:
                results = [result("x1x1x1x1x")]
            if kwargs.get("additional_kwargs", {}).get("prefix"):
                return sent([*ask(), message])[1]
            return sent([*ask(), message, *(results or ask())])[1]
        case "tool" | "function":
            call = ToolCallBlock(tool_call_id="abcabcabc", tool_name="f", tool_kwargs={})
            message.additional_kwargs.setdefault("tool_call_id", "abcabcabc")
            return sent([*ask(), ChatMessage(role="assistant", blocks=[call]), message])[2]
        case "user":
            return sent([message])[0]
        case _:
            return sent([message, *ask()])[0]


def result(id: Any) -> ChatMessage:
    return ChatMessage(role="tool", content="done", additional_kwargs={"tool_call_id": id})


def answered(parts: list[Any]) -> ChatMessage:
    """The message for an answer with these parts."""
    return Scripted(answer(parts)).llm().chat(ask()).message


def content(*blocks: Any, role: str = "user") -> Any:
    return wire(*blocks, role=role)["content"]


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        (MessageRole.SYSTEM, "system"),
        (MessageRole.DEVELOPER, "system"),
        (MessageRole.USER, "user"),
        (MessageRole.ASSISTANT, "assistant"),
        (MessageRole.CHATBOT, "assistant"),
        (MessageRole.MODEL, "assistant"),
        (MessageRole.TOOL, "tool"),
        (MessageRole.FUNCTION, "tool"),
    ],
)
def test_every_role_has_its_place(role: MessageRole, expected: str) -> None:
    message = wire(TextBlock(text="x"), role=role.value)
    assert (message["role"], message["content"]) == (expected, "x")


def test_every_role_of_llama_index_is_in_the_table_above() -> None:
    assert len(MessageRole) == 8


def test_one_text_is_plain_text_and_several_stay_apart() -> None:
    assert content(TextBlock(text="a")) == "a"
    assert content(TextBlock(text="a"), TextBlock(text=""), TextBlock(text="b")) == [
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
    ]


IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{b64(PNG)}"}}


@pytest.mark.parametrize("given", [PNG, b64(PNG).encode(), io.BytesIO(PNG)], ids=["bytes", "base64", "file"])
def test_a_picture_by_content(given: Any) -> None:
    assert content(ImageBlock(image=given)) == [IMAGE]


def test_a_picture_by_path(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    assert content(ImageBlock(path=path)) == [IMAGE]


def test_a_picture_by_url_is_not_downloaded() -> None:
    block = ImageBlock(url="https://example.invalid/a.png", detail="low")
    assert content(TextBlock(text="look"), block) == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "https://example.invalid/a.png", "detail": "low"}},
    ]
    assert content(ImageBlock(url=IMAGE["image_url"]["url"])) == [IMAGE]


def test_a_picture_of_no_known_kind_is_refused_with_advice() -> None:
    with pytest.raises(InvalidRequestError, match="image_mimetype"):
        content(ImageBlock(image=b"\x00\x01\x02"))
    url = content(ImageBlock(image=b"\x00\x01\x02", image_mimetype="image/tiff"))[0]["image_url"]["url"]
    assert url.startswith("data:image/tiff;base64,")


@pytest.mark.parametrize("block", [ImageBlock(), AudioBlock(), DocumentBlock()], ids=lambda b: b.block_type)
def test_a_block_with_nothing_in_it_is_named(block: Any) -> None:
    with pytest.raises(InvalidRequestError, match=type(block).__name__):
        content(block)


@pytest.mark.parametrize("given", [WAV, io.BytesIO(WAV)], ids=["bytes", "file"])
def test_a_sound_is_base64(given: Any) -> None:
    assert content(AudioBlock(audio=given)) == [{"type": "input_audio", "input_audio": b64(WAV)}]


def test_a_sound_by_path_and_by_url(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(WAV)
    by_content = [{"type": "input_audio", "input_audio": b64(WAV)}]
    assert content(AudioBlock(path=path)) == by_content
    assert content(AudioBlock(url=f"data:audio/wav;base64,{b64(WAV)}")) == by_content
    url = "https://example.invalid/a.wav"
    assert content(AudioBlock(url=url)) == [{"type": "input_audio", "input_audio": url}]


PDF_URL = f"data:application/pdf;base64,{b64(PDF)}"


def test_a_pdf_by_content_path_and_url(tmp_path: Path) -> None:
    path = tmp_path / "report.pdf"
    path.write_bytes(PDF)
    assert content(DocumentBlock(data=PDF)) == [{"type": "document_url", "document_url": PDF_URL}]
    assert content(DocumentBlock(data=io.BytesIO(PDF), document_mimetype="application/pdf")) == [
        {"type": "document_url", "document_url": PDF_URL}
    ]
    assert content(DocumentBlock(path=path)) == [
        {"type": "document_url", "document_url": PDF_URL, "document_name": "report.pdf"}
    ]
    assert content(DocumentBlock(url="https://example.invalid/a.pdf", title="Report")) == [
        {"type": "document_url", "document_url": "https://example.invalid/a.pdf", "document_name": "Report"}
    ]
    assert content(DocumentBlock(url=PDF_URL)) == [{"type": "document_url", "document_url": PDF_URL}]


def test_a_text_document_becomes_text(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("# Grüße\n")
    assert content(DocumentBlock(path=path)) == "notes.md:\n# Grüße\n"


def test_a_document_that_mistral_does_not_read_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="application/zip"):
        content(DocumentBlock(data=b"PK\x03\x04\x00\x00", document_mimetype="application/zip"))


def test_a_video_is_refused_with_a_sentence() -> None:
    with pytest.raises(InvalidRequestError, match=r"not video.*frames"):
        content(TextBlock(text="see"), VideoBlock(url="https://example.invalid/a.mp4"))


def test_cache_points_are_ignored() -> None:
    assert content(TextBlock(text="a"), CachePoint(cache_control=CacheControl(type="ephemeral"))) == "a"


def test_citable_content_is_sent_under_its_title() -> None:
    block = CitableBlock(title="Atlas", source="a.txt", content=[TextBlock(text="Paris is in France.")])
    assert content(block) == [
        {"type": "text", "text": "Atlas (a.txt):"},
        {"type": "text", "text": "Paris is in France."},
    ]


def test_a_citation_from_elsewhere_is_its_text_for_a_user_and_nothing_beside_an_answer() -> None:
    block = CitationBlock(cited_content="Paris", source="s", title="t", additional_location_info={"page": 3})
    assert content(block) == "Paris"
    assert content(TextBlock(text="It is Paris."), block, role="assistant") == "It is Paris."


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_message_takes_text_alone(role: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"A {role} message takes text alone"):
        content(ImageBlock(image=PNG), role=role)


def test_a_tool_result_with_a_picture() -> None:
    message = wire(
        TextBlock(text="the chart"),
        ImageBlock(image=PNG),
        role="tool",
        additional_kwargs={"tool_call_id": "abcabcabc", "name": "chart"},
    )
    assert message == {
        "role": "tool",
        "tool_call_id": "abcabcabc",
        "name": "chart",
        "content": [{"type": "text", "text": "the chart"}, IMAGE],
    }


def test_tool_calls_by_block_with_text_or_a_dictionary_as_arguments() -> None:
    message = wire(
        TextBlock(text="Let me look."),
        ToolCallBlock(tool_call_id="111111111", tool_name="f", tool_kwargs='{"a": 1}'),
        ToolCallBlock(tool_call_id="222222222", tool_name="g", tool_kwargs={"b": "ü"}),
        role="assistant",
    )
    assert message == {
        "role": "assistant",
        "content": "Let me look.",
        "tool_calls": [
            {"id": "111111111", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
            {"id": "222222222", "type": "function", "function": {"name": "g", "arguments": '{"b": "ü"}'}},
        ],
    }


class Call:
    """A tool call as other SDKs have it."""

    id = "x1x1x1x1x"

    class function:
        name = "f"
        arguments = '{"a": 1}'


@pytest.mark.parametrize(
    "older",
    [
        Call(),
        {"id": "x1x1x1x1x", "function": {"name": "f", "arguments": '{"a": 1}'}},
        {"id": "x1x1x1x1x", "name": "f", "arguments": '{"a": 1}'},
    ],
    ids=["object", "wire", "flat"],
)
def test_tool_calls_of_older_histories(older: Any) -> None:
    message = wire(role="assistant", additional_kwargs={"tool_calls": [older]})
    assert message["tool_calls"] == [
        {"id": "x1x1x1x1x", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    ]


def test_calls_given_both_ways_are_sent_once() -> None:
    message = wire(
        ToolCallBlock(tool_call_id="x1x1x1x1x", tool_name="f", tool_kwargs={}),
        role="assistant",
        additional_kwargs={"tool_calls": [Call()]},
    )
    assert len(message["tool_calls"]) == 1


def test_an_assistant_message_can_be_marked_as_prefix() -> None:
    assert wire(TextBlock(text="Sure:"), role="assistant", additional_kwargs={"prefix": True})["prefix"] is True


TURNS: dict[str, list[Any]] = {
    "text": [{"type": "text", "text": "Hello"}],
    "thinking": [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}], "closed": True, "signature": "sig"},
        {"type": "text", "text": "4"},
    ],
    "thinking in between": [
        {"type": "text", "text": "One. "},
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
        {"type": "text", "text": "Two."},
    ],
    "references": [
        {"type": "text", "text": "Paris is in France"},
        {"type": "reference", "reference_ids": [0, 2]},
        {"type": "text", "text": " and Rome in Italy"},
        {"type": "reference", "reference_ids": [3]},
        {"type": "text", "text": "."},
    ],
    "a reference first": [{"type": "reference", "reference_ids": [7]}, {"type": "text", "text": "So."}],
    "thinking with a reference": [
        {
            "type": "thinking",
            "thinking": [
                {"type": "text", "text": "By "},
                {"type": "reference", "reference_ids": [1]},
                {"type": "text", "text": " it is 4."},
            ],
        },
        {"type": "text", "text": "4"},
    ],
    "thinking alone": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}], "closed": False}],
}


@pytest.mark.parametrize("parts", TURNS.values(), ids=TURNS.keys())
def test_a_turn_is_replayed_as_it_was(parts: list[Any]) -> None:
    message = answered(parts)
    # As a chat store keeps it.
    stored = ChatMessage.model_validate_json(message.model_dump_json())
    expected = parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts
    assert sent([*ask(), stored, *ask()])[1] == {"role": "assistant", "content": expected}


def test_marks_without_their_text_are_sent_all_the_same() -> None:
    """As after a memory that drops text blocks."""
    message = answered(TURNS["thinking in between"])
    thinking = [block for block in message.blocks if isinstance(block, ThinkingBlock)]
    assert content(*thinking, role="assistant") == [TURNS["thinking in between"][1]]


def test_all_text_of_a_turn_is_one_block() -> None:
    message = answered(TURNS["thinking in between"])
    assert message.content == "One. Two."
    assert [type(block) for block in message.blocks] == [TextBlock, ThinkingBlock]


def test_citations_name_their_source_and_the_text_they_stand_for() -> None:
    parts = copy.deepcopy(TURNS["references"])
    parts[1]["reference_ids"] = [0, "doc-2"]
    message = answered(parts)
    citations = [block for block in message.blocks if isinstance(block, CitationBlock)]
    assert message.content == "Paris is in France and Rome in Italy."
    assert [(c.source, c.cited_content.text) for c in citations] == [
        ("0", "Paris is in France"),
        ("doc-2", "Paris is in France"),
        ("3", " and Rome in Italy"),
    ]
    assert [c.additional_location_info for c in citations] == [
        {"start": 0, "end": 18, "reference_id": 0},
        {"start": 0, "end": 18},
        {"start": 18, "end": 36, "reference_id": 3},
    ]


def test_pictures_and_documents_that_a_model_returns() -> None:
    message = answered(
        [
            {"type": "image_url", "image_url": "https://example.invalid/a.png"},
            {"type": "image_url", "image_url": {"url": "https://example.invalid/b.png"}},
            {"type": "document_url", "document_url": "https://example.invalid/c.pdf"},
            {"type": "file", "file_id": "f"},
        ]
    )
    assert [type(block) for block in message.blocks] == [ImageBlock, ImageBlock, DocumentBlock, TextBlock]
