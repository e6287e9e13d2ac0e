"""Every recorded exchange with Mistral, through this package: what is asked, and what the user gets."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from llama_index.core.base.llms.types import ThinkingBlock

from llama_index_lava_mistral import LavaMistralEmbeddings
from tests.conftest import recordings
from tests.fakes.llama_index_recorded import message, options
from tests.fakes.llama_index_scripted import KEY, Caller, Scripted
from tests.fakes.wire_examples import meaning, replay, said


class Recorded(Scripted):
    """Answers with a recording."""

    def __init__(self, response: dict[str, Any]) -> None:
        super().__init__()
        self._response = response

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return replay(self._response)


def one_thought(body: Any) -> Any:
    """A meaning in which thinking next to thinking is one."""
    for wire in body["messages"]:
        parts: list[Any] = []
        for part in wire["content"]:
            if isinstance(part, dict) and part["type"] == "thinking" and parts and parts[-1]["type"] == "thinking":
                parts[-1]["thinking"] += part["thinking"]
            else:
                parts.append(part)
        wire["content"] = parts
    return body


@pytest.mark.parametrize("exchange", recordings("chat"))
def test_a_recorded_chat(exchange: dict[str, Any], caller: Caller) -> None:
    request, response = exchange["request"]["body"], exchange["response"]
    mistral = Recorded(response)
    more = options(request)
    llm = mistral.llm(model=request["model"])
    messages = [message(each) for each in request["messages"]]
    before = [each.model_dump() for each in messages]

    streamed = request.get("stream", False)
    responses = caller.stream_chat(llm, messages, **more) if streamed else [caller.chat(llm, messages, **more)]

    assert one_thought(meaning(mistral.body)) == one_thought(meaning(request))
    assert [each.model_dump() for each in messages] == before
    recorded, got = said(response), responses[-1]
    assert got.message.content == recorded.text
    thinking = [b.content or "" for b in got.message.blocks if isinstance(b, ThinkingBlock)]
    assert "".join(thinking) == recorded.thinking
    calls = llm.get_tool_calls_from_response(got, error_on_no_tool_call=False)
    assert [(c.tool_name, c.tool_kwargs, c.tool_id) for c in calls] == recorded.calls
    assert got.additional_kwargs["finish_reason"] == recorded.finish_reason
    assert got.raw["usage"] == recorded.usage
    assert got.additional_kwargs["prompt_tokens"] == recorded.usage["prompt_tokens"]
    assert got.additional_kwargs["completion_tokens"] == recorded.usage["completion_tokens"]
    assert got.additional_kwargs["cached_tokens"] == (recorded.cached or 0)
    if streamed:
        assert "".join(each.delta or "" for each in responses) == recorded.text


@pytest.mark.parametrize("exchange", recordings("embeddings"))
def test_recorded_embeddings(exchange: dict[str, Any], caller: Caller) -> None:
    request, response = exchange["request"]["body"], exchange["response"]
    texts = [request["input"]] if isinstance(request["input"], str) else request["input"]
    mistral = Recorded(response)
    transport = httpx.MockTransport(mistral)
    embeddings = LavaMistralEmbeddings(
        model_name=request["model"],
        api_key=KEY,
        http_client=httpx.Client(transport=transport),
        async_http_client=httpx.AsyncClient(transport=transport),
    )

    vectors = caller.one(embeddings, "get_text_embedding_batch", texts)

    asked = {key: value for key, value in mistral.body.items() if key != "encoding_format"}
    assert asked == {"model": request["model"], "input": texts}
    assert vectors == [item["embedding"] for item in response["body"]["data"]]
