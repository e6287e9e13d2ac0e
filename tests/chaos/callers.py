"""Call every surface in every way, and say whether what came back is right."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel

from tests.chaos.answers import arguments_for, person_for, text_for, vector_for

CREDENTIAL = "aks_test_c4n4ry0123456789abcdef"
TIMEOUT, GAP = 1.5, 0.7
EMBEDDING = {"model": "codestral-embed", "dimensions": 8}
OPERATIONS = {"chat": ("chat", "tools", "structured"), "stream": ("stream", "tool stream"), "embed": ("few", "many")}
KIND = {operation: kind for kind, operations in OPERATIONS.items() for operation in operations}


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"sunny in {city}"


WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA: Any = {"type": "json_schema", "json_schema": {"name": "Person", "schema": Person.model_json_schema()}}
Act = Callable[[str], Any]


def texts_of(prompt: str, operation: str) -> list[str]:
    """Return what an embedding operation embeds: few texts, or several batches of them."""
    return [f"{prompt} {number}" for number in range(3 if operation == "few" else 1_200)]


def is_right(operation: str, prompt: str, result: Any, *, exact: bool) -> bool:
    """Tell whether a result answers this prompt.

    Args:
        exact: whether it has to be the whole answer; else it must only not be somebody else's.
    """
    match operation:
        case "few" | "many":
            expected = [vector_for(text) for text in texts_of(prompt, operation)]
            return [list(vector)[: len(expected[0])] for vector in result] == expected
        case "tools" | "tool stream":
            right = [("weather", arguments_for(prompt, "weather"))], [("weather", {"city": "split"})]
            # A call with half its arguments is no call: no arguments, or a name that no tool has.
            called = [
                (name, arguments) for name, arguments in result if arguments is not None and "not called" not in name
            ]
            return result in right or (not exact and all(name == "f" and not given for name, given in called))
        case "structured":
            return result == Person(**person_for(prompt)) or (not exact and result is None)
        case _:
            return result == text_for(prompt) or (not exact and ("You asked" not in result or prompt in result))


def _settings(base_url: str) -> dict[str, Any]:
    return {"api_key": CREDENTIAL, "base_url": base_url, "timeout": TIMEOUT, "max_retries": 1}


def core(base_url: str, embedding: dict[str, Any] | None = None, **settings: Any) -> dict[tuple[str, bool], Act]:
    """Return the calls of the core client, by operation and whether they are async."""
    from lava_mistral import AsyncLavaMistral, LavaMistral

    settings = _settings(base_url) | {"stream_chunk_timeout": GAP} | settings
    client, aclient = LavaMistral(**settings), AsyncLavaMistral(**settings)

    def ask(prompt: str) -> Any:
        return [{"role": "user", "content": prompt}]

    def calls(turn: Any) -> Any:
        return [(call.name, call.parsed()) for call in turn.tool_calls]

    def stream(prompt: str, **options: Any) -> Any:
        with client.stream(ask(prompt), **options) as chunks:
            return "".join(delta.text for delta in chunks if not delta.index), chunks.turn

    async def astream(prompt: str, **options: Any) -> Any:
        async with await aclient.stream(ask(prompt), **options) as chunks:
            return "".join([delta.text async for delta in chunks if not delta.index]), chunks.turn

    async def achat(prompt: str, read: Callable[[Any], Any], **options: Any) -> Any:
        return read(await aclient.chat(ask(prompt), **options))

    async def atool_stream(prompt: str) -> Any:
        return calls((await astream(prompt, tools=[WEATHER]))[1])

    async def atext_stream(prompt: str) -> Any:
        return (await astream(prompt))[0]

    async def aembed(prompt: str, operation: str) -> Any:
        return (await aclient.embed(texts_of(prompt, operation), **(embedding or EMBEDDING))).vectors

    def person(completion: Any) -> Any:
        return Person.model_validate_json(completion.text)

    return {
        ("chat", False): lambda p: client.chat(ask(p)).text,
        ("chat", True): lambda p: achat(p, lambda c: c.text),
        ("tools", False): lambda p: calls(client.chat(ask(p), tools=[WEATHER]).turn),
        ("tools", True): lambda p: achat(p, lambda c: calls(c.turn), tools=[WEATHER]),
        ("structured", False): lambda p: person(client.chat(ask(p), response_format=SCHEMA)),
        ("structured", True): lambda p: achat(p, person, response_format=SCHEMA),
        ("stream", False): lambda p: stream(p)[0],
        ("stream", True): atext_stream,
        ("tool stream", False): lambda p: calls(stream(p, tools=[WEATHER])[1]),
        ("tool stream", True): atool_stream,
        ("few", False): lambda p: client.embed(texts_of(p, "few"), **(embedding or EMBEDDING)).vectors,
        ("few", True): lambda p: aembed(p, "few"),
        ("many", False): lambda p: client.embed(texts_of(p, "many"), **(embedding or EMBEDDING)).vectors,
        ("many", True): lambda p: aembed(p, "many"),
    }


def _of_langchain(model: Any, embeddings: Any) -> dict[tuple[str, bool], Act]:
    tools, structured = model.bind_tools([weather]), model.with_structured_output(Person)

    def calls(message: Any) -> Any:
        invalid = [(call["name"], None) for call in message.invalid_tool_calls]
        return [(call["name"], call["args"]) for call in message.tool_calls] + invalid

    def joined(chunks: list[Any]) -> Any:
        total = chunks[0]
        for chunk in chunks[1:]:
            total += chunk
        return total

    async def then(awaitable: Awaitable[Any], read: Callable[[Any], Any]) -> Any:
        return read(await awaitable)

    async def collect(runnable: Any, prompt: str, read: Callable[[Any], Any]) -> Any:
        return read(joined([chunk async for chunk in runnable.astream(prompt)]))

    return {
        ("chat", False): lambda p: model.invoke(p).text,
        ("chat", True): lambda p: then(model.ainvoke(p), lambda m: m.text),
        ("tools", False): lambda p: calls(tools.invoke(p)),
        ("tools", True): lambda p: then(tools.ainvoke(p), calls),
        ("structured", False): structured.invoke,
        ("structured", True): structured.ainvoke,
        ("stream", False): lambda p: joined(list(model.stream(p))).text,
        ("stream", True): lambda p: collect(model, p, lambda m: m.text),
        ("tool stream", False): lambda p: calls(joined(list(tools.stream(p)))),
        ("tool stream", True): lambda p: collect(tools, p, calls),
        ("few", False): lambda p: embeddings.embed_documents(texts_of(p, "few")),
        ("few", True): lambda p: embeddings.aembed_documents(texts_of(p, "few")),
        ("many", False): lambda p: embeddings.embed_documents(texts_of(p, "many")),
        ("many", True): lambda p: embeddings.aembed_documents(texts_of(p, "many")),
    }


def langchain(base_url: str, embedding: dict[str, Any] | None = None, **settings: Any) -> dict[tuple[str, bool], Act]:
    """Return the calls of the LangChain package."""
    from langchain_lava_mistral import ChatLavaMistral, LavaMistralEmbeddings

    own = _settings(base_url) | settings
    return _of_langchain(
        ChatLavaMistral(**own, stream_chunk_timeout=GAP), LavaMistralEmbeddings(**own, **(embedding or EMBEDDING))
    )


def _of_llama_index(llm: Any, embeddings: Any, *, deltas: bool = False) -> dict[tuple[str, bool], Act]:
    from llama_index.core.llms import ChatMessage
    from llama_index.core.prompts import PromptTemplate
    from llama_index.core.tools import FunctionTool

    tool, template = FunctionTool.from_defaults(weather), PromptTemplate("{question}")

    def ask(prompt: str) -> Any:
        return [ChatMessage(role="user", content=prompt)]

    def calls(response: Any) -> Any:
        found = llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
        return [(call.tool_name, call.tool_kwargs) for call in found]

    def text(responses: list[Any]) -> Any:
        return "".join(r.delta or "" for r in responses) if deltas else responses[-1].message.content

    async def then(awaitable: Awaitable[Any], read: Callable[[Any], Any]) -> Any:
        return read(await awaitable)

    async def collect(stream: Awaitable[Any], read: Callable[[Any], Any]) -> Any:
        return read([response async for response in await stream])

    return {
        ("chat", False): lambda p: llm.chat(ask(p)).message.content,
        ("chat", True): lambda p: then(llm.achat(ask(p)), lambda r: r.message.content),
        ("tools", False): lambda p: calls(llm.chat_with_tools([tool], user_msg=p)),
        ("tools", True): lambda p: then(llm.achat_with_tools([tool], user_msg=p), calls),
        ("structured", False): lambda p: llm.structured_predict(Person, template, question=p),
        ("structured", True): lambda p: llm.astructured_predict(Person, template, question=p),
        ("stream", False): lambda p: text(list(llm.stream_chat(ask(p)))),
        ("stream", True): lambda p: collect(llm.astream_chat(ask(p)), text),
        ("tool stream", False): lambda p: calls(list(llm.stream_chat_with_tools([tool], user_msg=p))[-1]),
        ("tool stream", True): lambda p: collect(
            llm.astream_chat_with_tools([tool], user_msg=p), lambda found: calls(found[-1])
        ),
        ("few", False): lambda p: embeddings.get_text_embedding_batch(texts_of(p, "few")),
        ("few", True): lambda p: embeddings.aget_text_embedding_batch(texts_of(p, "few")),
        ("many", False): lambda p: embeddings.get_text_embedding_batch(texts_of(p, "many")),
        ("many", True): lambda p: embeddings.aget_text_embedding_batch(texts_of(p, "many")),
    }


def llama_index(base_url: str, embedding: dict[str, Any] | None = None, **settings: Any) -> dict[tuple[str, bool], Act]:
    """Return the calls of the LlamaIndex package."""
    from llama_index_lava_mistral import ChatLavaMistral, LavaMistralEmbeddings

    own = _settings(base_url) | settings
    return _of_llama_index(
        ChatLavaMistral(**own, stream_chunk_timeout=GAP), LavaMistralEmbeddings(**own, **(embedding or EMBEDDING))
    )


def langchain_mistralai(base_url: str) -> dict[tuple[str, bool], Act]:
    """Return the chat calls of langchain-mistralai, for comparison."""
    from langchain_mistralai import ChatMistralAI

    model = ChatMistralAI(mistral_api_key=CREDENTIAL, endpoint=base_url, timeout=2, max_retries=1)
    found = _of_langchain(model, None)
    return {way: act for way, act in found.items() if KIND[way[0]] != "embed"}


def llama_index_mistralai(base_url: str) -> dict[tuple[str, bool], Act]:
    """Return the chat calls of llama-index-llms-mistralai, for comparison."""
    from llama_index.llms.mistralai import MistralAI

    llm = MistralAI(
        model="mistral-small-latest",
        api_key=CREDENTIAL,
        endpoint=base_url.removesuffix("/v1"),
        timeout=2,
        max_retries=1,
    )
    found = _of_llama_index(llm, None, deltas=True)
    return {way: act for way, act in found.items() if KIND[way[0]] != "embed"}


OURS = {"core": core, "LangChain": langchain, "LlamaIndex": llama_index}
PEERS = {"langchain-mistralai": langchain_mistralai, "llama-index-llms-mistralai": llama_index_mistralai}


def run_sync(act: Act, prompt: str) -> Any:
    """Call in this thread, whatever kind of call it is."""
    result = act(prompt)
    return asyncio.run(result) if asyncio.iscoroutine(result) else result
