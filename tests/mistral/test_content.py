"""Content parts, tool choices and answer schemas: what both frameworks leave to the core."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from lava_mistral import InvalidRequestError
from lava_mistral.mistral.content import (
    add_part,
    audio_part,
    data_url,
    document_part,
    file_part,
    image_part,
    media_type_of,
    split_data_url,
    url_part,
)
from lava_mistral.mistral.tools import json_schema_format, to_tool_choice, tool_name


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"%PDF-1.7", "application/pdf"),
        (b"\x89PNG\r\n\x1a\n\x00", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "audio/wav"),
        (b"RIFF\x00\x00\x00\x00????", None),
        (b"ID3\x04", "audio/mpeg"),
        (b"OggS\x00", "audio/ogg"),
        (b"fLaC\x00", "audio/flac"),
        (b"\x00\x00\x00\x20ftypM4A ", "audio/mp4"),
        (b"\x00\x00\x00\x20ftypisom", "video/mp4"),
        ("Grüße".encode(), "text/plain"),
        ("Grüße".encode("latin-1"), None),
        (b"a\x00b", None),
        (b"", None),
    ],
)
def test_a_file_tells_what_it_is(start: bytes, kind: str | None) -> None:
    assert media_type_of(start) == kind


def test_data_urls() -> None:
    assert data_url(b"abc", "image/png") == data_url("YWJj", "image/png") == "data:image/png;base64,YWJj"
    assert split_data_url("data:text/plain;charset=utf-8;base64,YWJj") == ("text/plain", "YWJj")
    assert split_data_url("https://example.com/a.png") is None
    with pytest.raises(InvalidRequestError, match="base64"):
        split_data_url("data:text/plain,abc")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("image/png", {"type": "image_url", "image_url": {"url": "data:image/png;base64,YWJj"}}),
        ("audio/wav", {"type": "input_audio", "input_audio": "YWJj"}),
        (
            "application/pdf",
            {"type": "document_url", "document_url": "data:application/pdf;base64,YWJj", "document_name": "f"},
        ),
        ("text/csv", {"type": "text", "text": "f:\nabc"}),
        ("application/json", {"type": "text", "text": "f:\nabc"}),
        (None, {"type": "text", "text": "f:\nabc"}),
    ],
)
@pytest.mark.parametrize("given", [b"abc", "YWJj"], ids=["bytes", "base64"])
def test_a_file_takes_the_form_of_its_kind(given: Any, kind: str | None, expected: dict[str, Any]) -> None:
    assert file_part(given, media_type=kind, name="f") == expected


def test_an_office_document_is_a_document() -> None:
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
    assert file_part(b"PK", media_type=kind)["type"] == "document_url"


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("image/png", {"type": "image_url", "image_url": {"url": "https://x/a", "detail": "high"}}),
        ("audio/mpeg", {"type": "input_audio", "input_audio": "https://x/a"}),
        ("application/pdf", {"type": "document_url", "document_url": "https://x/a", "document_name": "n"}),
        (None, {"type": "document_url", "document_url": "https://x/a", "document_name": "n"}),
    ],
)
def test_a_url_takes_the_form_of_its_kind(kind: str | None, part: dict[str, Any]) -> None:
    assert url_part("https://x/a", media_type=kind, name="n", detail="high") == part


def test_a_data_url_says_its_kind_itself() -> None:
    assert url_part("data:audio/wav;base64,YWJj", media_type=None) == audio_part(b"abc") == audio_part("YWJj")
    assert url_part("data:;base64,YWJj", media_type="image/png")["type"] == "image_url"
    assert url_part("data:image/png;base64,YWJj", media_type="application/pdf")["type"] == "image_url"


@pytest.mark.parametrize("kind", ["video/mp4", "application/zip"])
def test_what_mistral_does_not_take_is_named(kind: str) -> None:
    with pytest.raises(InvalidRequestError, match=kind):
        file_part(b"x", media_type=kind)
    with pytest.raises(InvalidRequestError, match="video/mp4"):
        url_part("https://x/a.mp4", media_type="video/mp4")


def test_a_file_of_no_known_kind_is_refused_with_advice() -> None:
    with pytest.raises(InvalidRequestError, match="media type"):
        file_part(b"\x00\x01", media_type=None)


@pytest.mark.parametrize("kind", ["text/plain", None])
@pytest.mark.parametrize("data", ["!!not base64", "abc", "é"])
def test_text_that_is_no_base64_is_refused_under_the_files_name(kind: str | None, data: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"'notes\.txt' should come as its bytes or in base64") as caught:
        file_part(data, media_type=kind, name="notes.txt")
    assert data in str(caught.value)


def test_base64_may_have_lines() -> None:
    assert file_part("aGVs\nbG8=\n", media_type="text/plain") == {"type": "text", "text": "hello"}


def test_how_closely_to_look_at_a_picture_goes_along() -> None:
    assert image_part("u", detail="low")["image_url"] == {"url": "u", "detail": "low"}


def test_names_of_documents_are_sent_where_there_are_any() -> None:
    assert document_part("u") == {"type": "document_url", "document_url": "u"}


def test_thinking_next_to_thinking_is_one() -> None:
    parts: list[Any] = []
    for text in ("a", "b"):
        add_part(parts, {"type": "thinking", "thinking": [{"type": "text", "text": text}]})
    add_part(parts, {"type": "text", "text": "c"})
    assert parts == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"type": "text", "text": "c"},
    ]


NAMED = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (None, None),
        (True, "any"),
        (False, "none"),
        ("auto", "auto"),
        ("none", "none"),
        ("any", "any"),
        ("required", "required"),
        ("f", NAMED),
        (NAMED, NAMED),
        ({"type": "tool", "name": "f"}, NAMED),
        ({"type": "auto"}, "auto"),
    ],
    ids=str,
)
def test_tool_choices(choice: Any, sent: Any) -> None:
    assert to_tool_choice(choice, ["f"]) == sent


@pytest.mark.parametrize("choice", ["g", {"type": "tool", "name": "g"}, 3, {"type": "some"}], ids=str)
def test_tool_choices_that_can_not_be(choice: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"'f'|tool choice"):
        to_tool_choice(choice, ["f"])
    with pytest.raises(InvalidRequestError, match="none at all"):
        to_tool_choice("g", [])


def test_names_that_mistral_takes() -> None:
    assert tool_name("Pair[int]") == "Pair_int_"
    assert tool_name("x" * 80) == "x" * 64
    assert tool_name("") == "tool"


SCHEMA = {
    "type": "object",
    "properties": {
        "type": {"type": "object", "properties": {"a": {"type": "string"}}, "default": {"type": "object"}},
        "open": {"type": "object", "additionalProperties": {"type": "integer"}},
        "list": {"type": "array", "items": {"$ref": "#/$defs/Inner"}},
        "either": {"anyOf": [{"type": "object", "properties": {}}, {"type": "null"}]},
    },
    "$defs": {"Inner": {"type": "object", "properties": {"x": {"const": {"type": "object", "properties": {}}}}}},
}


def test_a_strict_schema_closes_its_objects_and_nothing_else() -> None:
    before = copy.deepcopy(SCHEMA)
    format = json_schema_format("My answer", SCHEMA, description="What it is for.")
    inner: Any = format["json_schema"]
    assert inner is not None
    assert (inner["name"], inner["strict"], inner["description"]) == ("My_answer", True, "What it is for.")
    schema = inner["schema"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["type"]["additionalProperties"] is False
    assert schema["properties"]["type"]["default"] == {"type": "object"}
    assert schema["properties"]["open"]["additionalProperties"] == {"type": "integer"}
    assert schema["properties"]["either"]["anyOf"][0]["additionalProperties"] is False
    assert schema["$defs"]["Inner"]["additionalProperties"] is False
    assert schema["$defs"]["Inner"]["properties"]["x"] == SCHEMA["$defs"]["Inner"]["properties"]["x"]  # type: ignore[index]
    assert before == SCHEMA


@pytest.mark.parametrize(("strict", "said"), [(False, {"strict": False}), (None, {})])
def test_a_schema_that_is_not_strict_stays_as_it_is(strict: bool | None, said: dict[str, Any]) -> None:
    format = json_schema_format("a", SCHEMA, strict=strict)
    assert format["json_schema"] == {"name": "a", "schema": SCHEMA, **said}
