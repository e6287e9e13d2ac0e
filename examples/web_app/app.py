"""A chat on a web page: an agent with memory for each customer, streamed, billed to the customer, with its cost shown.

Run it from the root of a checkout, with LAVA_SECRET_KEY set, or a `lava-mistral gateway` running and its two exports:

    pip install ".[langchain,cli,gateway]" langchain fastapi uvicorn
    uvicorn --app-dir examples/web_app app:app
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Header
from fastapi.responses import FileResponse, StreamingResponse
from langchain.agents import create_agent
from langchain_core.messages import AIMessageChunk
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

from langchain_lava_mistral import ChatLavaMistral
from lava_mistral import LavaError, UsageTotals, billed_to, track_usage

METER = "chat"
PAGE = Path(__file__).with_name("page.html")


class Question(BaseModel):
    """What the page sends."""

    text: str
    thread: str


def opening_hours(shop: str) -> str:
    """Look up when a shop is open."""
    return f"{shop} is open from 9 to 18 on weekdays."


def event(kind: str, **data: object) -> str:
    """Word one server-sent event."""
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"


def create_app() -> FastAPI:
    """Make the web app; one model and one agent serve every customer."""
    app = FastAPI()
    # require_customer: a request that lost its customer fails instead of being paid by the merchant.
    model = ChatLavaMistral(temperature=0, max_tokens=500, require_customer=True)
    agent = create_agent(model, [opening_hours], checkpointer=InMemorySaver())
    totals = UsageTotals()

    async def ask(question: Question, customer: str, events: asyncio.Queue[str | None]) -> None:
        config = {"configurable": {"thread_id": f"{customer}/{question.thread}"}}
        messages = {"messages": [("user", question.text)]}
        try:
            with track_usage(totals):
                async for chunk, _ in agent.astream(messages, config, stream_mode="messages"):
                    if isinstance(chunk, AIMessageChunk) and chunk.text:
                        events.put_nowait(event("text", text=chunk.text))
        except LavaError as error:
            events.put_nowait(event("failed", message=error.message, advice=error.advice))
        finally:
            events.put_nowait(event("cost", total=f"{totals.by_customer[customer].cost:f}"))
            events.put_nowait(None)

    async def answer(question: Question, customer: str) -> AsyncIterator[str]:
        events: asyncio.Queue[str | None] = asyncio.Queue()
        # A task of its own: when the tab is closed, the web server cancels this generator by a cancel scope of anyio,
        # which LangGraph does not hand on to a model that is under way. A cancelled task does.
        task = asyncio.create_task(ask(question, customer, events))
        try:
            while (text := await events.get()) is not None:
                yield text
        finally:
            task.cancel()

    @app.get("/")
    async def page() -> FileResponse:
        return FileResponse(PAGE)

    @app.post("/chat")
    async def chat(question: Question, x_customer: Annotated[str, Header()]) -> StreamingResponse:
        # The block decorates the generator: a `with` in the endpoint would be left before the first chunk is read.
        stream = billed_to(x_customer, METER)(answer)(question, x_customer)
        return StreamingResponse(stream, media_type="text/event-stream")

    return app


app = create_app()
