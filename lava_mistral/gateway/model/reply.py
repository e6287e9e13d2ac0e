"""The simulated model: it answers from the text it is given, calls tools and fills schemas, and makes nothing up.

It is no language model. It looks for the sentences of its prompt that share the most meaningful words with the
question and says them; it greets back; and it says so when it found nothing.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from lava_mistral.gateway.model import extract
from lava_mistral.gateway.model.fill import Evidence, fill
from lava_mistral.gateway.model.prompt import NOTED, NOTHING, SUMMARY, Prompt, turned


class Call(NamedTuple):
    """A tool call that the model makes."""

    name: str
    arguments: dict[str, Any]


@dataclass(slots=True)
class Reply:
    """What the model says before stop words and limits cut it.

    Attributes:
        text: the answer; with tool calls it is empty.
        thinking: what a reasoning model writes first.
        calls: the tools that it calls.
        endless: it writes white space without end, as Mistral does in JSON mode when nothing asks for JSON.
    """

    text: str = ""
    thinking: str = ""
    calls: list[Call] = field(default_factory=list)
    endless: bool = False


def answer(body: Mapping[str, Any], *, choice: int = 0, reasoning: bool = False) -> Reply:
    """What the model says to a request.

    Args:
        body: a valid chat request.
        choice: which of `n` answers; each looks at the question anew.
        reasoning: whether it thinks first.
    """
    prompt = Prompt(body["messages"])
    reply = _act(body, prompt) or _write(body, prompt, choice)
    if reasoning:
        reply.thinking = _think(prompt, reply)
    return reply


_GREETING = re.compile(
    r"\W*(?:hi|hello|hey|howdy|greetings|good (?:morning|afternoon|evening|day)|bonjour|salut"
    r"|hallo|guten (?:tag|morgen)|hola|ciao)\b(?:\W+(?:there|all|everyone|mistral|world|again))?\W*$",
    re.I,
)
_SAY = re.compile(r"\b(?:say|repeat|reply with|respond with|answer with|echo)\b", re.I)
_SAID = re.compile(r'"([^"\n]+)"|“([^“”\n]+)”|`([^`\n]+)`|(?<!\w)\'([^\'\n]+)\'(?!\w)')
_TOLD = re.compile(r"\W*(?:i|i['’]m|i['’]ve|my|we|our)\b", re.I)
_SUM = re.compile(
    r"(?<![\w.])(-?\d+(?:\.\d+)?)\s*(\+|-|−|\*|×|x|/|÷|plus|minus|times|divided by)\s*(-?\d+(?:\.\d+)?)(?![\w.]*\d)"
)
_OPERATORS = {
    "+": operator.add, "plus": operator.add, "-": operator.sub, "−": operator.sub, "minus": operator.sub,
    "*": operator.mul, "×": operator.mul, "x": operator.mul, "times": operator.mul,
    "/": operator.truediv, "÷": operator.truediv, "divided by": operator.truediv,
}  # fmt: skip


def _act(body: Mapping[str, Any], prompt: Prompt) -> Reply | None:
    """The tools that the model calls, or `None` when it writes."""
    tools = [tool["function"] for tool in body.get("tools") or ()]
    choice = body.get("tool_choice", "auto")
    if not tools or choice == "none":
        return None
    if isinstance(choice, dict):
        named = next(tool for tool in tools if tool["name"] == choice["function"]["name"])
        return Reply(calls=[_call(named, prompt, prompt.request)])
    matching = _matching(tools, prompt.request)
    if choice == "auto":
        if prompt.results or not matching:
            return None
    else:
        # One that was called already would be called for ever by an agent that must call something.
        fresh = [tool for tool in matching if tool["name"] not in prompt.called]
        fresh = fresh or [tool for tool in tools if tool["name"] not in prompt.called]
        matching = fresh[:1] or tools[:1]
    if body.get("parallel_tool_calls") is False:
        return Reply(calls=[_call(matching[0], prompt, prompt.request)])
    in_order = sorted(matching, key=lambda tool: _place(tool, prompt.request))
    if len(in_order) == 1:
        return Reply(calls=_calls(in_order[0], prompt, prompt.request))
    shares = _shares(in_order, prompt.request)
    return Reply(calls=[call for tool in in_order for call in _calls(tool, prompt, shares[tool["name"]])])


def _matching(tools: Sequence[Mapping[str, Any]], request: str) -> list[Mapping[str, Any]]:
    """The tools that a request is about, the best first; a further one only if a word of its name alone is there."""
    said = extract.tool_terms(request)
    scored = []
    for at, tool in enumerate(tools):
        name = extract.tool_terms(tool["name"]) & said
        described = extract.tool_terms(tool.get("description", "")) & said
        # A name whose words are all common ones, such as get_data, counts when it is said as a whole.
        whole = re.search(rf"(?<!\w){re.escape(tool['name'])}(?!\w)", request) is not None
        score = 2 * len(name) + len(described - name) + 4 * whole
        if score:
            scored.append((-score, at, tool, name | ({tool["name"]} if whole else set())))
    scored.sort(key=lambda entry: entry[:2])
    chosen: list[Mapping[str, Any]] = []
    taken: set[str] = set()
    for _, _, tool, name in scored:
        if not chosen or name - taken:
            chosen.append(tool)
            taken |= name
    return chosen


def _place(tool: Mapping[str, Any], request: str) -> int:
    """Where a request speaks of a tool first."""
    wanted = extract.tool_terms(tool["name"]) or extract.tool_terms(tool.get("description", ""))
    said = extract.terms(request.replace("_", " "))
    return next((at for at, term in enumerate(said) if term in wanted), len(said))


_CLAUSE = re.compile(r"([.;?!]\s+|,?\s+(?:and\s+then|then|and\s+also|and)\s+|\n)")


def _calls(tool: Mapping[str, Any], prompt: Prompt, request: str) -> list[Call]:
    """The calls of one tool: one for each of several names that the request lists, if the tool takes one of them."""
    fields = tool["parameters"].get("properties", {})
    required = tool["parameters"].get("required", list(fields))
    if len(required) == 1 and _resolved_type(fields.get(required[0], {})) == "string" and not _SAID.search(request):
        names = Evidence(request).names
        listed = [name for name in names if re.search(rf"(?:,|\band\b|\bor\b|&)\s+{re.escape(name)}", request)]
        if listed and names[0] not in listed:
            listed.insert(0, names[0])
        if len(listed) > 1:
            return [Call(tool["name"], fill(tool["parameters"], Evidence(name))) for name in listed]
    return [_call(tool, prompt, request)]


def _resolved_type(schema: Any) -> Any:
    return schema.get("type") if isinstance(schema, Mapping) and not schema.get("enum") else None


def _shares(tools: Sequence[Mapping[str, Any]], request: str) -> dict[str, str]:
    """The parts of a request for several things, by the tool that each is about; what is about none goes on."""
    wanted = {
        tool["name"]: extract.tool_terms(tool["name"]) | extract.tool_terms(tool.get("description", ""))
        for tool in tools
    }
    shares = dict.fromkeys(wanted, "")
    current, between = tools[0]["name"], ""
    for at, piece in enumerate(_CLAUSE.split(request)):
        if at % 2:
            between = piece
            continue
        said = extract.tool_terms(piece)
        fitting = max(wanted, key=lambda name: len(wanted[name] & said))
        if wanted[fitting] & said and fitting != current:
            current, between = fitting, ". " if shares[fitting] else ""
        shares[current] += between + piece
    # "the size and the color of the box": what one part names, the others are about too.
    return {name: share if Evidence(share).tells else request for name, share in shares.items()}


def _call(tool: Mapping[str, Any], prompt: Prompt, request: str) -> Call:
    answer = " ".join(prompt.results) or _extracted(prompt, 0)
    evidence = Evidence(request or prompt.all_text, answer=answer, records=_records(prompt))
    filled = fill(tool["parameters"], evidence)
    return Call(tool["name"], filled if isinstance(filled, dict) else {})


def _write(body: Mapping[str, Any], prompt: Prompt, choice: int) -> Reply:
    wanted = body.get("response_format") or {}
    match wanted.get("type"):
        case "json_schema":
            evidence = Evidence(
                prompt.request or prompt.all_text, answer=_said(prompt, choice), records=_records(prompt)
            )
            return Reply(orjson.dumps(fill(wanted["json_schema"]["schema"], evidence)).decode())
        case "json_object":
            if "json" not in prompt.all_text.casefold():
                return Reply(endless=True)
            return Reply(orjson.dumps(_object(prompt, choice)).decode())
    return Reply(_said(prompt, choice))


def _object(prompt: Prompt, choice: int) -> dict[str, Any]:
    """JSON mode without a schema: the identifiers that the prompt quotes become keys."""
    keys: dict[str, Any] = {}
    for source in (prompt.request, prompt.all_text):
        for match in _SAID.finditer(source):
            key = next(filter(None, match.groups()))
            if re.fullmatch(r"[A-Za-z_][\w-]*", key) and key not in keys:
                keys[key] = None
        if keys:
            break
    evidence = Evidence(_SAID.sub(" ", prompt.request), answer=_said(prompt, choice))
    if not keys:
        return {"answer": _said(prompt, choice)}
    fields = {key: {"type": "string"} for key in keys}
    filled: dict[str, Any] = fill({"type": "object", "properties": fields, "required": list(keys)}, evidence)
    return filled


def _said(prompt: Prompt, choice: int) -> str:
    """The answer in words."""
    if prompt.results:
        return _reported(prompt)
    if not prompt.request.strip():
        return _looked_at(prompt) or "Hello! How can I help you?"
    if _GREETING.match(prompt.request):
        return ("Hello! How can I help you today?", "Hi there! What can I do for you?")[choice % 2]
    if _SAY.search(prompt.request):
        quoted = _SAID.search(prompt.request)
        if quoted:
            return str(next(filter(None, quoted.groups())))
    return _extracted(prompt, choice)


def _extracted(prompt: Prompt, choice: int) -> str:
    if prompt.rewrites:
        return prompt.question
    if SUMMARY.search(prompt.question) and prompt.passages:
        return " ".join(extract.central(prompt.passages))
    found = extract.best(prompt.question, prompt.passages)
    if found:
        # Further choices begin with another of the sentences, so that they differ where there is more than one.
        turn = choice % len(found)
        return " ".join(found[turn:] + found[:turn])
    if _TOLD.match(prompt.request) and "?" not in prompt.request:
        return f"{NOTED}{turned(prompt.request.strip())}"
    result = _sum(prompt.question)
    if result is not None:
        return result
    return _looked_at(prompt) or prompt.told or (NOTHING if prompt.passages else _unknown(prompt.question))


def _unknown(question: str) -> str:
    """What a model that has read nothing says where it was given nothing to read."""
    asked = " ".join(question.split())
    asked = asked if len(asked) <= 200 else asked[:200] + "…"
    return f"This is a simulated model, which knows only what it is told in the prompt. It was asked: {asked}"


def _looked_at(prompt: Prompt) -> str:
    """What there is to say of pictures and the like; nothing where there are none."""
    if not prompt.attached:
        return ""
    return f"There is {' and '.join(dict.fromkeys(prompt.attached))}, which a simulated model can't look into."


def _sum(question: str) -> str | None:
    """The result of a simple sum."""
    match = _SUM.search(question)
    if match is None:
        return None
    left, sign, right = float(match.group(1)), match.group(2), float(match.group(3))
    if right == 0 and sign in ("/", "÷", "divided by"):
        return "Division by zero is not defined."
    return f"{_OPERATORS[sign](left, right):.12g}"


def _reported(prompt: Prompt) -> str:
    """What the tools found, in words; of much text only what the question is about."""
    said = [_worded(result) for result in prompt.results if result.strip()]
    if not said:
        return "The tool returned nothing."
    if sum(map(len, said)) <= 1_200:
        return "\n".join(said)
    passages = [sentence for text in said for sentence in extract.sentences(text)]
    return " ".join(extract.best(prompt.question, passages, most=3) or passages[:2])


def _records(prompt: Prompt) -> list[dict[str, Any]]:
    """The tool results that are JSON objects."""
    records = []
    for result in prompt.results:
        try:
            value = orjson.loads(result)
        except orjson.JSONDecodeError:
            continue
        if isinstance(value, dict):
            records.append(value)
    return records


def _worded(result: str) -> str:
    """A tool's result as text: JSON is read out."""
    try:
        value = orjson.loads(result)
    except orjson.JSONDecodeError:
        return result
    return _read_out(value)


_DEEPEST = 20
"""Levels of a tool's JSON that are read out; what is below is left out."""


def _read_out(value: Any, depth: int = 0) -> str:
    match value:
        case dict() if depth < _DEEPEST:
            return ", ".join(f"{key}: {_read_out(member, depth + 1)}" for key, member in value.items())
        case list() if depth < _DEEPEST:
            return "; ".join(_read_out(member, depth + 1) for member in value)
        case dict() | list():
            return "…"
        case None:
            return "none"
        case str():
            return value
        case _:
            return orjson.dumps(value).decode()


def _think(prompt: Prompt, reply: Reply) -> str:
    """What a reasoning model writes before it answers: what is asked, and where it looked."""
    asked = " ".join(prompt.question.split())
    asked = asked if len(asked) <= 200 else asked[:200] + "…"
    lines = [f"The user asks: {asked}" if asked else "The user asks nothing yet."]
    if prompt.results:
        lines.append(f"There are results of {len(prompt.results)} tool call(s) to answer from.")
    elif reply.calls:
        lines.append(f"This needs {', '.join(dict.fromkeys(call.name for call in reply.calls))}.")
    else:
        lines.append(f"I look through {len(prompt.passages)} sentence(s) of context for the words of the question.")
    return " ".join(lines)
