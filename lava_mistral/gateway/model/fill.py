"""Fills a JSON schema from what a prompt says: its numbers, its quoted spans, its names, its text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from lava_mistral.gateway.model.json_schema import Document
from lava_mistral.gateway.model.retrieval import STOP_WORDS, sentences, stem, tool_terms

QUOTED: Final = re.compile(r'"([^"\n]{1,400})"|“([^“”\n]{1,400})”|`([^`\n]{1,400})`|(?<!\w)\'([^\'\n]{1,400})\'(?!\w)')
"""A quoted span, its content in one of the groups."""
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][+-]?\d+)?")
_NAME = re.compile(r"[A-ZÀ-Þ][\w’'-]*(?:\s+(?:(?:of|de|van|von)\s+)?[A-ZÀ-Þ][\w’'-]*)*(?:,\s[A-Z]{2}\b)?")
# A word that begins a sentence is capitalised whatever it is; before one of these it is the name of something.
_BE = re.compile(r"['’]s\b|\s+(?:is|was|has|had|lives|works|likes|and)\b")
_NO = re.compile(r"\b(?:no|not|never|false|don't|doesn't|without|disable[ds]?)\b", re.I)
_DATE = re.compile(r"\b\d{4}-\d{2}-\d{2}\b")
# The local part has at most 64 characters (RFC 5321) and begins where nothing that belongs to it stands before.
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+")
_URL = re.compile(r"https?://[^\s<>\"')\]]*[^\s<>\"')\].,;:!?]")
# Fields whose content is prose, not a name out of the prompt: those that ask, and those that answer.
_ASK = "body content context input message prompt query question request search task"
_TELL = "answer comment conclusion description explanation note reason response result summary text"
_ASKING, _TELLING = frozenset(map(stem, _ASK.split())), frozenset(map(stem, _TELL.split()))
_DEEPEST = 8
"""Levels of objects that are filled of one's own accord; below, only what is required."""


class Evidence:
    """What a prompt offers; each number, quoted span and name is given out once.

    Args:
        text: the prompt.
        answer: prose for the fields that ask for an answer.
        records: JSON objects that tools have returned, by whose keys fields are filled.
    """

    def __init__(self, text: str, *, answer: str = "", records: Sequence[Mapping[str, Any]] = ()) -> None:
        self.text = text.strip()
        self.answer = answer or self.text
        self.records = _joined(records)
        self.quoted = [next(filter(None, match.groups())) for match in QUOTED.finditer(text)]
        # Beyond 64 bits the JSON of most languages holds no whole number.
        found = [match.group().replace(",", "") for match in _NUMBER.finditer(_DATE.sub(" ", text))]
        numbers = [(written, float(written)) for written in found]
        self.numbers = [int(w) if w.lstrip("-").isdigit() else n for w, n in numbers if abs(n) < 2**63]
        self.names = names(text)

    def number(self, fits: Any) -> float | None:
        """Give out the next number for which `fits` is true."""
        at = next((at for at, number in enumerate(self.numbers) if fits(number)), None)
        if at is None:
            return None
        found, self.numbers = self.numbers[at], self.numbers[at + 1 :]
        return found

    def mentioned(self, values: Sequence[Any]) -> list[Any]:
        """Return those of some values that the prompt names, in its order."""
        text = self.text.replace("_", " ")
        places = {}
        for value in values:
            word = re.escape(str(value).replace("_", " "))
            match = re.search(rf"(?<!\w){word}(?!\w)", text, re.I) if value is not None else None
            if match:
                places[match.start()] = value
        return [places[at] for at in sorted(places)]


def fill(schema: Mapping[str, Any] | Document, evidence: Evidence) -> Any:
    """Make a value that fits the schema, out of the evidence.

    Numbers are the prompt's in order, else within bounds; texts are quoted spans, then names, then the prompt
    itself. Optional fields are filled where there is evidence for them.

    Raises:
        SchemaProblem: the schema is malformed, or filling it is too much work.
    """
    document = schema if isinstance(schema, Document) else Document(schema)
    return _Filler(document, evidence).value(document.root)


class _Filler:
    def __init__(self, document: Document, evidence: Evidence) -> None:
        self._document, self._evidence = document, evidence

    def value(self, schema: Any, name: str = "", depth: int = 0) -> Any:
        schema = self._document.resolve(schema)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            real = [value for value in schema["enum"] if value is not None]
            return next(iter([*self._evidence.mentioned(real), *real, None]))
        members = schema.get("anyOf") or schema.get("oneOf")
        if members:
            return self.value(self._member(members, depth), name, depth)
        match _kind(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, name, depth)
            case "integer" | "number" as kind:
                return self._number(schema, whole=kind == "integer")
            case "boolean":
                return not _NO.search(self._evidence.text)
            case "null":
                return None
        return self._string(schema, name)

    def _member(self, members: Sequence[Any], depth: int) -> Any:
        """The member of a union that the evidence speaks for; far down null, or what ends soonest."""
        resolved = [(_kind(self._document.resolve(member)), member) for member in members]
        if depth >= _DEEPEST:
            return next((member for kind, member in resolved if kind == "null"), None) or min(
                members, key=self._document.height
            )
        real = [(kind, member) for kind, member in resolved if kind != "null"] or resolved
        numeric = [member for kind, member in real if kind in ("integer", "number") and self._evidence.numbers]
        return (numeric or [real[0][1]])[0]

    def _object(self, schema: Mapping[str, Any], depth: int, record: Mapping[str, Any] | None = None) -> dict[str, Any]:
        required, fields = schema.get("required", ()), schema.get("properties", {})
        if record is None:
            record = {key: value for one in reversed(self._evidence.records) for key, value in one.items()}
        filled: dict[str, Any] = {}
        for name, field in fields.items():
            if name in record and self._accepts(field, record[name]):
                filled[name] = record[name]
            elif name in required or (depth < _DEEPEST and self._evident(field)):
                filled[name] = self.value(field, name, depth + 1)
        extra = schema.get("additionalProperties")
        if not fields and isinstance(extra, Mapping):
            filled = {name: self.value(extra, name, depth + 1) for name in self._evidence.quoted[:1] or ["value"]}
        return {**filled, **{name: self.value({}, name, depth + 1) for name in required if name not in filled}}

    def _accepts(self, schema: Any, value: Any) -> bool:
        """Whether a plain value surely fits a schema; one with bounds or a pattern is never sure."""
        schema = self._document.resolve(schema)
        if "enum" in schema:
            return value in schema["enum"]
        if schema.get("anyOf"):
            return any(self._accepts(member, value) for member in schema["anyOf"])
        kinds = schema.get("type")
        return (
            _KINDS.get(type(value)) in (kinds if isinstance(kinds, list) else [kinds]) and not schema.keys() & _BOUNDS
        )

    def _evident(self, field: Any) -> bool:
        """Whether the prompt still holds something for an optional field."""
        field = self._document.resolve(field)
        members = field.get("anyOf") or field.get("oneOf")
        if members:
            return any(map(self._evident, members))
        if "enum" in field:
            return bool(self._evidence.mentioned(field["enum"]))
        evidence = {"string": self._evidence.quoted, "integer": self._evidence.numbers}
        evidence |= {"number": evidence["integer"], "object": [*self._evidence.quoted, *self._evidence.numbers]}
        return bool(evidence.get(_kind(field)))

    def _array(self, schema: Mapping[str, Any], name: str, depth: int) -> list[Any]:
        evidence, least, most = self._evidence, schema.get("minItems", 0), schema.get("maxItems", 16)
        if schema.get("prefixItems"):
            return [self.value(item, name, depth + 1) for item in schema["prefixItems"]]
        if depth >= _DEEPEST and least == 0:
            return []
        item = self._document.resolve(schema.get("items", {}))
        records = [record for record in evidence.records if record.keys() & item.get("properties", {}).keys()]
        if records and least <= len(records) <= most:
            return [self._object(item, depth + 1, record) for record in records]
        named = evidence.mentioned(item.get("enum", ()))
        if named and least <= len(named) <= most:
            return named
        found = {"integer": evidence.numbers, "number": evidence.numbers, "string": evidence.quoted or evidence.names}
        wanted = 1 if item.get("enum") else len(found.get(_kind(item), ()))
        return [self.value(item, name, depth + 1) for _ in range(min(max(wanted, least, 1), max(most, least)))]

    def _number(self, schema: Mapping[str, Any], *, whole: bool) -> float:
        low, high, step = schema.get("minimum"), schema.get("maximum"), schema.get("multipleOf")
        above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")

        def fits(value: float) -> bool:
            return (
                (not whole or float(value).is_integer())
                and (low is None or value >= low)
                and (high is None or value <= high)
                and (above is None or value > above)
                and (below is None or value < below)
                and (step is None or float(value / step).is_integer())
            )

        found = self._evidence.number(fits)
        if found is None:
            unit = step or (1 if whole else 0.5)
            least = max((bound for bound in (low, above) if bound is not None), default=0)
            most = min((bound for bound in (high, below) if bound is not None), default=least)
            guesses = (1, 0, least, most, least + unit, most - unit, (least + most) / 2)
            multiples = (-(-least // unit) * unit, (least // unit + 1) * unit)
            found = next((guess for guess in (*guesses, *multiples) if fits(guess)), 1)
        return int(found) if whole else found

    def _string(self, schema: Mapping[str, Any], name: str) -> str:
        evidence, form, now = self._evidence, schema.get("format"), datetime.now(UTC)
        date = _DATE.search(evidence.text)
        match form:
            case "date":
                return date.group() if date else now.date().isoformat()
            case "date-time":
                return f"{date.group()}T00:00:00Z" if date else now.isoformat(timespec="seconds")
            case "email" | "uri" | "url":
                found = (_EMAIL if form == "email" else _URL).search(evidence.text)
                return found.group() if found else "someone@example.com" if form == "email" else "https://example.com/"
            case "time" | "uuid":
                return "12:00:00Z" if form == "time" else "00000000-0000-4000-8000-000000000000"
        if "pattern" in schema:
            matching = _matching(schema["pattern"], evidence)
            if matching is not None:
                return matching
        if evidence.quoted:
            value = evidence.quoted.pop(0)
        elif tool_terms(name) & _TELLING:
            value = evidence.answer
        elif evidence.names and not tool_terms(name) & _ASKING:
            value = evidence.names.pop(0)
        else:
            value = evidence.text or name or "text"
        return str(value[: schema.get("maxLength")].ljust(schema.get("minLength", 0), "."))


_KINDS = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_UNSURE = "exclusiveMaximum exclusiveMinimum format maxLength maximum minLength minimum multipleOf pattern"
_BOUNDS = frozenset(_UNSURE.split())


def _kind(schema: Mapping[str, Any]) -> Any:
    """The type of a resolved schema, the first that is not null where it lists several."""
    kind = schema.get("type")
    if isinstance(kind, list):
        return next((one for one in kind if one != "null"), "null")
    return kind or ("object" if "properties" in schema else "array" if "items" in schema else "string")


def _joined(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records with those put together that speak of the same: they share keys and agree in all of them."""
    joined: list[dict[str, Any]] = []
    for record in records:
        for other in joined:
            shared = record.keys() & other.keys()
            if shared and all(record[key] == other[key] for key in shared):
                other |= record
                break
        else:
            joined.append(dict(record))
    return joined


def _matching(pattern: str, evidence: Evidence) -> str | None:
    """Something in the prompt that a pattern accepts, in linear time whatever the pattern."""
    try:
        accepts: TypeAdapter[Any] = TypeAdapter(Annotated[str, Field(pattern=pattern)])
    except SchemaError:
        return None
    for word in [*evidence.quoted, *evidence.names, *re.findall(r"[\w.@:/+-]+", evidence.text), evidence.text]:
        try:
            accepts.validate_python(word)
        except ValidationError:
            continue
        return str(word)
    return None


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
