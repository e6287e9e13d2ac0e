"""What the models of both frameworks send: answers that go back as history, files that say two kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from llama_index.core.base.llms.types import ChatMessage, DocumentBlock

from tests.fakes import llama_index_scripted as llama_index
from tests.langchain import scenario as langchain

PNG = "data:image/png;base64,iVBORw0KGgo="


class LangChain:
    """Asks by `invoke` or `stream`, and shows what was sent last."""

    def __init__(self, asynchronous: bool) -> None:
        self._caller = langchain.Caller(asynchronous)

    def sent(self, *messages: Any) -> list[Any]:
        script = langchain.Script(langchain.answer())
        self._caller.invoke(script.model(), list(messages))
        return list(script.body["messages"])

    def answered(self, deltas: list[Any], *, streamed: bool) -> Any:
        said: Any = langchain.events(*deltas) if streamed else langchain.answer(_joined(deltas))
        return self._caller.ask(streamed, langchain.Script(said).model(), "?")

    def question(self, text: str) -> Any:
        return HumanMessage(text)

    def file(self, url: str, kind: str) -> Any:
        return HumanMessage([{"type": "file", "url": url, "mime_type": kind}])


class LlamaIndex:
    """Asks by `chat` or `stream_chat`, and shows what was sent last."""

    def __init__(self, asynchronous: bool) -> None:
        self._caller = llama_index.Caller(asynchronous)

    def sent(self, *messages: Any) -> list[Any]:
        script = llama_index.Scripted(llama_index.answer())
        self._caller.chat(script.llm(), list(messages))
        return list(script.body["messages"])

    def answered(self, deltas: list[Any], *, streamed: bool) -> Any:
        if streamed:
            return self._caller.stream_chat(llama_index.Scripted(llama_index.stream(*deltas)).llm(), llama_index.ask())[
                -1
            ].message
        script = llama_index.Scripted(llama_index.answer(_joined(deltas)))
        return self._caller.chat(script.llm(), llama_index.ask()).message

    def question(self, text: str) -> Any:
        return ChatMessage(role="user", content=text)

    def file(self, url: str, kind: str) -> Any:
        return ChatMessage(role="user", blocks=[DocumentBlock(url=url, document_mimetype=kind)])


def _joined(deltas: list[Any]) -> list[Any]:
    return [part for delta in deltas for part in delta["content"]]


@pytest.fixture(params=[LangChain, LlamaIndex])
def framework(request: pytest.FixtureRequest) -> Callable[[bool], Any]:
    chosen: Callable[[bool], Any] = request.param
    return chosen


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def models(framework: Callable[[bool], Any], request: pytest.FixtureRequest) -> Any:
    return framework(request.param)


def thinking(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}], **more}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_thinking_that_came_in_parts_goes_back_closed_and_signed(models: Any, streamed: bool) -> None:
    deltas = [
        {"content": [thinking("One. ", closed=False)]},
        {"content": [thinking("Two.", closed=True, signature="sig")]},
        {"content": [{"type": "text", "text": "So."}]},
    ]
    message = models.answered(deltas, streamed=streamed)
    _, sent, _ = models.sent(models.question("?"), message, models.question("And?"))
    part, rest = sent["content"]
    assert part.pop("closed", True) is True
    assert part == thinking("One. Two.", signature="sig")
    assert rest == {"type": "text", "text": "So."}


def test_a_data_url_knows_its_kind_better_than_the_block_around_it(models: Any) -> None:
    (sent,) = models.sent(models.file(PNG, "application/pdf"))
    assert sent["content"] == [{"type": "image_url", "image_url": {"url": PNG}}]
