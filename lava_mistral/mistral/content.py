"""Build the parts of a message's content: texts, images, documents and audio. Pure."""

from __future__ import annotations

import base64
from typing import Any, Final, cast

from lava_mistral.errors import InvalidRequestError
from lava_mistral.mistral.types import AudioPart, ContentPart, DocumentPart, ImagePart, TextPart, ThinkingPart

# What Mistral's document reader takes (Mistral's documentation, Document AI).
_DOCUMENTS: Final = (
    "application/pdf",
    "application/vnd.openxmlformats-officedocument.",
    "application/vnd.oasis.opendocument.",
)
_TEXTUAL: Final = frozenset(("json", "xml", "yaml", "x-yaml", "toml", "csv", "javascript"))
# First bytes of a file → its media type. RIFF and ISO files say more at bytes 8 to 12.
_MAGIC: Final = {
    b"%PDF-": "application/pdf",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"ID3": "audio/mpeg",
    b"\xff\xfb": "audio/mpeg",
    b"\xff\xf3": "audio/mpeg",
    b"fLaC": "audio/flac",
    b"OggS": "audio/ogg",
}
_RIFF: Final = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}


def media_type_of(data: bytes) -> str | None:
    """Return the media type of a file by its first bytes, `text/plain` for UTF-8, `None` where they tell nothing."""
    if data[:4] == b"RIFF":
        return _RIFF.get(data[8:12])
    if data[4:8] == b"ftyp":
        return "audio/mp4" if data[8:11] == b"M4A" else "video/mp4"
    for magic, kind in _MAGIC.items():
        if data.startswith(magic):
            return kind
    try:
        return "text/plain" if data.decode("utf-8") and b"\0" not in data else None
    except UnicodeDecodeError:
        return None


def _from_base64(data: bytes | str, name: str | None) -> bytes:
    try:
        # Some encoders break lines.
        return data if isinstance(data, bytes) else base64.b64decode("".join(data.split()), validate=True)
    except ValueError as error:
        file = "A file" if name is None else f"The file {name!r}"
        raise InvalidRequestError(
            f"{file} should come as its bytes or in base64; got text that is not base64 ({error}): {data[:40]!r}."
        ) from error


def _to_base64(data: bytes | str) -> str:
    return data if isinstance(data, str) else base64.b64encode(data).decode("ascii")


def data_url(data: bytes | str, media_type: str) -> str:
    """Return the `data:` URL of bytes, or of text that is base64 already."""
    return f"data:{media_type};base64,{_to_base64(data)}"


def split_data_url(url: str) -> tuple[str, str] | None:
    """Return the media type and the base64 of a `data:` URL; `None` for any other URL."""
    if not url.startswith("data:"):
        return None
    head, comma, data = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise InvalidRequestError("A data: URL must be in base64, like data:image/png;base64,iVBOR…")
    return head[5:-7].partition(";")[0], data


def text_part(text: str, *, name: str | None = None) -> TextPart:
    """Return a text part; of a text file under its name."""
    return {"type": "text", "text": f"{name}:\n{text}" if name else text}


def image_part(url: str, *, detail: str | None = None) -> ImagePart:
    """Return an image by its `https:` or `data:` URL; `detail` says how closely the model looks."""
    image: Any = {"url": url} if detail is None else {"url": url, "detail": detail}
    return {"type": "image_url", "image_url": image}


def document_part(url: str, *, name: str | None = None) -> DocumentPart:
    """Return a document that Mistral reads itself (PDF), by `https:` or `data:` URL."""
    part: DocumentPart = {"type": "document_url", "document_url": url}
    if name:
        part["document_name"] = name
    return part


def audio_part(data: bytes | str) -> AudioPart:
    """Return an audio part of the bytes, or their base64, or an `https:` or `data:` URL."""
    split = split_data_url(data) if isinstance(data, str) else None
    return {"type": "input_audio", "input_audio": _to_base64(data) if split is None else split[1]}


def file_part(
    data: bytes | str, *, media_type: str | None, name: str | None = None, detail: str | None = None
) -> ContentPart:
    """Return a file, its bytes or their base64, in the form in which Mistral takes it: text files become text.

    Without a media type, the first bytes tell it. Raises InvalidRequestError for what Mistral does not take.
    """
    media_type = media_type or media_type_of(_from_base64(data, name))
    if media_type is None:
        raise InvalidRequestError(
            "The kind of a file can't be told from its content: give its media type, like 'application/pdf'."
        )
    kind, _, form = media_type.partition("/")
    if kind == "image":
        return image_part(data_url(data, media_type), detail=detail)
    if kind == "audio":
        return audio_part(data)
    if media_type.startswith(_DOCUMENTS):
        return document_part(data_url(data, media_type), name=name)
    if kind == "text" or (kind == "application" and form in _TEXTUAL):
        return text_part(_from_base64(data, name).decode("utf-8", "replace"), name=name)
    raise refused(media_type)


def url_part(url: str, *, media_type: str | None, name: str | None = None, detail: str | None = None) -> ContentPart:
    """Return a file at a URL in the form in which Mistral takes it; see `file_part`."""
    if (split := split_data_url(url)) is not None:
        return file_part(split[1], media_type=split[0] or media_type, name=name, detail=detail)
    kind = (media_type or "").partition("/")[0]
    if kind == "video":
        raise refused(str(media_type))
    if kind == "image":
        return image_part(url, detail=detail)
    return audio_part(url) if kind == "audio" else document_part(url, name=name)


def refused(kind: str) -> InvalidRequestError:
    """Return the error for content that Mistral does not take."""
    advice = "Convert it to PDF, text, images or audio first; of a film, single frames or the sound track."
    return InvalidRequestError(f"Mistral takes text, images, PDF documents and audio, not {kind}.", advice=advice)


def add_part(parts: list[ContentPart], part: ContentPart) -> None:
    """Append a part; thinking after thinking becomes one part, since other providers cut it into paragraphs."""
    if part["type"] != "thinking" or not parts or (before := parts[-1])["type"] != "thinking":
        parts.append(part)
        return
    # Whether a thought is open, its last piece says.
    first = {key: value for key, value in before.items() if key != "closed"}
    joined = {**first, **part, "thinking": [*before["thinking"], *part["thinking"]]}
    parts[-1] = cast("ThinkingPart", joined)
