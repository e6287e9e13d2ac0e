"""The simulated model: it answers from the text it is given, calls tools and fills schemas, and makes nothing up.

It is no language model. It looks for the sentences of its prompt that share the most meaningful words with the
question and says them; it greets back; and it says so when it found nothing.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from lava_mistral.gateway.model.fill import NO, QUOTED, SATISFIED, Evidence, fill, names, quoted
from lava_mistral.gateway.model.prompt import NOTED, NOTHING, Prompt
from lava_mistral.gateway.model.text import best, central, sentences, terms, tool_terms

_GREETING = re.compile(
    r"\W*(?:hi|hello|hey|howdy|greetings|good (?:morning|afternoon|evening|day)|bonjour)\b"
    r"(?:\W+(?:there|all|everyone|mistral|world|again))?\W*$",
    re.I,
)
_SAY = re.compile(r"\b(?:say|repeat|(?:reply|respond|answer) with|echo)\b", re.I)
_TOLD = re.compile(r"\W*(?:i|i['’]m|i['’]ve|my|we|our)\b", re.I)
_YES_OR_NO = re.compile(r"\b(yes)\W{1,3}(?:or\W{1,2})?(no)\b", re.I)
_LONGEST_RESULT = 1_200
_DEEPEST_RESULT = 20


class ModelCall(NamedTuple):
    name: str
    arguments: dict[str, Any]


@dataclass(slots=True)
class Reply:
    """What the model says before stop words and limits cut it."""

    text: str = ""
    thinking: str = ""
    calls: list[ModelCall] = field(default_factory=list)
    endless: bool = False  # White space, as Mistral writes in JSON mode when nothing asks for JSON.


def reply_to(body: Mapping[str, Any], *, choice: int = 0, reasoning: bool = False) -> Reply:
    """Answer a valid chat request; each choice of `n` begins with another sentence, a reasoning one with thoughts."""
    prompt = Prompt(body["messages"])
    tools = [] if body.get("tool_choice") == "none" else body.get("tools") or ()
    calls = _calls([tool["function"] for tool in tools if "function" in tool], body, prompt)
    reply = Reply(calls=calls) if calls else _write(body, prompt, choice)
    if reasoning:
        needed = ", ".join(dict.fromkeys(call.name for call in calls))
        asked = _shortened(prompt.question) or "nothing yet"
        reply.thinking = f"The user asks: {asked} {f'This needs {needed}.' if calls else 'I look at what I was told.'}"
    return reply


def _calls(tools: Sequence[Mapping[str, Any]], body: Mapping[str, Any], prompt: Prompt) -> list[ModelCall]:
    choice = body.get("tool_choice", "auto")
    if isinstance(choice, dict):
        chosen = [tool for tool in tools if tool["name"] == choice["function"]["name"]]
    elif choice == "auto":
        chosen = [] if prompt.results else _matching(tools, prompt.request)
    else:
        # One that was called already would be called for ever by an agent that must call something.
        ranked = [*_matching(tools, prompt.request), *tools]
        chosen = ([tool for tool in ranked if tool["name"] not in prompt.called] or ranked)[:1]
    if isinstance(choice, dict) or body.get("parallel_tool_calls") is False:
        return [_call(tool, prompt) for tool in chosen[:1]]
    return [call for tool in tools if tool in chosen for call in _each(tool, prompt)]


def _matching(tools: Sequence[Mapping[str, Any]], request: str) -> list[Mapping[str, Any]]:
    """The tools that a request is about, the best first; a further one only if a word of its name alone is there."""
    said, scored = tool_terms(request), []
    for tool in tools:
        name = tool_terms(tool["name"]) & said
        # A name whose words are all common ones, such as get_data, counts when it is said as a whole.
        if re.search(rf"(?<!\w){re.escape(tool['name'])}(?!\w)", request):
            name |= {tool["name"], f"{tool['name']}()"}
        scored.append((2 * len(name) + len(tool_terms(tool.get("description", "")) & said - name), tool, name))
    chosen: list[Mapping[str, Any]] = []
    taken: set[str] = set()
    for score, tool, name in sorted(scored, key=lambda entry: -entry[0]):
        if score and (not chosen or name - taken):
            chosen.append(tool)
            taken |= name
    return chosen


def _each(tool: Mapping[str, Any], prompt: Prompt) -> list[ModelCall]:
    # One call for each of several names that the request lists, if the tool takes one of them.
    fields = tool["parameters"].get("properties", {})
    required = [fields.get(name) for name in tool["parameters"].get("required", fields)]
    texts = [field for field in required if isinstance(field, Mapping) and field.get("type") == "string"]
    if len(required) == 1 and texts and not texts[0].get("enum") and not QUOTED.search(prompt.request):
        found = names(prompt.request)
        rest = [name for name in found if re.search(rf"(?:,|\band\b|\bor\b|&)\s+{re.escape(name)}", prompt.request)]
        if rest:
            return [_call(tool, prompt, name) for name in dict.fromkeys([found[0], *rest])]
    return [_call(tool, prompt)]


def _call(tool: Mapping[str, Any], prompt: Prompt, text: str = "") -> ModelCall:
    filled = fill(tool["parameters"], _evidence(prompt, " ".join(prompt.results) or _extracted(prompt, 0), text))
    return ModelCall(tool["name"], filled if isinstance(filled, dict) else {})


def _evidence(prompt: Prompt, answer: str, text: str = "") -> Evidence:
    records: list[dict[str, Any]] = []
    for record in (parsed for parsed in map(_parsed, prompt.results) if isinstance(parsed, dict)):
        # What two tools say of the same thing, by its first field, is one record.
        first: Any = next(iter(record.items()), None)
        held = next((one for one in records if first in one.items() and one.keys() != record.keys()), None)
        records.append(record) if held is None else held.update(record)
    said = text or prompt.request or prompt.all_text
    answered = _extracted(prompt, 0) != NOTHING if prompt.passages or prompt.results else None
    return Evidence(said, answer=answer, answered=answered, asked=prompt.question, told=prompt.told, records=records)


def _write(body: Mapping[str, Any], prompt: Prompt, choice: int) -> Reply:
    wanted, said = body.get("response_format") or {}, _said(prompt, choice)
    match wanted.get("type"):
        case "json_schema":
            value = fill(wanted["json_schema"]["schema"], _evidence(prompt, said))
        case "json_object" if "json" not in prompt.all_text.casefold():
            return Reply(endless=True)
        case "json_object":
            # Without a schema, the identifiers that the prompt quotes become keys.
            spans = quoted(prompt.request or prompt.all_text)
            keys = list(dict.fromkeys(key for key in spans if re.fullmatch(r"[A-Za-z_][\w-]*", key))) or ["answer"]
            fields = {"properties": {key: {"type": "string"} for key in keys}, "required": keys}
            value = fill(fields, Evidence(QUOTED.sub(" ", prompt.request), answer=said))
        case _:
            return Reply(said)
    return Reply(orjson.dumps(value).decode())


def _said(prompt: Prompt, choice: int) -> str:
    if prompt.results:
        told = [_read_out(_parsed(result)) for result in prompt.results if result.strip()]
        if sum(map(len, told)) <= _LONGEST_RESULT:
            return "\n".join(told) or "The tool returned nothing."
        passages = [sentence for text in told for sentence in sentences(text)]
        return " ".join(best(prompt.question, passages) or passages[:2])
    if not prompt.request.strip():
        return prompt.attached or "Hello! How can I help you?"
    if either := _YES_OR_NO.search(prompt.request):
        # Asked to judge it says whether there is something; asked otherwise, what that says.
        found, judges = _extracted(prompt, 0), (SATISFIED - {"answer"}) & set(terms(prompt.request))
        return either[1] if found != NOTHING and (judges or not NO.search(found)) else either[2]
    if _GREETING.match(prompt.request):
        return ("Hello! How can I help you today?", "Hi there! What can I do for you?")[choice % 2]
    return next(iter(quoted(prompt.request) if _SAY.search(prompt.request) else ()), "") or _extracted(prompt, choice)


def _extracted(prompt: Prompt, choice: int) -> str:
    if prompt.rephrase:
        return prompt.question
    if prompt.summary and prompt.passages:
        return " ".join(central(prompt.passages))
    if found := best(prompt.question, prompt.passages):
        # Further choices begin with another of the sentences, so that they differ where there is more than one.
        turn = choice % len(found)
        return " ".join(found[turn:] + found[:turn])
    if _TOLD.match(prompt.request) and "?" not in prompt.request:
        return f"{NOTED}{prompt.request.strip()}"
    unknown = "This is a simulated model, which knows only what it is told in the prompt. It was asked: "
    return prompt.attached or (NOTHING if prompt.passages else unknown + _shortened(prompt.question))


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:200] + "…"


def _parsed(result: str) -> Any:
    try:
        return orjson.loads(result)
    except orjson.JSONDecodeError:
        return result


def _read_out(value: Any, depth: int = 0) -> str:
    match value:
        case dict() | list() if depth == _DEEPEST_RESULT:
            return "…"
        case dict():
            return ", ".join(f"{key}: {_read_out(member, depth + 1)}" for key, member in value.items())
        case list():
            return "; ".join(_read_out(member, depth + 1) for member in value)
        case str():
            return value
    return "none" if value is None else orjson.dumps(value).decode()
