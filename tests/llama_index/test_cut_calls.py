"""A tool never runs with half of its arguments."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.tools import FunctionTool

from lava_mistral.gateway import LocalGateway
from llama_index_lava_mistral import ChatLavaMistral
from tests.fakes.llama_index_scripted import Caller, Scripted, answer, call, chunk, stream

pytestmark = [
    # LlamaIndex's workflows look at pydantic's deprecated attributes.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:workflows"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:inspect"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:llama_index"),
]

CUT = '{"path": "/home/me/pro'


class Disk:
    """Deletes nothing, but tells what it was asked to."""

    def __init__(self) -> None:
        self.deleted: list[str] = []

    @property
    def tool(self) -> FunctionTool:
        def delete(path: str = "/") -> str:
            """Delete a folder."""
            self.deleted.append(path)
            return "Done."

        return FunctionTool.from_defaults(delete)


def cut(arguments: str, finish_reason: str, *, streamed: bool) -> Any:
    made = call("delete", arguments, index=0)
    if streamed:
        return stream({"tool_calls": [made]}, finish_reason=finish_reason)
    return answer("", calls=[made], finish_reason=finish_reason)


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    ("arguments", "finish_reason", "why"),
    [
        (CUT, "length", "were cut off"),
        (CUT, "model_length", "were cut off"),
        ("", "length", "were cut off"),
        (CUT, "tool_calls", "not a JSON object"),
        ('["/home"]', "tool_calls", "not a JSON object"),
    ],
)
def test_an_agent_does_not_run_it_and_tells_the_model_why(
    gateway: LocalGateway, streaming: bool, arguments: str, finish_reason: str, why: str
) -> None:
    queued = cut(arguments, finish_reason, streamed=streaming)
    if streaming:
        queued = "".join(f"data: {json.dumps(each)}\n\n" for each in queued) + "data: [DONE]\n\n"
    gateway.queue(queued)
    disk = Disk()
    llm = ChatLavaMistral(base_url=gateway.base_url, api_key=gateway.secret_key)
    agent = FunctionAgent(tools=[disk.tool], llm=llm, streaming=streaming)

    async def run() -> Any:
        memory = ChatMemoryBuffer.from_defaults(token_limit=4000, tokenizer_fn=str.split)
        return await agent.run("Delete my old project.", memory=memory)

    assert str(asyncio.run(asyncio.wait_for(run(), 60)))
    assert not disk.deleted
    told = gateway.requests[1].body["messages"][-1]
    assert told["role"] == "tool"
    assert "delete" in told["content"]
    assert why in told["content"]


def test_predict_and_call_does_not_run_it(caller: Caller) -> None:
    disk = Disk()
    llm = Scripted(cut(CUT, "length", streamed=False)).llm()
    with pytest.raises(ValueError, match="larger max_tokens"):
        caller.one(llm, "predict_and_call", [disk.tool], user_msg="?")
    assert not disk.deleted


def test_a_whole_call_beside_a_cut_one_is_not_run_either(caller: Caller) -> None:
    calls = [call("delete", {"path": "/tmp/x"}, id="aaaaaaaaa"), call("delete", CUT, id="bbbbbbbbb")]
    disk = Disk()
    llm = Scripted(answer("", calls=calls, finish_reason="length")).llm()
    with pytest.raises(ValueError, match="larger max_tokens"):
        caller.one(llm, "predict_and_call", [disk.tool], user_msg="?", allow_parallel_tool_calls=True)
    assert not disk.deleted


def test_calls_that_are_whole_run_whatever_ended_the_answer(caller: Caller) -> None:
    for arguments, finish_reason in (('{"path": "/x"}', "length"), ("", "tool_calls"), ("{}", "stop")):
        disk = Disk()
        llm = Scripted(cut(arguments, finish_reason, streamed=False)).llm()
        caller.one(llm, "predict_and_call", [disk.tool], user_msg="?")
        assert disk.deleted == [json.loads(arguments or "{}").get("path", "/")]


def test_a_stream_that_ends_without_a_reason_in_a_call_selects_no_tool(caller: Caller) -> None:
    llm = Scripted([chunk({"tool_calls": [call("delete", CUT, index=0)]})]).llm()
    last = caller.all(llm, "stream_chat_with_tools", [Disk().tool], user_msg="?")[-1]
    with pytest.raises(ValueError, match="'delete'"):
        llm.get_tool_calls_from_response(last)
    (selection,) = llm.get_tool_calls_from_response(last, error_on_no_tool_call=False)
    assert selection.tool_name == "delete (not called, since its arguments are not a JSON object)"


def test_while_it_grows_the_beginning_is_shown(caller: Caller) -> None:
    llm = Scripted(cut(CUT, "length", streamed=True)).llm()
    growing, ended = caller.all(llm, "stream_chat_with_tools", [Disk().tool], user_msg="?")
    (selection,) = llm.get_tool_calls_from_response(growing)
    assert selection.tool_kwargs == {"path": "/home/me/pro"}
    with pytest.raises(ValueError, match=r"/home/me/pro.*not called"):
        llm.get_tool_calls_from_response(ended)
