"""The demo of the command line: index some texts, ask a question, stream the answer with its sources and its cost.

What both frameworks do is behind `Engine`; everything else here is plain text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol

import httpx
from rich.console import Console
from rich.markup import escape

from lava_mistral.billing.credentials import is_loopback
from lava_mistral.billing.identity import resolve_access
from lava_mistral.billing.listeners import track_usage
from lava_mistral.billing.usage import CallRecord, Tally
from lava_mistral.cli.output import print_columns
from lava_mistral.client._base import DEFAULT_CHAT_MODEL, DEFAULT_EMBEDDING_MODEL
from lava_mistral.errors import ConfigurationError
from lava_mistral.pricing.cost import format_cost

Framework = Literal["langchain", "llama-index"]

OWN_QUESTION: Final = "How do I bill a call to one of my customers?"
ANY_QUESTION: Final = "What is this about?"

_SUFFIXES: Final = frozenset((".md", ".markdown", ".mdx", ".txt", ".text", ".rst"))
_SKIPPED_FOLDERS: Final = frozenset(("node_modules", "__pycache__", "site-packages", "build", "dist"))
_MOST_BYTES: Final = 2_000_000  # of one file: more is a data file rather than a text to read
_CHUNK: Final = 1_000  # characters
_OVERLAP: Final = 100
_PASSAGES: Final = 4
_SENTENCES: Final = re.compile(r".+?(?:[.!?。！？](?=\s|$)\s*|\n|$)|\n", re.S)
_INSTRUCTION: Final = (
    "Answer the question from the numbered passages alone, in a few sentences. If they do not hold the answer, say so."
)


class Text(NamedTuple):
    """A text to index and the name to cite it by."""

    name: str
    content: str


@dataclass(frozen=True)
class Library:
    """The texts that the demo works on.

    Attributes:
        place: where they were read, for people.
        texts: what was read, by name.
        skipped: what was not, each with the reason.
    """

    place: str
    texts: tuple[Text, ...]
    skipped: tuple[str, ...] = ()


class Passage(NamedTuple):
    """A piece of a text that was found for a question."""

    name: str
    content: str


class Engine(Protocol):
    """What a framework does for the demo."""

    title: str

    def index(self, texts: Sequence[Text]) -> int:
        """Split, embed and store the texts; how many pieces they make."""

    def find(self, question: str) -> list[Passage]:
        """The passages that are nearest to a question, nearest first."""

    def answer(self, instruction: str, question: str) -> Iterator[str]:
        """The answer in pieces, as they come."""


def run(path: Path | None, question: str | None, framework: Framework | None, console: Console) -> None:
    """Do the whole demo and print it.

    Args:
        path: a folder or a file to read; the project's own documentation if `None`.
        question: what to ask; a question that fits the texts if `None`.
        framework: which one to use; the one that is installed if `None`.
        console: where to print.

    Raises:
        LavaError: a call failed, or a setting is wrong.
        ImportError: an extra that is needed is not installed; the message names it.
    """
    with ExitStack() as stack:
        api_key, base_url = _access(stack, console)
        library = own_documentation() if path is None else read_library(path)
        _print_library(library, console)
        engine = _ENGINES[framework or _installed()](api_key, base_url)
        records: list[CallRecord] = []
        totals = stack.enter_context(track_usage(listener=records.append))
        pieces = engine.index(library.texts)
        console.print(f"Embedded {pieces} chunks with {DEFAULT_EMBEDDING_MODEL} through {engine.title}.\n")

        question = question or (OWN_QUESTION if path is None else ANY_QUESTION)
        console.print(f"[bold]Question:[/bold] {escape(question)}", soft_wrap=True)
        passages = engine.find(question)
        console.print(f"[bold]Answer[/bold] of {DEFAULT_CHAT_MODEL}:")
        try:
            for piece in engine.answer(_instruct(passages), question):
                console.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
        finally:
            # What went wrong in the middle of the answer is said on a line of its own.
            console.print("\n")
        _print_sources(passages, console)
        _print_costs(records, totals.total, console)


def _access(stack: ExitStack, console: Console) -> tuple[str, str]:
    """The key and the base URL to use, said in the first line that is printed."""
    if os.environ.get("LAVA_FORWARD_TOKEN") or os.environ.get("LAVA_SECRET_KEY"):
        access = resolve_access()
        here = is_loopback(httpx.URL(access.base_url).host)
        console.print(
            f"Talking to the gateway on this machine, {escape(access.base_url)}: it may be a simulated one."
            if here
            else f"Talking to Lava at {escape(access.base_url)}: these calls are billed to your account.",
            soft_wrap=True,
        )
        return access.key, access.base_url
    try:
        from lava_mistral.gateway import LocalGateway
    except ImportError as error:
        raise ImportError(
            "There is no Lava key in the environment, and without one the demo needs the embedded gateway. Set "
            'LAVA_SECRET_KEY, or: pip install "lava-mistral[gateway]"',
            name=error.name,
        ) from error
    console.print(
        "SIMULATED: LAVA_SECRET_KEY is not set, so a gateway on this machine answers, not Mistral. "
        "Nothing leaves it and nothing is charged.",
        style="bold yellow",
        soft_wrap=True,
    )
    gateway = stack.enter_context(LocalGateway())
    return gateway.secret_key, gateway.base_url


def _installed() -> Framework:
    needed: dict[Framework, tuple[str, ...]] = {
        "langchain": ("langchain_core", "langchain_text_splitters"),
        "llama-index": ("llama_index",),
    }
    for framework, modules in needed.items():
        if all(find_spec(module) is not None for module in modules):
            return framework
    raise ImportError('The demo needs one of the frameworks: pip install "lava-mistral[langchain]" (or [llama-index])')


def own_documentation() -> Library:
    """The project's own documentation: of the checkout that runs, else what the installed package carries."""
    root = Path(__file__).resolve().parents[2]
    if (root / "README.md").is_file() and (root / "pyproject.toml").is_file():
        files = [root / "README.md", root / "CHANGELOG.md", *sorted((root / "docs").rglob("*"))]
        return _library(root, [file for file in files if file.is_file() and _is_text(file)])
    readme = metadata.metadata("lava-mistral").json.get("description")
    if not isinstance(readme, str) or not readme.strip():
        raise ConfigurationError("the installed package carries no README. Name a folder: lava-mistral demo PATH.")
    return Library("the README of the installed package", (Text("README.md", readme),))


def read_library(path: Path) -> Library:
    """The text and Markdown files below a folder, or one file.

    Hidden folders and those of build tools are passed over. Files that are binary, unreadable or larger than 2 MB
    are skipped and named.

    Raises:
        ConfigurationError: there is nothing to read.
    """
    files = sorted(_files(path)) if path.is_dir() else [path]
    library = _library(path if path.is_dir() else path.parent, files)
    if not library.texts:
        why = f" Skipped: {'; '.join(library.skipped)}." if library.skipped else ""
        raise ConfigurationError(
            f"there is no text or Markdown file to read in {_printable(path)}.{why} "
            f"Name a folder with files that end in {', '.join(sorted(_SUFFIXES))}."
        )
    return library


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _SKIPPED_FOLDERS]
        yield from (file for name in files if not name.startswith(".") and _is_text(file := Path(parent) / name))


def _is_text(file: Path) -> bool:
    return file.suffix.lower() in _SUFFIXES


def _library(root: Path, files: Iterable[Path]) -> Library:
    texts, skipped = [], []
    for file in files:
        name = _printable(file.relative_to(root))
        try:
            texts.append(Text(name, _read(file)))
        except (OSError, ValueError) as error:
            skipped.append(f"{name} ({error})")
    return Library(_printable(root), tuple(text for text in texts if text.content.strip()), tuple(skipped))


def _printable(path: Path) -> str:
    """A path as text; a name on the disk may be of bytes that are none."""
    return os.fsencode(path).decode("utf-8", "replace")


def _read(file: Path) -> str:
    """The text of a file.

    Raises:
        OSError: it can't be read.
        ValueError: it is too large, or no text.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise OSError(error.strerror or "can't be read") from error
    if len(content) > _MOST_BYTES:
        raise ValueError("larger than 2 MB")
    if b"\0" in content:
        raise ValueError("binary")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8 text") from error


def _instruct(passages: Sequence[Passage]) -> str:
    found = (f"[{number}] {passage.name}\n{passage.content}" for number, passage in enumerate(passages, 1))
    return "\n\n".join([_INSTRUCTION, *found])


def _print_library(library: Library, console: Console) -> None:
    size = sum(len(text.content) for text in library.texts)
    names = ", ".join(text.name for text in library.texts[:4])
    more = f" and {len(library.texts) - 4} more" if len(library.texts) > 4 else ""
    place = escape(library.place)
    console.print(f"Read {escape(names)}{more} in {place}: {size:,} characters.", highlight=False, soft_wrap=True)
    for reason in library.skipped:
        console.print(f"Skipped {escape(reason)}.", style="yellow", highlight=False, soft_wrap=True)


def _print_sources(passages: Sequence[Passage], console: Console) -> None:
    console.print("[bold]Sources[/bold]")
    for number, passage in enumerate(passages, 1):
        start = " ".join(passage.content.split())[:70]
        console.print(f"  [{number}] {passage.name}: {start}…", markup=False, highlight=False, soft_wrap=True)


def _print_costs(records: Sequence[CallRecord], total: Tally, console: Console) -> None:
    rows = [("call", "model", "tokens in", "tokens out", "cost", "Lava request id")]
    for record in records:
        tokens = f"{record.input_tokens or 0:,}", f"{record.output_tokens or 0:,}"
        rows.append((record.kind, record.model, *tokens, format_cost(record.cost), record.request_id or "unknown"))
    rows.append(("total", "", f"{total.input_tokens:,}", f"{total.output_tokens:,}", format_cost(total.cost), ""))
    console.print()
    print_columns(rows, console, right=(2, 3, 4))


class LangChainEngine:
    """The demo in LangChain: a text splitter, the in-memory vector store, and a chain of prompt and model."""

    title = "LangChain"

    def __init__(self, api_key: str, base_url: str) -> None:
        # First our own package: it says which extra is missing.
        from langchain_lava_mistral import ChatLavaMistral, LavaMistralEmbeddings  # isort: split
        from langchain_core.vectorstores import InMemoryVectorStore

        try:
            from langchain_text_splitters import MarkdownTextSplitter
        except ImportError as error:
            raise ImportError(
                'The demo needs langchain-text-splitters: pip install "lava-mistral[langchain]".', name=error.name
            ) from error

        access: dict[str, Any] = {"api_key": api_key, "base_url": base_url, "max_retries": 2}
        self._store = InMemoryVectorStore(LavaMistralEmbeddings(model=DEFAULT_EMBEDDING_MODEL, **access))
        self._model = ChatLavaMistral(model=DEFAULT_CHAT_MODEL, **access)
        self._splitter = MarkdownTextSplitter(chunk_size=_CHUNK, chunk_overlap=_OVERLAP)

    def index(self, texts: Sequence[Text]) -> int:
        from langchain_core.documents import Document

        documents = self._splitter.split_documents(
            Document(text.content, metadata={"source": text.name}) for text in texts
        )
        self._store.add_documents(documents)
        return len(documents)

    def find(self, question: str) -> list[Passage]:
        found = self._store.similarity_search(question, k=_PASSAGES)
        return [Passage(document.metadata["source"], document.page_content) for document in found]

    def answer(self, instruction: str, question: str) -> Iterator[str]:
        from langchain_core.output_parsers import StrOutputParser
        from langchain_core.prompts import ChatPromptTemplate

        prompt = ChatPromptTemplate.from_messages([("system", "{instruction}"), ("human", "{question}")])
        chain = prompt | self._model | StrOutputParser()
        yield from chain.stream({"instruction": instruction, "question": question})


class LlamaIndexEngine:
    """The demo in LlamaIndex: a sentence splitter, the vector store index with its retriever, and the model."""

    title = "LlamaIndex"

    def __init__(self, api_key: str, base_url: str) -> None:
        from llama_index_lava_mistral import ChatLavaMistral, LavaMistralEmbeddings  # isort: split
        from llama_index.core import VectorStoreIndex

        access: dict[str, Any] = {"api_key": api_key, "base_url": base_url, "max_retries": 2}
        embedding = LavaMistralEmbeddings(model_name=DEFAULT_EMBEDDING_MODEL, **access)
        self._model = ChatLavaMistral(model=DEFAULT_CHAT_MODEL, **access)
        self._index = VectorStoreIndex(nodes=[], embed_model=embedding)

    def index(self, texts: Sequence[Text]) -> int:
        from llama_index.core import Document
        from llama_index.core.node_parser import SentenceSplitter

        # Sizes are in tokens here; four characters make about one. Sentences are told by a pattern, because the
        # default, NLTK, refuses to read its files where the installer has hard-linked them, as uv does.
        splitter = SentenceSplitter(
            chunk_size=_CHUNK // 4, chunk_overlap=_OVERLAP // 4, chunking_tokenizer_fn=_SENTENCES.findall
        )
        nodes = splitter.get_nodes_from_documents(
            [Document(text=text.content, metadata={"source": text.name}) for text in texts]
        )
        self._index.insert_nodes(nodes)
        return len(nodes)

    def find(self, question: str) -> list[Passage]:
        found = self._index.as_retriever(similarity_top_k=_PASSAGES).retrieve(question)
        return [Passage(node.metadata["source"], node.get_content()) for node in found]

    def answer(self, instruction: str, question: str) -> Iterator[str]:
        from llama_index.core.llms import ChatMessage, MessageRole

        messages = [
            ChatMessage(role=MessageRole.SYSTEM, content=instruction),
            ChatMessage(role=MessageRole.USER, content=question),
        ]
        for response in self._model.stream_chat(messages):
            yield response.delta or ""


_ENGINES: Final[dict[Framework, Callable[[str, str], Engine]]] = {
    "langchain": LangChainEngine,
    "llama-index": LlamaIndexEngine,
}
