"""Read files as plain prose: Markdown and text, and with the extra `[documents]` PDF, HTML and Word."""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from lava_mistral.errors import ConfigurationError

_SKIPPED_FOLDERS: Final = frozenset(("node_modules", "__pycache__", "site-packages", "build", "dist"))
_LARGEST_TEXT: Final = 2_000_000  # bytes; more is a data file rather than a text to read
_LARGEST_FILE: Final = 50_000_000
_NAMED: Final = 5  # files of other kinds that are named
_CODE: Final = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.M | re.S)
_IMAGE_OR_LINK: Final = re.compile(r"!\[[^\]]*\]\([^)]*\)|\[([^\]]+)\]\([^)]*\)")
_ITEM: Final = re.compile(r"^([-*+>]|\d+[.)]) +")
# A table has sentences without an end, and Mistral embeds no text of more than 8,192 tokens.
_SENTENCE: Final = re.compile(r"[^\n]{1,4000}?(?:[.!?…][\"”’)]*(?=\s|$)|[。！？]|(?=\n)|$)|[^\n]{4000}")


class Text(NamedTuple):
    """A text and the name to cite it by."""

    name: str
    content: str


def read_documents(path: Path) -> tuple[list[Text], list[str]]:
    """Read the documents below a folder, or one file. Hidden folders and those of build tools are passed over.

    Returns:
        The texts, and what was skipped, each with the reason.

    Raises:
        ConfigurationError: there is nothing to read.
    """
    texts, skipped, others = list[Text](), list[str](), list[str]()
    for file in sorted(_files(path)) if path.is_dir() else [path]:
        name = printable(file.relative_to(path if path.is_dir() else path.parent))
        reader = _READERS.get(file.suffix.lower(), None if path.is_dir() else _plain)
        if reader is None:
            others.append(name)
            continue
        try:
            texts.append(Text(name, _read(file, reader)))
        except (OSError, ValueError, ImportError) as error:
            skipped.append(f"{name} ({getattr(error, 'strerror', None) or error})")
    if others:
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        skipped.append(f"{', '.join(others[:_NAMED])}{more} (no kind of document that is read)")
    if not texts:
        why = f" Skipped: {'; '.join(skipped)}." if skipped else ""
        raise ConfigurationError(
            f"there is no document to read in {printable(path)}.{why} "
            f"Name a folder with files that end in {', '.join(sorted(_READERS))}; the rows of a table are embedded by "
            "`lava-mistral embed`."
        )
    return texts, skipped


def passages(text: str, longest: int) -> Iterator[str]:
    """Cut paragraphs, each on a line, into pieces of whole sentences of so many characters; one may have more."""
    piece = ""
    for match in _SENTENCE.finditer(text):
        sentence = match[0].strip()
        if piece and len(piece) + len(sentence) > longest:
            yield piece
            piece = ""
        separator = "\n" if text[match.start() - 1] == "\n" else " "
        piece += (separator if piece else "") + sentence
    if piece:
        yield piece


def prose(text: str) -> str:
    """Return the paragraphs of a Markdown text, each on a line after its heading, without code, tables and pictures."""
    pieces: list[str] = []
    heading, joins = "", False
    for line in map(str.strip, _IMAGE_OR_LINK.sub(r"\1", _CODE.sub("", text)).splitlines()):
        if not line or line.startswith("|") or re.fullmatch(r"[-=*_ ]{3,}", line):
            joins = False
        elif line.startswith("#"):
            heading, joins = line.strip("# ") + ": ", False
        elif joins and not _ITEM.match(line):
            broken = re.search(r"[a-z]-$", pieces[-1])
            pieces[-1:] = [pieces[-1][:-1], line] if broken else [pieces[-1], " ", line]
        else:
            pieces += ["\n" if pieces else "", heading, _ITEM.sub("", line)]
            heading, joins = "", True
    return "".join(pieces)


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _SKIPPED_FOLDERS]
        yield from (Path(parent) / name for name in files if not name.startswith("."))


def printable(path: Path) -> str:
    """Return a path as text; a name on the disk may be of bytes that are none."""
    return os.fsencode(path).decode("utf-8", "replace")


def _read(file: Path, reader: Callable[[bytes], str]) -> str:
    largest = _LARGEST_TEXT if reader is _plain else _LARGEST_FILE
    if file.stat().st_size > largest:
        raise ValueError(f"larger than {largest // 1_000_000} MB")
    content = file.read_bytes()
    try:
        text = prose(reader(content))
    except ImportError:
        raise ImportError('needs pip install "lava-mistral[documents]"') from None
    except Exception as error:  # the parsers raise whatever a broken file leads them to
        raise ValueError(f"can't be read: {error}") from error
    if not text:
        raise ValueError("no text in it; a scan needs OCR first")
    return text


def _plain(content: bytes) -> str:
    if b"\0" in content:
        raise ValueError("binary")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8 text") from error


def _pdf(content: bytes) -> str:
    from pypdf import PdfReader

    # It tells of each oddity that it can read over.
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    return "\n\n".join(page.extract_text() for page in PdfReader(io.BytesIO(content)).pages)


def _html(content: bytes) -> str:
    from bs4 import BeautifulSoup
    from markdownify import MarkdownConverter

    page = BeautifulSoup(content, "html.parser")
    for tag in page(["head", "script", "style", "nav"]):
        tag.decompose()
    text: str = MarkdownConverter(heading_style="ATX", strip=["a", "b", "strong", "i", "em", "img"]).convert_soup(page)
    return text


def _word(content: bytes) -> str:
    import mammoth

    return _html(mammoth.convert_to_html(io.BytesIO(content)).value.encode())


_TEXTS: Final = (".md", ".markdown", ".mdx", ".txt", ".text", ".rst")
_READERS: Final = dict.fromkeys(_TEXTS, _plain) | {".pdf": _pdf, ".html": _html, ".htm": _html, ".docx": _word}
