"""What LlamaIndex asks of a model, as a table: feature × method × sync or async × streamed or not.

LlamaIndex has no such suite. Every row runs against the embedded gateway, with whatever adapter brings a model: this
package's, or another integration's, so that both can be compared by the same rows.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Literal, Protocol

from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    ChatMessage,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler, TokenCountingHandler
from llama_index.core.prompts import PromptTemplate
from llama_index.core.rate_limiter import TokenBucketRateLimiter
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, TypeAdapter

from lava_mistral.gateway import Interrupted, LocalGateway, Status, WrongVectors
from tests.conftest import recordings
from tests.fakes.llama_index_recorded import message, options
from tests.fakes.llama_index_scripted import Caller, answer, ask, call, stream
from tests.fakes.wire_examples import said

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "Let me see."}], "closed": True}


class Adapter(Protocol):
    """Brings the models of one integration, which talk to a gateway.

    Attributes:
        name: the integration's name.
    """

    name: str

    def llm(self, gateway: LocalGateway, **settings: Any) -> Any: ...

    def embeddings(self, gateway: LocalGateway, **settings: Any) -> Any: ...


@dataclass
class Bench:
    """What a check works with: one model, one way of calling it."""

    adapter: Adapter
    gateway: LocalGateway
    caller: Caller
    streamed: bool

    def llm(self, **settings: Any) -> Any:
        return self.adapter.llm(self.gateway, **settings)

    def embeddings(self, **settings: Any) -> Any:
        return self.adapter.embeddings(self.gateway, **settings)

    def says(self, *deltas: Any, finish_reason: str = "stop", **more: Any) -> None:
        """Queue an answer; `deltas` are texts or deltas."""
        if self.streamed:
            self.gateway.queue(events(stream(*deltas, finish_reason=finish_reason)))
            return
        content: list[Any] = []
        calls: list[Any] = []
        for delta in deltas:
            if isinstance(delta, str):
                content.append({"type": "text", "text": delta})
            else:
                content += delta.get("content", [])
                calls += delta.get("tool_calls", [])
        plain = all(part["type"] == "text" for part in content)
        said: Any = "".join(part["text"] for part in content) if plain else content
        self.gateway.queue(answer(said, calls=calls, finish_reason=finish_reason, **more))

    def all(self, subject: Any, method: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Every response of a method, streamed or not."""
        if self.streamed:
            return self.caller.all(subject, f"stream_{method}", *args, **kwargs)
        return [self.caller.one(subject, method, *args, **kwargs)]

    def last(self, subject: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        return self.all(subject, method, *args, **kwargs)[-1]

    @property
    def body(self) -> Any:
        return self.gateway.requests[-1].body


def events(chunks: list[Any]) -> str:
    return "".join(f"data: {json.dumps(each)}\n\n" for each in chunks) + "data: [DONE]\n\n"


@dataclass(frozen=True)
class Feature:
    """One line of the table.

    Attributes:
        group: what it is about.
        name: what is asked.
        check: raises where it is not so.
        ways: streamed, not streamed, or both.
    """

    group: str
    name: str
    check: Callable[[Bench], None]
    ways: tuple[bool, ...]


FEATURES: list[Feature] = []
BOTH, WHOLE, STREAMED = (False, True), (False,), (True,)


def feature(group: str, name: str, ways: tuple[bool, ...] = BOTH) -> Callable[[Any], Any]:
    def add(check: Callable[[Bench], None]) -> Callable[[Bench], None]:
        FEATURES.append(Feature(group, name, check, ways))
        return check

    return add


@dataclass(frozen=True)
class Row:
    """One cell of the table: a feature, called in one way."""

    feature: Feature
    asynchronous: bool
    streamed: bool

    def __str__(self) -> str:
        how = "async" if self.asynchronous else "sync"
        return f"{self.feature.group}: {self.feature.name} [{how}{', streamed' if self.streamed else ''}]"

    def run(self, adapter: Adapter, gateway: LocalGateway) -> None:
        """Raise where the adapter's model does not do it."""
        self.feature.check(Bench(adapter, gateway, Caller(self.asynchronous), self.streamed))


def rows() -> Iterator[Row]:
    """The whole table."""
    return _cells(FEATURES)


def recorded_rows() -> Iterator[Row]:
    """A row for each recorded chat, where the recordings are on the machine: is the answer what was recorded?"""
    exchanges = [parameter.values[0] for parameter in recordings("chat")]
    return _cells([_recorded(each) for each in exchanges if each is not None])


def _recorded(exchange: dict[str, Any]) -> Feature:
    request, response = exchange["request"]["body"], exchange["response"]

    def check(bench: Bench) -> None:
        bench.gateway.queue(response["body"])
        llm = bench.llm()
        got = bench.last(llm, "chat", [message(each) for each in request["messages"]], **options(request))
        expected = said(response)
        assert (got.message.content or "") == expected.text
        thinking = [b.content or "" for b in got.message.blocks if isinstance(b, ThinkingBlock)]
        assert "".join(thinking) == expected.thinking
        calls = llm.get_tool_calls_from_response(got, error_on_no_tool_call=False)
        assert [(c.tool_name, c.tool_kwargs, c.tool_id) for c in calls] == expected.calls
        assert dict(got.raw)["usage"] is not None

    return Feature("recorded", exchange["id"], check, (request.get("stream", False),))


def _cells(features: list[Feature]) -> Iterator[Row]:
    for each in features:
        for asynchronous in (False, True):
            for streamed in each.ways:
                yield Row(each, asynchronous, streamed)


@feature("text", "a chat is answered")
def _(bench: Bench) -> None:
    question = "The capital of France is Paris. What is the capital of France?"
    assert "Paris" in bench.last(bench.llm(), "chat", ask(question)).message.content


@feature("text", "a completion is answered")
def _(bench: Bench) -> None:
    bench.says("Pa", "ris")
    assert bench.last(bench.llm(), "complete", "Capital?").text == "Paris"


@feature("text", "deltas and cumulative text are exact", STREAMED)
def _(bench: Bench) -> None:
    bench.says("You", " said", ":\n", "hi")
    responses = bench.all(bench.llm(), "chat", ask())
    told = [(r.delta, r.message.content) for r in responses if r.delta]
    assert told == [
        ("You", "You"),
        (" said", "You said"),
        (":\n", "You said:\n"),
        ("hi", "You said:\nhi"),
    ]


@feature("text", "deltas given as lists of parts gain nothing", STREAMED)
def _(bench: Bench) -> None:
    bench.says(*({"content": [{"type": "text", "text": word}]} for word in ("You", " said")))
    responses = bench.all(bench.llm(), "chat", ask())
    assert "".join(r.delta or "" for r in responses) == "You said"
    assert responses[-1].message.content == "You said"


@feature("text", "responses of a stream do not change afterwards", STREAMED)
def _(bench: Bench) -> None:
    bench.says("a", "b", "c")
    responses = bench.all(bench.llm(), "chat", ask())
    contents = [r.message.content for r in responses if r.delta]
    assert contents == ["a", "ab", "abc"]


@feature("text", "citations keep the text around them")
def _(bench: Bench) -> None:
    reference = {"type": "reference", "reference_ids": [1]}
    parts = [{"type": "text", "text": "So"}, reference, {"type": "text", "text": " it is."}]
    bench.says({"content": parts})
    assert bench.last(bench.llm(), "chat", ask()).message.content == "So it is."


@feature("thinking", "is a block of its own, and never in the text")
def _(bench: Bench) -> None:
    bench.says({"content": [THINKING]}, "4")
    responses = bench.all(bench.llm(model="magistral-medium-latest"), "chat", ask())
    message = responses[-1].message
    assert message.content == "4"
    assert [b.content for b in message.blocks if isinstance(b, ThinkingBlock)] == ["Let me see."]
    if bench.streamed:
        assert "".join(r.delta or "" for r in responses) == "4"


@feature("thinking", "of any model that thinks")
def _(bench: Bench) -> None:
    bench.says({"content": [THINKING]}, "4")
    message = bench.last(bench.llm(model="mistral-small-latest"), "chat", ask(), reasoning_effort="high").message
    assert message.content == "4"
    assert [b.content for b in message.blocks if isinstance(b, ThinkingBlock)] == ["Let me see."]


@feature("thinking", "reaches an agent's listeners as thinking_delta", STREAMED)
def _(bench: Bench) -> None:
    bench.says({"content": [THINKING]}, "4")
    responses = bench.all(bench.llm(model="magistral-medium-latest"), "chat", ask())
    assert [r.additional_kwargs["thinking_delta"] for r in responses if r.additional_kwargs.get("thinking_delta")] == [
        "Let me see."
    ]


@feature("thinking", "is replayed", WHOLE)
def _(bench: Bench) -> None:
    bench.says({"content": [THINKING]}, "4")
    llm = bench.llm(model="magistral-medium-latest")
    first = bench.last(llm, "chat", ask())
    bench.last(llm, "chat", [*ask(), first.message, *ask("Sure?")])
    assert bench.body["messages"][1]["content"][0]["thinking"] == THINKING["thinking"]


def weather(city: str) -> str:
    """Get the weather of a city."""
    return f"sunny in {city}"


def population(city: str) -> str:
    """Get the population of a city."""
    return "two million"


TOOLS = [FunctionTool.from_defaults(weather), FunctionTool.from_defaults(population)]
CALLS = [call("weather", {"city": "Rome"}, id="aaaaaaaaa"), call("population", {"city": "Rome"}, id="bbbbbbbbb")]


def selections(llm: Any, response: Any) -> list[tuple[str, str, Any]]:
    made = llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
    return [(each.tool_id, each.tool_name, each.tool_kwargs) for each in made]


@feature("tools", "a tool is called")
def _(bench: Bench) -> None:
    llm = bench.llm()
    response = bench.last(llm, "chat_with_tools", TOOLS, user_msg="What is the weather in 'Rome'?")
    ((_, name, arguments),) = selections(llm, response)
    assert (name, arguments) == ("weather", {"city": "Rome"})


@feature("tools", "parallel calls are all there")
def _(bench: Bench) -> None:
    bench.says({"tool_calls": CALLS}, finish_reason="tool_calls")
    llm = bench.llm()
    response = bench.last(llm, "chat_with_tools", TOOLS, user_msg="?", allow_parallel_tool_calls=True)
    assert [name for _, name, _ in selections(llm, response)] == ["weather", "population"]


@feature("tools", "text beside a call is kept")
def _(bench: Bench) -> None:
    bench.says("Looking.", {"tool_calls": CALLS[:1]}, finish_reason="tool_calls")
    llm = bench.llm()
    response = bench.last(llm, "chat_with_tools", TOOLS, user_msg="?")
    assert response.message.content == "Looking."
    assert len(selections(llm, response)) == 1


@feature("tools", "calls in fragments are put together, partial arguments are read", STREAMED)
def _(bench: Bench) -> None:
    pieces = [("weather", ""), ("", '{"city": "Ro'), ("", 'me"}')]
    bench.says(
        *(
            {"tool_calls": [{"index": 0, "id": "aaaaaaaaa", "function": {"name": name, "arguments": piece}}]}
            for name, piece in pieces
        )
    )
    llm = bench.llm()
    responses = bench.all(llm, "chat_with_tools", TOOLS, user_msg="?")
    seen = [selections(llm, r) for r in responses]
    assert seen[-1] == [("aaaaaaaaa", "weather", {"city": "Rome"})]
    assert [("aaaaaaaaa", "weather", {"city": "Ro"})] in seen


@feature("tools", "tool_required forces a call")
def _(bench: Bench) -> None:
    llm = bench.llm()
    response = bench.last(llm, "chat_with_tools", TOOLS, user_msg="Hello.", tool_required=True)
    assert selections(llm, response)


@feature("tools", "tool_choice names a tool")
def _(bench: Bench) -> None:
    llm = bench.llm()
    response = bench.last(llm, "chat_with_tools", TOOLS, user_msg="Weather in 'Rome'?", tool_choice="population")
    assert [name for _, name, _ in selections(llm, response)] == ["population"]


@feature("tools", "tool_choice None with tool_required is required")
def _(bench: Bench) -> None:
    llm = bench.llm()
    response = bench.last(llm, "chat_with_tools", TOOLS, user_msg="Hello.", tool_required=True, tool_choice=None)
    assert selections(llm, response)


@feature("tools", "allow_parallel_tool_calls reaches Mistral")
def _(bench: Bench) -> None:
    bench.last(bench.llm(), "chat_with_tools", TOOLS, user_msg="Hello.", allow_parallel_tool_calls=False)
    assert bench.body["parallel_tool_calls"] is False


@feature("tools", "the history is left as it was")
def _(bench: Bench) -> None:
    history = ask("Before")
    before = copy.deepcopy(history)
    bench.last(bench.llm(), "chat_with_tools", TOOLS, user_msg="Now", chat_history=history)
    assert history == before


@feature("tools", "ids of other providers are mapped")
def _(bench: Bench) -> None:
    history = [
        *ask("Weather?"),
        ChatMessage(
            role="assistant",
            blocks=[ToolCallBlock(tool_call_id="call_0123456789", tool_name="weather", tool_kwargs={"city": "Rome"})],
        ),
        ChatMessage(role="tool", content="sunny", additional_kwargs={"tool_call_id": "call_0123456789"}),
    ]
    response = bench.last(bench.llm(), "chat", history)
    assert response.message.content


@feature("tools", "predict_and_call", WHOLE)
def _(bench: Bench) -> None:
    output = bench.caller.one(bench.llm(), "predict_and_call", TOOLS, user_msg="What is the weather in 'Rome'?")
    assert output.response == "sunny in Rome"


class Person(BaseModel):
    name: str
    age: int | None = None


class Place(BaseModel):
    """A place on a map."""

    name: str
    mayor: Person | None = None
    streets: list[str] = []


PLACE = {"name": "Rome", "mayor": {"name": "Ada", "age": None}, "streets": ["A", "B"]}
PROMPT = PromptTemplate("Describe the place {what}.")


@feature("structured", "an object is made by the model")
def _(bench: Bench) -> None:
    made = bench.last(bench.llm(), "structured_predict", Place, PROMPT, what="'Rome'")
    assert isinstance(made, Place)
    assert made.name == "Rome"


def _speaks_structured(bench: Bench) -> None:
    """Queue the object in the form in which the integration will ask for it: it is asked once to find out."""
    llm = bench.llm()
    bench.last(llm, "structured_predict", Place, PROMPT, what="'Rome'")
    text = json.dumps(PLACE)
    pieces = [text[start : start + 6] for start in range(0, len(text), 6)]
    if "response_format" in bench.body:
        bench.says(*pieces)
    elif bench.streamed:
        first, *rest = pieces
        bench.says(
            {"tool_calls": [{"index": 0, "id": "aaaaaaaaa", "function": {"name": "Place", "arguments": first}}]},
            *({"tool_calls": [{"index": 0, "function": {"name": "", "arguments": piece}}]} for piece in rest),
        )
    else:
        bench.says({"tool_calls": [call("Place", text)]}, finish_reason="tool_calls")


@feature("structured", "nested and optional fields and lists")
def _(bench: Bench) -> None:
    _speaks_structured(bench)
    made = bench.last(bench.llm(), "structured_predict", Place, PROMPT, what="'Rome'")
    assert made == Place.model_validate(PLACE)


@feature("structured", "partial objects while it streams", STREAMED)
def _(bench: Bench) -> None:
    _speaks_structured(bench)
    made = bench.all(bench.llm(), "structured_predict", Place, PROMPT, what="'Rome'")
    assert made[-1] == Place.model_validate(PLACE)
    assert any(each.name == "Rome" and not each.streets for each in made)


@feature("structured", "as_structured_llm", WHOLE)
def _(bench: Bench) -> None:
    response = bench.caller.one(bench.llm().as_structured_llm(Place), "chat", ask("Describe the place 'Rome'."))
    assert response.raw.name == "Rome"


@feature("structured", "the system prompt is sent", WHOLE)
def _(bench: Bench) -> None:
    bench.last(bench.llm(system_prompt="Be exact."), "structured_predict", Place, PROMPT, what="'Rome'")
    assert bench.body["messages"][0]["role"] == "system"


def _taken(bench: Bench, *blocks: Any, **settings: Any) -> Any:
    message = ChatMessage(role="user", blocks=[TextBlock(text="See."), *blocks])
    bench.last(bench.llm(**settings), "chat", [message])
    assert bench.gateway.requests[-1].status == 200
    return bench.body["messages"][0]["content"]


@feature("blocks", "a picture", WHOLE)
def _(bench: Bench) -> None:
    assert _taken(bench, ImageBlock(image=PNG))[1]["type"] == "image_url"


@feature("blocks", "a sound", WHOLE)
def _(bench: Bench) -> None:
    heard = _taken(bench, AudioBlock(audio=b"ID3" + bytes(9)), model="voxtral-small-latest")
    assert heard[1]["type"] == "input_audio"


@feature("blocks", "a PDF by content", WHOLE)
def _(bench: Bench) -> None:
    assert _taken(bench, DocumentBlock(data=b"%PDF-1.4"))[1]["type"] == "document_url"


@feature("blocks", "a PDF by URL", WHOLE)
def _(bench: Bench) -> None:
    assert _taken(bench, DocumentBlock(url="https://example.invalid/a.pdf"))[1]["type"] == "document_url"


@feature("blocks", "a cache point is ignored", WHOLE)
def _(bench: Bench) -> None:
    assert _taken(bench, CachePoint(cache_control=CacheControl(type="ephemeral")))


@feature("blocks", "a citation is its text", WHOLE)
def _(bench: Bench) -> None:
    block = CitationBlock(cited_content="Rome", source="s", title="t", additional_location_info={})
    assert "Rome" in json.dumps(_taken(bench, block))


@feature("blocks", "a picture as a tool's result", WHOLE)
def _(bench: Bench) -> None:
    history = [
        *ask("Draw."),
        ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_call_id="aaaaaaaaa", tool_name="f", tool_kwargs={})]),
        ChatMessage(role="tool", blocks=[ImageBlock(image=PNG)], additional_kwargs={"tool_call_id": "aaaaaaaaa"}),
    ]
    bench.last(bench.llm(), "chat", history)
    assert bench.body["messages"][-1]["content"][0]["type"] == "image_url"


def _role(role: MessageRole) -> None:
    @feature("roles", role.value, WHOLE)
    def check(bench: Bench) -> None:
        history = [ChatMessage(role=role, content="Be brief."), *ask()]
        if role in (MessageRole.ASSISTANT, MessageRole.CHATBOT, MessageRole.MODEL):
            history.insert(0, *ask())
        if role in (MessageRole.TOOL, MessageRole.FUNCTION):
            block = ToolCallBlock(tool_call_id="aaaaaaaaa", tool_name="f", tool_kwargs={})
            history = [
                *ask(),
                ChatMessage(role="assistant", blocks=[block]),
                ChatMessage(role=role, content="42", additional_kwargs={"tool_call_id": "aaaaaaaaa"}),
            ]
        assert bench.last(bench.llm(), "chat", history).message.content


for _each in MessageRole:
    _role(_each)


@feature("facts", "raw is a dictionary with the usage")
def _(bench: Bench) -> None:
    raw = bench.last(bench.llm(), "chat", ask()).raw
    assert isinstance(raw, dict)
    assert raw["usage"]["prompt_tokens"] > 0


@feature("facts", "LlamaIndex's token counter reads Mistral's count")
def _(bench: Bench) -> None:
    counter = TokenCountingHandler(tokenizer=lambda text: [0] * 10_000)
    bench.last(bench.llm(callback_manager=CallbackManager([counter])), "chat", ask())
    usage = bench.gateway.requests[-1].usage
    assert usage is not None
    assert counter.prompt_llm_token_count == usage["prompt_tokens"]
    assert counter.completion_llm_token_count == usage["completion_tokens"]


@feature("facts", "one start and one end event for a chat")
def _(bench: Bench) -> None:
    _one_event(bench, "chat", ask())


@feature("facts", "one start and one end event for a completion")
def _(bench: Bench) -> None:
    _one_event(bench, "complete", "Hello")


def _one_event(bench: Bench, method: str, argument: Any) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    bench.last(bench.llm(callback_manager=CallbackManager([debug])), method, argument)
    assert len(debug.get_event_pairs(CBEventType.LLM)) == 1


@feature("gateway", "the request id of the gateway")
def _(bench: Bench) -> None:
    response = bench.last(bench.llm(), "chat", ask())
    assert bench.gateway.requests[-1].request_id in json.dumps(response.additional_kwargs, default=str)


@feature("gateway", "the cost")
def _(bench: Bench) -> None:
    response = bench.last(bench.llm(), "chat", ask())
    assert Decimal(response.additional_kwargs["cost"]) == bench.gateway.requests[-1].cost


@feature("model", "no max_tokens that nobody set")
def _(bench: Bench) -> None:
    bench.last(bench.llm(), "chat", ask())
    assert "max_tokens" not in bench.body


@feature("model", "no temperature that nobody set")
def _(bench: Bench) -> None:
    bench.last(bench.llm(), "chat", ask())
    assert "temperature" not in bench.body


@feature("model", "metadata of a model that is not known", WHOLE)
def _(bench: Bench) -> None:
    assert bench.llm(model="made-up-by-nobody").metadata.is_function_calling_model


@feature("failures", "429 is tried again")
def _(bench: Bench) -> None:
    bench.gateway.queue(Status(429, retry_after=0))
    assert bench.last(bench.llm(max_retries=2), "chat", ask()).message.content


def _interrupted(bench: Bench, how: Any) -> None:
    bench.gateway.queue(Interrupted(how=how))
    try:
        bench.last(bench.llm(max_retries=0), "chat", ask("The capital of France is Paris. What is the capital?"))
    except Exception:  # noqa: BLE001 - any error will do, a silent end will not
        return
    raise AssertionError("the cut answer looked whole")


@feature("failures", "a stream that ends early raises", STREAMED)
def _(bench: Bench) -> None:
    _interrupted(bench, "clean")


@feature("failures", "an error event in a stream raises", STREAMED)
def _(bench: Bench) -> None:
    _interrupted(bench, "error event")


@feature("failures", "finish reason error raises", STREAMED)
def _(bench: Bench) -> None:
    _interrupted(bench, "finish error")


WORDS = ["rivers", "mountains", "cities"]


@feature("embeddings", "a query", WHOLE)
def _(bench: Bench) -> None:
    assert len(bench.caller.one(bench.embeddings(), "get_query_embedding", "a")) == 1024


@feature("embeddings", "a text", WHOLE)
def _(bench: Bench) -> None:
    assert len(bench.caller.one(bench.embeddings(), "get_text_embedding", "a")) == 1024


@feature("embeddings", "a batch", WHOLE)
def _(bench: Bench) -> None:
    assert len(bench.caller.one(bench.embeddings(), "get_text_embedding_batch", WORDS)) == 3


@feature("embeddings", "vectors go by their index", WHOLE)
def _(bench: Bench) -> None:
    expected = bench.caller.one(bench.embeddings(), "get_text_embedding_batch", WORDS)
    bench.gateway.queue(WrongVectors("shuffled"))
    assert bench.caller.one(bench.embeddings(), "get_text_embedding_batch", WORDS) == expected


@feature("embeddings", "a short answer never moves vectors", WHOLE)
def _(bench: Bench) -> None:
    bench.gateway.queue(WrongVectors("short"))
    try:
        vectors = bench.caller.one(bench.embeddings(), "get_text_embedding_batch", WORDS)
    except Exception:  # noqa: BLE001 - an error is right, fewer vectors are not
        return
    assert len(vectors) == 3


@feature("embeddings", "large batches keep Mistral's limits", WHOLE)
def _(bench: Bench) -> None:
    texts = [f"{n} " + "word " * 100 for n in range(600)]
    assert len(bench.caller.one(bench.embeddings(embed_batch_size=600), "get_text_embedding_batch", texts)) == 600


@feature("embeddings", "the rate limiter is not charged for cached vectors", WHOLE)
def _(bench: Bench) -> None:
    class Counting(TokenBucketRateLimiter):
        asked: int = 0

        def acquire(self, num_tokens: int = 0) -> None:
            self.asked += 1

        async def async_acquire(self, num_tokens: int = 0) -> None:
            self.asked += 1

    limiter = Counting(requests_per_minute=60)
    embeddings = bench.embeddings(rate_limiter=limiter, embeddings_cache=SimpleKVStore())
    for _ in range(2):
        bench.caller.one(embeddings, "get_text_embedding_batch", WORDS)
    assert limiter.asked == 1


def _messages_on_the_wire(bench: Bench, history: list[ChatMessage]) -> list[Any]:
    assert bench.last(bench.llm(), "chat", history).message.content
    assert bench.gateway.requests[-1].status == 200
    messages: list[Any] = bench.body["messages"]
    return messages


def _calls(*ids: str) -> ChatMessage:
    blocks = [ToolCallBlock(tool_call_id=id, tool_name="weather", tool_kwargs={"city": "Rome"}) for id in ids]
    return ChatMessage(role="assistant", blocks=[*blocks])


def _result(id: str, text: str = "sunny") -> ChatMessage:
    return ChatMessage(role="tool", content=text, additional_kwargs={"tool_call_id": id})


@feature("histories", "a question after tool results")
def _(bench: Bench) -> None:
    history = [*ask("Weather?"), _calls("aaaaaaaaa"), _result("aaaaaaaaa"), *ask("In Fahrenheit?")]
    assert _messages_on_the_wire(bench, history)[-1]["content"] == "In Fahrenheit?"


@feature("histories", "a call without a result")
def _(bench: Bench) -> None:
    history = [*ask("Weather?"), _calls("aaaaaaaaa", "bbbbbbbbb"), _result("aaaaaaaaa")]
    sent = _messages_on_the_wire(bench, history)
    assert [message["role"] for message in sent[-2:]] == ["tool", "tool"]


@feature("histories", "an assistant message without content")
def _(bench: Bench) -> None:
    history = [*ask("Weather?"), ChatMessage(role="assistant", content=""), *ask("Well?")]
    assert all(message["content"] for message in _messages_on_the_wire(bench, history))


@feature("histories", "the error text of a return_direct tool is no new turn")
def _(bench: Bench) -> None:
    echo = ChatMessage(role="assistant", content="it failed", additional_kwargs={"tool_call_id": "aaaaaaaaa"})
    history = [*ask("Weather?"), _calls("aaaaaaaaa"), _result("aaaaaaaaa", "it failed"), echo]
    assert _messages_on_the_wire(bench, history)[-1]["role"] == "tool"


@feature("histories", "arguments with a date")
def _(bench: Bench) -> None:
    block = ToolCallBlock(tool_call_id="aaaaaaaaa", tool_name="weather", tool_kwargs={"day": date(2026, 1, 2)})
    history = [*ask("Weather?"), ChatMessage(role="assistant", blocks=[block]), _result("aaaaaaaaa")]
    assert "2026-01-02" in _messages_on_the_wire(bench, history)[1]["tool_calls"][0]["function"]["arguments"]


@feature("histories", "a tool's file that Mistral can't fetch is data")
def _(bench: Bench) -> None:
    blocks = [TextBlock(text="See."), DocumentBlock(url="file:///tmp/report.pdf")]
    result = ChatMessage(role="tool", blocks=blocks, additional_kwargs={"tool_call_id": "aaaaaaaaa"})
    sent = _messages_on_the_wire(bench, [*ask("Weather?"), _calls("aaaaaaaaa"), result])
    assert "document_url" not in [part["type"] for part in sent[-1]["content"] if isinstance(part, dict)]


def _malformed(bench: Bench, arguments: str) -> list[tuple[str, str, Any]]:
    made = call("weather", arguments, id="aaaaaaaaa")
    bench.says({"tool_calls": [made]}, finish_reason="tool_calls")
    llm = bench.llm()
    return selections(llm, bench.last(llm, "chat_with_tools", TOOLS, user_msg="?"))


@feature("tools", "a malformed call runs no tool and does not end an agent's run")
def _(bench: Bench) -> None:
    assert [name for _, name, _ in _malformed(bench, '{"city": "Ro')] not in ([], ["weather"])


@feature("tools", "arguments null call a tool without arguments")
def _(bench: Bench) -> None:
    assert _malformed(bench, "null") == [("aaaaaaaaa", "weather", {})]


@feature("tools", "arguments that are encoded twice are decoded")
def _(bench: Bench) -> None:
    assert _malformed(bench, json.dumps('{"city": "Rome"}')) == [("aaaaaaaaa", "weather", {"city": "Rome"})]


@feature("tools", "names that Mistral refuses, two of them alike")
def _(bench: Bench) -> None:
    tools = [FunctionTool.from_defaults(weather, name=name) for name in ("get.weather", "get_weather")]
    llm = bench.llm()
    bench.last(llm, "chat_with_tools", tools, user_msg="Hello.")
    first, second = (tool["function"]["name"] for tool in bench.body["tools"])
    assert first != second
    bench.says({"tool_calls": [call(first, {"city": "Rome"})]}, finish_reason="tool_calls")
    ((_, name, _),) = selections(llm, bench.last(llm, "chat_with_tools", tools, user_msg="?"))
    assert name == "get.weather"


class Node(BaseModel):
    """A node of a tree."""

    name: str
    children: list[Node] = []


@feature("tools", "recursive arguments keep their definitions")
def _(bench: Bench) -> None:
    tool = FunctionTool.from_defaults(lambda **kwargs: "grown", name="grow", description="Grow.", fn_schema=Node)
    bench.last(bench.llm(), "chat_with_tools", [tool], user_msg="Hello.")
    parameters = bench.body["tools"][0]["function"]["parameters"]
    assert (parameters["type"], parameters["properties"].keys()) == ("object", {"name", "children"})


@feature("tools", "Mistral's own tools pass through")
def _(bench: Bench) -> None:
    # Only what is sent counts here: no tool of Mistral's runs in the gateway.
    with suppress(Exception):
        bench.last(bench.llm(), "chat", ask(), tools=[{"type": "web_search"}])
    assert bench.body["tools"] == [{"type": "web_search"}]


@feature("structured", "an enumeration, a union, a list", WHOLE)
def _(bench: Bench) -> None:
    for cls, value in ((Literal["a", "b"], "b"), (Person | Place, {"name": "Ada"}), (list[Person], [{"name": "Ada"}])):
        bench.gateway.queue(answer(json.dumps({"value": value})))
        made = bench.last(bench.llm(), "structured_predict", cls, PROMPT, what="it")
        assert TypeAdapter(cls).dump_python(made, exclude_unset=True) == value


@feature("structured", "JSON in a fence")
def _(bench: Bench) -> None:
    text = f"```json\n{json.dumps(PLACE)}\n```"
    bench.says(*(text[start : start + 6] for start in range(0, len(text), 6)))
    made = bench.last(bench.llm(), "structured_predict", Place, PROMPT, what="'Rome'")
    assert made == Place.model_validate(PLACE)


SEARCH = call("web_search", {"q": "x"}, id="aaaaaaaaa")
STEPS = [
    {"role": "assistant", "content": "", "tool_calls": [SEARCH]},
    {"role": "tool", "tool_call_id": "aaaaaaaaa", "content": "found"},
    {"role": "assistant", "content": "It is so."},
]


@feature("answers", "after tools that Mistral ran, and none of their calls to run")
def _(bench: Bench) -> None:
    if bench.streamed:
        pieces = [{**message, "index": at} for at, message in enumerate(STEPS)]
        bench.gateway.queue(events(stream(*pieces)))
    else:
        whole = answer()
        whole["choices"] = [{"index": 0, "finish_reason": "stop", "messages": STEPS}]
        bench.gateway.queue(whole)
    llm = bench.llm()
    response = bench.last(llm, "chat", ask())
    assert response.message.content == "It is so."
    assert selections(llm, response) == []


@feature("answers", "log probabilities")
def _(bench: Bench) -> None:
    token = {"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "token_id": 1}
    choice = {"index": 0, "logprobs": {"content": [token]}}
    if bench.streamed:
        first = {"choices": [{**choice, "delta": {"content": "Hi"}, "finish_reason": None}]}
        bench.gateway.queue(events([{**stream()[0], **first}, stream()[-1]]))
    else:
        whole = answer("Hi")
        whole["choices"][0] |= choice
        bench.gateway.queue(whole)
    places = [place for response in bench.all(bench.llm(), "chat", ask()) for place in response.logprobs or ()]
    assert [(each.token, each.logprob) for place in places for each in place] == [("Hi", -0.1)]


@feature("answers", "the facts can be written as JSON")
def _(bench: Bench) -> None:
    assert json.dumps(bench.last(bench.llm(), "chat", ask()).additional_kwargs)


@feature("settings", "a misspelt argument of a call is refused before it is sent")
def _(bench: Bench) -> None:
    _refused_unsent(bench, temprature=1)


@feature("settings", "a key given to a call is refused before it is sent")
def _(bench: Bench) -> None:
    _refused_unsent(bench, openai_api_key="sk-hushhush")


def _refused_unsent(bench: Bench, **given: Any) -> None:
    try:
        bench.last(bench.llm(), "chat", ask(), **given)
    except Exception:  # noqa: BLE001 - any error will do, if nothing was sent
        assert not bench.gateway.requests
        return
    raise AssertionError("it was taken")


@feature("settings", "the newer fields of Mistral's request, by model and by call")
def _(bench: Bench) -> None:
    fields = {"prompt_cache_key": "k", "frequency_penalty": 0.1, "n": 1}
    bench.last(bench.llm(**fields), "chat", ask())
    by_model = bench.body
    bench.last(bench.llm(), "chat", ask(), **fields)
    assert fields.items() <= by_model.items()
    assert fields.items() <= bench.body.items()
