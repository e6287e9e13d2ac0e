"""The event stream decoder, against httpx-sse and the examples of the specification."""

from __future__ import annotations

import httpx_sse
import pytest
from httpx_sse._decoders import SSEDecoder as PeerDecoder
from httpx_sse._decoders import SSELineDecoder as PeerLines
from hypothesis import example, given
from hypothesis import strategies as st

from lava_mistral.mistral.sse import SSEDecoder

FIELDS = st.sampled_from(
    [
        "data: {}",
        "data:x",
        "data:  two spaces",
        "data",
        "data:",
        "data: a: b",
        "event: error",
        "event:",
        "id: 7",
        "id",
        "id: nul\0l",
        "retry: 250",
        "retry: soon",
        "retry:",
        ": comment",
        ":",
        "unknown: x",
        "Data: case matters",
        " data: not a field",
        "data: \u2028 no line end \x85\x0b\x0c",
        "data: é€😀",
        "\ufeffdata: mark",
        "",
    ]
).map(str.encode)
INVALID = st.sampled_from([b"data: \xff", b"data: \xe2\x82", b"data: \xed\xa0\x80\xc0\x80", b"\xf0\x9f\n"])
LINES = st.lists(
    st.tuples(FIELDS | INVALID | st.binary(max_size=12), st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n"])),
    max_size=24,
)
CUTS = st.lists(st.integers(0, 400), max_size=12)


def sent(data: str, kind: str = "message") -> tuple[str, str]:
    return data, kind


def decode(*pieces: bytes) -> list[tuple[str, str]]:
    decoder = SSEDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """The bytes in pieces, some of them perhaps empty."""
    ends = [*sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def by_the_peer(data: bytes) -> list[tuple[str, str]]:
    """What httpx-sse reads, with what it leaves out of the specification added: the byte order mark, and no event
    without data."""
    text = data.decode("utf-8", "replace").removeprefix("\ufeff")
    lines_of, events_of = PeerLines(), PeerDecoder()
    lines = lines_of.decode(text) if text else []
    events = []
    has_data = False
    for line in lines:
        has_data = has_data or line.partition(":")[0] == "data"
        event: httpx_sse.ServerSentEvent | None = events_of.decode(line)
        if event is not None:
            if has_data:
                events.append((event.data, event.event))
            has_data = False
    return events


@given(LINES, CUTS)
@example([(b"data: 1", b"\r\n"), (b"", b"\r\n")], list(range(30)))
@example([(b"\xef\xbb\xbfdata: 1", b"\r"), (b"", b"\r")], [1, 2])
def test_any_split_of_any_stream_reads_as_httpx_sse_reads_it_whole(
    lines: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    data = b"".join(line + end for line, end in lines)
    assert decode(*split(data, cuts)) == by_the_peer(data)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("newline", [b"\n", b"\r", b"\r\n"])
def test_every_piece_size_gives_the_same_events(size: int, newline: bytes) -> None:
    stream = "data: né\n\ndata: 😀\ndata: 2\nid: 4\n\n: ping\n\nevent: e\ndata: {}\n\n".encode().replace(b"\n", newline)
    pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
    assert decode(*pieces, b"\n") == [
        sent("né"),
        sent("😀\n2"),
        sent("{}", "e"),
    ]


def test_the_examples_of_the_specification() -> None:
    assert decode(b"data: YHOO\ndata: +2\ndata: 10\n\n") == [sent("YHOO\n+2\n10")]
    assert decode(b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n") == [
        sent("first event"),
        sent("second event"),
    ]
    assert decode(b"data\n\ndata\ndata\n\ndata:") == [sent(""), sent("\n")]
    assert decode(b"data:test\n\ndata: test\n\n") == [sent("test"), sent("test")]


def test_an_event_is_out_as_soon_as_its_blank_line_has_come() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: 1\n\n") == [sent("1")]
    assert decoder.feed(b"data: 2\r\n\r") == []
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\n") == [sent("2")]
    assert decoder.feed(b"data: 3\n\n") == [sent("3")]


def test_the_last_event_without_its_blank_line_is_dropped() -> None:
    assert decode(b"data: 1\n\ndata: [DONE]") == [sent("1")]
    assert decode(b"data: 1\n\ndata: [DONE]\n") == [sent("1")]


def test_only_the_first_byte_order_mark_is_dropped() -> None:
    mark = "\ufeff".encode()
    assert decode(mark + b"data: 1\n\n" + mark + b"data: 2\n\n") == [sent("1")]
    assert decode(mark[:1], mark[1:2], mark[2:] + b"data: 1\n\n") == [sent("1")]


def test_an_event_type_does_not_outlive_a_block_without_data() -> None:
    assert decode(b"event: error\n\ndata: 1\n\n") == [sent("1")]


def test_a_long_line_in_tiny_pieces_comes_whole() -> None:
    decoder = SSEDecoder()
    line = b"data: " + b"x" * 200_000 + b"\n\n"
    events = [event for i in range(len(line)) for event in decoder.feed(line[i : i + 1])]
    assert events == [sent("x" * 200_000)]
