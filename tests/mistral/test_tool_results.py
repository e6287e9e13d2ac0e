"""What a tool gave: readable content as parts, data as JSON text (langchainjs#11092)."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from lava_mistral.errors import InvalidRequestError
from lava_mistral.mistral.tool_results import tool_content

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 2_000).decode()
PDF = base64.b64encode(b"%PDF-1.7\n" + b"0" * 2_000).decode()


def image(url: Any) -> Any:
    return {"type": "image_url", "image_url": {"url": url}}


def document(url: Any) -> Any:
    return {"type": "document_url", "document_url": url}


def convert(block: Any) -> Iterator[Any]:
    """As a framework's: it takes Mistral's own parts and a few of others, and refuses all else."""
    match block:
        case {"type": "text", "text": str(text)} | {"text": str(text)}:
            if text:
                yield {"type": "text", "text": text}
        case {"type": "image_url" | "document_url" | "input_audio" | "thinking"}:
            yield block
        case {"type": "file" | "document" as kind, "url": str(url)}:
            yield document(url) if kind else block
        case {"type": "tool_call"}:
            return
        case {"type": "file", "path": path}:
            with open(path) as file:
                yield {"type": "text", "text": file.read()}
        case _:
            raise InvalidRequestError("no content")


DATA: list[Any] = [
    {"type": "file", "name": "a.txt", "size": 3},
    {"type": "document", "title": "Report", "score": 0.5},
    {"type": "json", "json": {"a": 1}},
    {"type": "search_result", "source": "x"},
    {"type": "text"},
    {"type": "text", "text": None},
    {"type": "resource_link", "uri": "reports://q3", "name": "Q3"},
    {"type": "tool_call", "name": "add"},
    {"type": "thinking", "thinking": []},
    {"text": "hit", "score": 0.5},
    {"name": "a"},
    {"type": "file", "url": "https://example.com/page.html", "name": "page"},
    {"type": "file", "path": "/no/such/file"},
    image("reports://q3.png"),
    image("file:///tmp/a.png"),
    image("gs://bucket/a.png"),
    image("/tmp/a.png"),
    image("data:image/png;base64,bm90IGEgcGljdHVyZQ=="),
    image("data:image/png;base64,%%%"),
    image("data:image/png,abc"),
    image(5),
    document("s3://bucket/a.pdf"),
    document("C:\\reports\\a.pdf"),
    {"type": "input_audio", "input_audio": "not base64!"},
]


@pytest.mark.parametrize("block", DATA, ids=json.dumps)
def test_data_goes_out_as_json(block: Any) -> None:
    alone = tool_content([block], convert)
    assert isinstance(alone, str)
    assert json.loads(alone) == [block]
    mixed: Any = tool_content(["Found:", block], convert)
    assert mixed[0] == {"type": "text", "text": "Found:"}
    assert json.loads(mixed[1]["text"]) == block


CONTENT: list[Any] = [
    image("https://example.com/a.png"),
    image(f"data:image/png;base64,{PNG}"),
    {"type": "image_url", "image_url": f"data:image/png;base64,{PNG}"},
    document("https://example.com/a.pdf"),
    document(f"data:application/pdf;base64,{PDF}"),
    {"type": "input_audio", "input_audio": "https://example.com/a.mp3"},
    {"type": "input_audio", "input_audio": PNG},
]


@pytest.mark.parametrize("block", CONTENT, ids=lambda block: json.dumps(block)[:60])
def test_content_that_mistral_can_read_is_a_part(block: Any) -> None:
    assert tool_content([block], convert) == [block]
    assert tool_content(["a", block], convert) == [{"type": "text", "text": "a"}, block]


def test_a_file_with_a_url_and_its_kind_is_content() -> None:
    block = {"type": "file", "url": "https://example.com/a.pdf", "mime_type": "application/pdf"}
    assert tool_content([block], convert) == [document("https://example.com/a.pdf")]


@pytest.mark.parametrize(
    ("blocks", "content"),
    [
        ([], ""),
        ([""], ""),
        ([{"type": "text", "text": ""}], ""),
        (["a"], "a"),
        ([{"type": "text", "text": "a"}], "a"),
        ([{"text": "a"}], "a"),
        (["a", {"type": "text", "text": "b"}], [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
    ],
)
def test_a_single_text_is_plain_text(blocks: Any, content: Any) -> None:
    assert tool_content(blocks, convert) == content


def test_rows_of_data_are_one_json_text() -> None:
    rows = [{"type": "file", "name": name, "size": 3} for name in "ab"]
    assert json.loads(str(tool_content(rows, convert))) == rows


def test_long_base64_in_data_is_not_spelled_out() -> None:
    block = {
        "type": "blob",
        "name": "a.bin",
        "data": PNG,
        "url": f"data:x/y;base64,{PNG}",
        "more": [PNG],
        "note": "a " * 999,
    }
    [said] = json.loads(str(tool_content([block], convert)))
    size = f"[{len(PNG)} characters of base64]"
    assert (said["data"], said["more"], said["note"]) == (size, [size], block["note"])
    assert len(said["url"]) < 60
