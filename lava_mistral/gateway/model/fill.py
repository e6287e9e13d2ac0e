"""Fills a JSON schema from what a prompt says: its numbers, its quoted spans, its names, its text."""

import operator
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Final

import orjson
from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from lava_mistral.gateway.model.text import STOP_WORDS, sentences, stem, tool_terms

QUOTED: Final = re.compile(r'"([^"\n]{1,400})"|“([^“”\n]{1,400})”|`([^`\n]{1,400})`|(?<!\w)\'([^\'\n]{1,400})\'(?!\w)')
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][+-]?\d+)?")
_NAME = re.compile(r"[A-ZÀ-Þ][\w’'-]*(?:\s+(?:(?:of|de|van|von)\s+)?[A-ZÀ-Þ][\w’'-]*)*(?:,\s[A-Z]{2}\b)?")
# A word that begins a sentence is capitalised whatever it is; before one of these it is the name of something.
_BE = re.compile(r"['’]s\b|\s+(?:is|was|has|had|lives|works|likes|and)\b")
NO: Final = re.compile(r"\b(?:no|not|never|false|don't|doesn't|without|disable[ds]?)\b", re.I)
_DATE = r"\b\d{4}-\d{2}-\d{2}"
# Formats of strings: what is looked for in the prompt, and what stands for it where there is none.
_FORMATS: dict[str, tuple[str, str]] = {
    "date": (rf"{_DATE}\b", "2026-01-01"),
    "date-time": (rf"{_DATE}T\d{{2}}:\d{{2}}:\d{{2}}Z", "2026-01-01T00:00:00Z"),
    "time": (r"\b\d{2}:\d{2}:\d{2}Z", "12:00:00Z"),
    "duration": (r"\bP(?:\d+[YMWD])*(?:T(?:\d+[HMS])+)?(?<=\d[YMWDHS])\b", "P1D"),
    # The local part has at most 64 characters (RFC 5321) and begins where nothing that belongs to it stands before.
    "email": (r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+", "someone@example.com"),
    "uri": (r"https?://[^\s<>\"')\]]*[^\s<>\"')\].,;:!?]", "https://example.com/"),
    "ipv4": (r"\b127(?:\.\d{1,2}){3}\b", "127.0.0.1"),
    "ipv6": (r"::1\b", "::1"),
    "uuid": (r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "00000000-0000-4000-8000-000000000000"),
}
# Fields whose content is prose, not a name out of the prompt: those that ask, and those that answer.
_ASK = "body content context input message prompt query question request search task"
_TELL = "answer comment conclusion description explanation note reason response result summary text"
_ASKING, _TELLING = frozenset(map(stem, _ASK.split())), frozenset(map(stem, _TELL.split()))
# Words that ask whether the context answers the question.
_WHETHER = "answerable answered enough found grounded relevant satisfied sufficient supported supports"
SATISFIED: Final = frozenset(map(stem, _WHETHER.split()))
_KINDS = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_LIMITS: dict[str, Callable[[Any, Any], bool]] = {
    "minimum": operator.ge,
    "maximum": operator.le,
    "exclusiveMinimum": operator.gt,
    "exclusiveMaximum": operator.lt,
    "multipleOf": lambda value, step: float(value / step).is_integer(),
}
_BOUNDS = frozenset(("format", "maxLength", "minLength", "pattern", *_LIMITS))
MOST_STEPS: Final = 50_000  # Parts of a schema that are looked at to fill it; one that needs more is refused.
_DEEPEST = 8  # Levels of objects that are filled of one's own accord; below, only what is required.

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?(?:P?<\w+>|:)|[*+?]\??|\{\d+(?:,\d*)?\}\??|.", re.S)
_CHARACTERS = string.ascii_letters + string.digits + string.punctuation + " "


class SchemaProblem(ValueError):
    """A schema is malformed, nothing finite fits it, or filling it is too much work."""


def check_schema(schema: Mapping[str, Any]) -> None:
    """Check a schema as Mistral does, by draft 7 of JSON Schema; raises `SchemaProblem`."""
    try:
        _check_written(orjson.dumps(schema))
    except (TypeError, RecursionError):
        raise SchemaProblem("it is nested too many levels deep") from None


@lru_cache(1_000)
def _check_written(schema: bytes) -> None:
    # An agent sends the same ones with each request, and the check takes longer than all the rest of the answer.
    from jsonschema import Draft7Validator
    from jsonschema.exceptions import SchemaError as Malformed

    try:
        Draft7Validator.check_schema(orjson.loads(schema))
    except Malformed as error:
        raise SchemaProblem(f"{error.json_path}: {error.message[:200]}") from None


def _target(root: Any, reference: str) -> Mapping[str, Any]:
    # One that leads nowhere, or out of the document, stands for anything at all.
    target = root if reference.startswith("#") else None
    for step in reference[1:].split("/")[1:]:
        target = target.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(target, Mapping) else None
    return target if isinstance(target, Mapping) else {}


@dataclass(slots=True)
class Evidence:
    """What a prompt offers, each number, quoted span and name once."""

    text: str
    answer: str = ""  # In prose.
    answered: bool | None = None  # Whether the context held the answer; None without a context.
    asked: str = ""  # The question in the prompt.
    told: str = ""  # What the prompt states beside its question and instructions.
    records: Sequence[Mapping[str, Any]] = ()  # What tools have returned.
    quoted: list[str] = field(init=False)
    names: list[str] = field(init=False)
    numbers: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.quoted, self.names, self.text = quoted(self.text), names(self.text), self.text.strip()
        self.answer, self.told = self.answer or self.text, self.told or self.text
        # Beyond 64 bits the JSON of most languages holds no whole number.
        found = [match.replace(",", "") for match in _NUMBER.findall(re.sub(_DATE, " ", self.text))]
        near = [written for written in found if abs(float(written)) < 2**63]
        self.numbers = [int(written) if written.lstrip("-").isdigit() else float(written) for written in near]

    def mentioned(self, values: Sequence[Any]) -> list[Any]:
        """Return those of some values that the prompt names, in its order."""
        text, places = self.text.replace("_", " "), {}
        for value in values:
            word = re.escape(str(value).replace("_", " "))
            if value is not None and (match := re.search(rf"(?<!\w){word}(?!\w)", text, re.I)):
                places[match.start()] = value
        return [places[at] for at in sorted(places)]


def fill(schema: Mapping[str, Any], evidence: Evidence) -> Any:
    """Make a value that fits the schema, out of the evidence, or raise `SchemaProblem`."""
    try:
        return _Filler(schema, evidence).value(schema)
    except RecursionError:
        raise SchemaProblem("it contains itself without an end") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise SchemaProblem(f"it is malformed: {error}") from error


class _Filler:
    def __init__(self, root: Mapping[str, Any], evidence: Evidence) -> None:
        self._root, self._evidence, self._steps = root, evidence, 0

    def value(self, schema: Any, name: str = "", depth: int = 0) -> Any:
        schema = self._resolve(schema)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            if self._evidence.answer in schema["enum"]:
                return self._evidence.answer
            real = [value for value in schema["enum"] if value is not None]
            return next(iter([*self._evidence.mentioned(real), *real, None]))
        if members := _members(schema):
            return self.value(self._member(members, depth), name, depth + 1)
        match _kind(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, name, depth)
            case "integer" | "number" as kind:
                return self._number(schema, whole=kind == "integer")
            case "boolean":
                if tool_terms(name) & SATISFIED and self._evidence.answered is not None:
                    return self._evidence.answered
                return not NO.search(self._evidence.told)
            case "null":
                return None
        return self._string(schema, name)

    def _resolve(self, schema: Any) -> Mapping[str, Any]:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise SchemaProblem(f"it takes more than {MOST_STEPS} steps to fill it")
        if not isinstance(schema, Mapping):
            return {}
        parts = list(schema.get("allOf", ()))
        if "$ref" in schema:
            parts.insert(0, _target(self._root, schema["$ref"]))
        if not parts:
            return schema
        own = {key: value for key, value in schema.items() if key not in ("$ref", "allOf")}
        parts = [*(self._resolve(part) for part in parts), own]
        merged = {key: value for part in parts for key, value in part.items()}
        properties = {name: field for part in parts for name, field in part.get("properties", {}).items()}
        required = [name for part in parts for name in part.get("required", ())]
        return {**merged, **({"properties": properties, "required": required} if properties else {})}

    def _member(self, members: Sequence[Any], depth: int) -> Any:
        """The member of a union that the evidence speaks for; far down null, or one that refers to no other."""
        kinds = [(_kind(self._resolve(member)), member) for member in members]
        if depth >= _DEEPEST:
            return min(kinds, key=lambda one: (one[0] != "null", "$ref" in str(self._resolve(one[1]))))[1]
        numeric = [one for one in kinds if one[0] in ("integer", "number") and self._evidence.numbers]
        return [*numeric, *(one for one in kinds if one[0] != "null"), *kinds][0][1]

    def _object(self, schema: Mapping[str, Any], depth: int, record: Mapping[str, Any] | None = None) -> dict[str, Any]:
        required, fields = schema.get("required", ()), schema.get("properties", {})
        if record is None:
            record = {key: value for one in reversed(self._evidence.records) for key, value in one.items()}
        filled: dict[str, Any] = {}
        for name, inner in fields.items():
            if name in record and self._accepts(inner, record[name]):
                filled[name] = record[name]
            elif name in required or (depth < _DEEPEST and self._evident(inner)):
                filled[name] = self.value(inner, name, depth + 1)
        extra = schema.get("additionalProperties")
        if not fields and isinstance(extra, Mapping):
            allowed = self._resolve(schema.get("propertyNames", {})).get("enum")
            named = allowed or self._evidence.quoted[:1] or ["value"]
            filled = {name: self.value(extra, name, depth + 1) for name in named}
        return {**filled, **{name: self.value({}, name, depth + 1) for name in required if name not in filled}}

    def _accepts(self, schema: Any, value: Any) -> bool:
        """Whether a plain value surely fits a schema; one with bounds or a pattern is never sure."""
        schema = self._resolve(schema)
        if "enum" in schema:
            return value in schema["enum"]
        if members := _members(schema):
            return any(self._accepts(member, value) for member in members)
        if isinstance(value, list) and schema.keys() <= {"type", "items", "title", "description"}:
            return all(self._accepts(schema.get("items"), each) for each in value)
        kinds = schema.get("type")
        fits = _KINDS.get(type(value)) in (kinds if isinstance(kinds, list) else [kinds])
        return fits and not schema.keys() & _BOUNDS

    def _evident(self, field: Any) -> bool:
        field = self._resolve(field)
        if members := _members(field):
            return any(map(self._evident, members))
        if "enum" in field:
            return bool(self._evidence.mentioned(field["enum"]))
        spans, numbers = self._evidence.quoted, self._evidence.numbers
        found = {"string": spans, "integer": numbers, "number": numbers, "object": spans or numbers}
        return bool(found.get(_kind(field)))

    def _array(self, schema: Mapping[str, Any], name: str, depth: int) -> list[Any]:
        evidence, least, most = self._evidence, schema.get("minItems", 0), schema.get("maxItems", 16)
        if schema.get("prefixItems"):
            return [self.value(item, name, depth + 1) for item in schema["prefixItems"]]
        if depth >= _DEEPEST and least == 0:
            return []
        item = self._resolve(schema.get("items", {}))
        records = [record for record in evidence.records if record.keys() & item.get("properties", {}).keys()]
        if records and least <= len(records) <= most:
            return [self._object(item, depth + 1, record) for record in records]
        named = evidence.mentioned(item.get("enum", ()))
        if named and least <= len(named) <= most:
            return named
        texts: list[Any] = evidence.quoted or evidence.names
        found = {"integer": evidence.numbers, "number": evidence.numbers, "string": texts}
        wanted = 1 if item.get("enum") else len(found.get(_kind(item), ()))
        return [self.value(item, name, depth + 1) for _ in range(min(max(wanted, least, 1), max(most, least)))]

    def _number(self, schema: Mapping[str, Any], *, whole: bool) -> float:
        def fits(value: float) -> bool:
            limits = ((test, schema[name]) for name, test in _LIMITS.items() if schema.get(name) is not None)
            return (not whole or float(value).is_integer()) and all(test(value, limit) for test, limit in limits)

        numbers = self._evidence.numbers
        unit = schema.get("multipleOf") or (1 if whole else 0.5)
        least = max((schema[name] for name in ("minimum", "exclusiveMinimum") if name in schema), default=0)
        most = min((schema[name] for name in ("maximum", "exclusiveMaximum") if name in schema), default=least)
        near = (-(-least // unit) * unit, (least // unit + 1) * unit, most - unit, (least + most) / 2)
        found = next(filter(fits, (*numbers, 1, 0, least, most, *near)), 1)
        if found in numbers:
            self._evidence.numbers = numbers[numbers.index(found) + 1 :]
        return int(found) if whole else found

    def _string(self, schema: Mapping[str, Any], name: str) -> str:
        evidence, told = self._evidence, tool_terms(name)
        if schema.get("format") in _FORMATS:
            sought, default = _FORMATS[schema["format"]]
            found = re.search(sought, evidence.text)
            return found.group() if found else default
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        if least > MOST_STEPS:
            raise SchemaProblem(f"minLength is more than {MOST_STEPS}")
        if "pattern" in schema:
            # pydantic's patterns take linear time, whatever they are; one that it can't read is not looked for.
            with suppress(SchemaError, re.error):
                pattern = schema["pattern"]
                fits = Field(pattern=pattern, min_length=least, max_length=most)
                accepts: TypeAdapter[Any] = TypeAdapter(Annotated[str, fits])
                words = re.findall(r"[\w.@:/+-]+", evidence.text)
                made = (example(pattern), example(pattern, least))
                for word in (*evidence.quoted, *evidence.names, *words, evidence.text, *made):
                    with suppress(ValidationError):
                        return str(accepts.validate_python(word))
        if (told & _TELLING and evidence.answered and not QUOTED.search(evidence.asked)) or (
            evidence.answer.casefold() in ("yes", "no")
        ):
            value = evidence.answer
        elif evidence.quoted:
            value = evidence.quoted.pop(0)
        elif told & _TELLING:
            value = evidence.answer
        elif evidence.names and not told & _ASKING:
            value = evidence.names.pop(0)
        else:
            value = evidence.text or name or "text"
        return str(value[:most].ljust(least, "."))


def _members(schema: Mapping[str, Any]) -> Any:
    return schema.get("anyOf") or schema.get("oneOf")


def _kind(schema: Mapping[str, Any]) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list):
        return next((one for one in kind if one != "null"), "null")
    return kind or ("object" if "properties" in schema else "array" if "items" in schema else "string")


def quoted(text: str) -> list[str]:
    return [next(filter(None, match.groups())) for match in QUOTED.finditer(text)]


def names(text: str) -> list[str]:
    """List the capitalised words that do not merely begin a sentence, each once."""
    found: dict[str, None] = {}
    for sentence in sentences(text):
        for match in _NAME.finditer(sentence):
            name = match.group()
            if match.start() == 0:
                first, _, others = name.partition(" ")
                if first.casefold() in STOP_WORDS:
                    name = others
                elif not others and not _BE.match(sentence, match.end()):
                    continue
            name = re.sub(r"['’]s$", "", name)
            if name and name.casefold() not in STOP_WORDS:
                found[name] = None
    return list(found)


def example(pattern: str, least: int = 0) -> str:
    """Write a short text for a pattern that may not fit: look-arounds and references to groups are not understood."""
    return _sequence((match.group() for match in _TOKEN.finditer(pattern)), least)


def _sequence(tokens: Iterator[str], least: int = 0) -> str:
    alternatives, last = [""], ""
    for token in tokens:
        if token == ")":
            break
        if token[0] in "*+?{" and len(token) > (token[0] == "{"):
            low = int(re.sub(r"\D.*", "", token[1:]) or token[0] == "+")
            last *= max(low, least) if token[0] in "*+" or ",}" in token else low
            continue
        alternatives[-1] += last
        last = _sequence(tokens) if token[0] == "(" else "" if token in "^$|" else _character(token)
        if token == "|":
            alternatives.append("")
    alternatives[-1] += last
    return alternatives[0]


def _character(token: str) -> str:
    return next((one for one in (token, *_CHARACTERS) if len(one) == 1 and re.fullmatch(token, one)), "")
