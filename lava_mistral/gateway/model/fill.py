"""Fills a JSON schema from what a prompt says: its numbers, its quoted spans, its names, its text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from lava_mistral.gateway.model import extract
from lava_mistral.gateway.model.json_schema import Document
from lava_mistral.gateway.model.words import COMMON

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][+-]?\d+)?")
_QUOTED = re.compile(
    r'"([^"\n]{1,400})"|“([^“”\n]{1,400})”|«([^«»\n]{1,400})»|`([^`\n]{1,400})`|(?<!\w)\'([^\'\n]{1,400})\'(?!\w)'
)
_NAME = re.compile(r"[A-ZÀ-Þ][\w’'-]*(?:\s+(?:(?:of|de|du|der|van|von|la)\s+)?[A-ZÀ-Þ][\w’'-]*)*(?:,\s[A-Z]{2}\b)?")
# A word that begins a sentence is capitalised whatever it is; before one of these it is the name of something.
_BE = re.compile(r"['’]s\b|\s+(?:is|was|has|had|lives|works|likes|and)\b")
# Beyond this the JSON of most languages holds no whole number.
_TOO_LARGE = 2**63
_DATE = re.compile(r"\b\d{4}-\d{2}-\d{2}\b")
# The local part has at most 64 characters (RFC 5321) and begins where nothing that belongs to it stands before.
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+")
_URL = re.compile(r"https?://[^\s<>\"')\]]*[^\s<>\"')\].,;:!?]")
_NO = re.compile(r"\b(?:no|not|never|false|don't|doesn't|without|disable[ds]?)\b", re.I)

# Fields whose content is prose, not a name out of the prompt.
_PROSE = """answer body comment content context conclusion description detail explanation input instruction message note
    prompt query question reason reasoning request response result search sentence statement summary task text
    thought topic"""
DEEPEST = 8
"""Levels of objects; a schema that contains itself ends there."""


class Evidence:
    """What a prompt offers; each number and each quoted span is given out once, then again from the start.

    Args:
        text: the prompt.
        answer: prose for the fields that ask for an answer.
        records: objects that tools have returned; what they hold under a field's own name goes into that field.
    """

    def __init__(self, text: str, *, answer: str = "", records: Sequence[Mapping[str, Any]] = ()) -> None:
        self.text = text.strip()
        self.records = _joined(records)
        self.answer = answer or self.text
        self.quoted = [_inside(match) for match in _QUOTED.finditer(text)]
        found = (_number(match.group()) for match in _NUMBER.finditer(_DATE.sub(" ", text)))
        self.numbers = [number for number in found if abs(number) < _TOO_LARGE]
        self.names = _names(text)
        self._given_numbers = 0
        self._given_quoted = 0
        self._given_names = 0

    @property
    def tells(self) -> bool:
        """Whether there is anything beside plain words."""
        return bool(self.numbers or self.quoted or self.names)

    @property
    def more_numbers(self) -> bool:
        return self._given_numbers < len(self.numbers)

    @property
    def more_quoted(self) -> bool:
        return self._given_quoted < len(self.quoted)

    def number(self, fits: Any) -> float | None:
        """The next number for which `fits` is true."""
        for at in range(self._given_numbers, len(self.numbers)):
            if fits(self.numbers[at]):
                self._given_numbers = at + 1
                return self.numbers[at]
        return None

    def span(self) -> str | None:
        """The next quoted span."""
        if not self.more_quoted:
            return None
        self._given_quoted += 1
        return self.quoted[self._given_quoted - 1]

    def name(self) -> str | None:
        """The next name."""
        if self._given_names >= len(self.names):
            return None
        self._given_names += 1
        return self.names[self._given_names - 1]


def fill(schema: Mapping[str, Any], evidence: Evidence) -> Any:
    """A value that fits the schema, out of the evidence.

    Integers take the prompt's numbers in order, else a value within bounds; text takes quoted spans, then names,
    then the prompt itself. Optional fields are filled where there is evidence for them.
    """
    return _value(schema, evidence, Document(schema), "", 0)


def _value(schema: Any, evidence: Evidence, document: Document, name: str, depth: int) -> Any:
    schema = document.resolve(schema)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return _mentioned(schema["enum"], evidence.text)
    for union in ("anyOf", "oneOf"):
        if schema.get(union):
            return _value(_member(schema[union], evidence, document, depth), evidence, document, name, depth)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind is None:
        kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
    match kind:
        case "object":
            return _object(schema, evidence, document, depth)
        case "array":
            return _array(schema, evidence, document, name, depth)
        case "integer" | "number":
            return _bounded(schema, evidence, whole=kind == "integer")
        case "boolean":
            return not _NO.search(evidence.text)
        case "null":
            return None
        case _:
            return _string(schema, evidence, name)


def _member(members: Sequence[Any], evidence: Evidence, document: Document, depth: int) -> Any:
    """The member of a union that the evidence speaks for; where it goes too deep, null or what ends soonest."""
    resolved = [document.resolve(member) for member in members]
    null = next((member for member in resolved if member.get("type") == "null"), None)
    if depth >= DEEPEST:
        return null or min(members, key=document.height)
    real = [member for member in resolved if member.get("type") != "null"] or resolved
    if evidence.more_numbers:
        for member in real:
            if member.get("type") in ("integer", "number"):
                return member
    return real[0]


def _mentioned(values: Sequence[Any], text: str) -> Any:
    """The value of an enum that the prompt mentions first, else the first value that is not null."""
    places = {}
    for value in values:
        if value is not None:
            match = re.search(rf"(?<!\w){re.escape(str(value).replace('_', ' '))}(?!\w)", text.replace("_", " "), re.I)
            if match:
                places[match.start()] = value
    if places:
        return places[min(places)]
    return next((value for value in values if value is not None), None)


def _object(
    schema: Mapping[str, Any],
    evidence: Evidence,
    document: Document,
    depth: int,
    record: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    required = schema.get("required", ())
    filled: dict[str, Any] = {}
    if record is None:
        record = {key: value for one in reversed(evidence.records) for key, value in one.items()}
    for name, field in schema.get("properties", {}).items():
        if name in record and _accepts(field, record[name], document):
            filled[name] = record[name]
        elif name in required or (depth < DEEPEST and _evident(field, evidence, document)):
            filled[name] = _value(field, evidence, document, name, depth + 1)
    for name in required:
        if name not in filled:
            filled[name] = _value({}, evidence, document, name, depth + 1)
    extra = schema.get("additionalProperties")
    if not schema.get("properties") and isinstance(extra, Mapping):
        for name in evidence.quoted[:1] or ["value"]:
            filled[name] = _value(extra, evidence, document, name, depth + 1)
    return filled


def _accepts(schema: Any, value: Any, document: Document) -> bool:
    """Whether a value surely fits a schema; one with bounds or a pattern is never sure."""
    schema = document.resolve(schema)
    if "const" in schema or "enum" in schema:
        return value in schema.get("enum", [schema.get("const")])
    for union in ("anyOf", "oneOf"):
        if schema.get(union):
            return any(_accepts(member, value, document) for member in schema[union])
    if schema.keys() & _BOUNDS:
        return False
    kinds = schema.get("type")
    if _KINDS.get(type(value)) not in (kinds if isinstance(kinds, list) else [kinds]):
        return False
    match value:
        case list():
            return all(_accepts(schema.get("items", {}), member, document) for member in value)
        case dict():
            fields = schema.get("properties", {})
            return set(schema.get("required", ())) <= value.keys() <= fields.keys() and all(
                _accepts(fields[name], member, document) for name, member in value.items()
            )
    return True


_KINDS = {
    str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object", type(None): "null"
}  # fmt: skip
_BOUNDS = frozenset(
    (
        *("exclusiveMaximum", "exclusiveMinimum", "format", "maxItems", "maxLength", "maximum"),
        *("minItems", "minLength", "minimum", "multipleOf", "pattern", "prefixItems"),
    )
)


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


def _evident(field: Any, evidence: Evidence, document: Document) -> bool:
    """Whether the prompt still holds something for an optional field."""
    field = document.resolve(field)
    for union in ("anyOf", "oneOf"):
        if field.get(union):
            return any(_evident(member, evidence, document) for member in field[union])
    if "enum" in field:
        return any(
            value is not None and re.search(rf"(?<!\w){re.escape(str(value))}(?!\w)", evidence.text, re.I)
            for value in field["enum"]
        )
    match field.get("type"):
        case "integer" | "number":
            return evidence.more_numbers
        case "string":
            return evidence.more_quoted
        case "object":
            return bool(field.get("properties")) and (evidence.more_numbers or evidence.more_quoted)
        case _:
            return False


def _array(schema: Mapping[str, Any], evidence: Evidence, document: Document, name: str, depth: int) -> list[Any]:
    least, most = schema.get("minItems", 0), schema.get("maxItems", 16)
    if schema.get("prefixItems"):
        return [_value(item, evidence, document, name, depth + 1) for item in schema["prefixItems"]]
    if depth >= DEEPEST and least == 0:
        return []
    item = document.resolve(schema.get("items", {}))
    records = [record for record in evidence.records if record.keys() & item.get("properties", {}).keys()]
    if records and least <= len(records) <= most:
        return [_object(item, evidence, document, depth + 1, record) for record in records]
    wanted = 1
    match item.get("type"):
        case "integer" | "number":
            wanted = len(evidence.numbers) - evidence._given_numbers
        case "string" if not item.get("enum"):
            wanted = len(evidence.quoted) - evidence._given_quoted or len(evidence.names) - evidence._given_names
        case "string":
            found = [
                value
                for value in item["enum"]
                if re.search(rf"(?<!\w){re.escape(str(value))}(?!\w)", evidence.text, re.I)
            ]
            if found and least <= len(found) <= most:
                return found
    number = min(max(wanted, least, 1), max(most, least))
    return [_value(item, evidence, document, name, depth + 1) for _ in range(number)]


def _bounded(schema: Mapping[str, Any], evidence: Evidence, *, whole: bool) -> float:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    above = (low if above else None) if isinstance(above, bool) else above
    below = (high if below else None) if isinstance(below, bool) else below
    step = schema.get("multipleOf")

    def fits(value: float) -> bool:
        return (
            (not whole or float(value).is_integer())
            and (low is None or value >= low)
            and (high is None or value <= high)
            and (above is None or value > above)
            and (below is None or value < below)
            and (step is None or float(value / step).is_integer())
        )

    found = evidence.number(fits)
    if found is not None:
        return int(found) if whole else found
    unit = step or (1 if whole else 0.5)
    guesses = [1, 0, low, high]
    if above is not None:
        guesses += [above + unit, (above // unit + 1) * unit]
    if below is not None:
        guesses += [below - unit]
    if low is not None:
        guesses += [-(-low // unit) * unit]
    if above is not None and below is not None:
        guesses.append((above + below) / 2)
    value = next((guess for guess in guesses if guess is not None and fits(guess)), 1)
    return int(value) if whole else float(value)


def _string(schema: Mapping[str, Any], evidence: Evidence, name: str) -> str:
    match schema.get("format"):
        case "date":
            found = _DATE.search(evidence.text)
            return found.group() if found else datetime.now(UTC).date().isoformat()
        case "date-time":
            found = _DATE.search(evidence.text)
            return f"{found.group()}T00:00:00Z" if found else datetime.now(UTC).isoformat(timespec="seconds")
        case "time":
            return "12:00:00Z"
        case "email":
            found = _EMAIL.search(evidence.text)
            return found.group() if found else "someone@example.com"
        case "uri" | "url":
            found = _URL.search(evidence.text)
            return found.group() if found else "https://example.com/"
        case "uuid":
            return "00000000-0000-4000-8000-000000000000"
    pattern = schema.get("pattern")
    if pattern is not None:
        matching = _matching(pattern, evidence)
        if matching is not None:
            return matching
    value = evidence.span()
    if value is None:
        value = _prose(name, evidence) if extract.tool_terms(name) & _PROSE_STEMS else evidence.name()
    if value is None:
        value = evidence.text or name or "text"
    longest, shortest = schema.get("maxLength"), schema.get("minLength", 0)
    if longest is not None:
        value = value[:longest]
    return value if len(value) >= shortest else value + "." * (shortest - len(value))


_PROSE_STEMS = frozenset(map(extract.stem, _PROSE.split()))
_ASKING = "body content context input instruction message prompt query question request search task text topic"
_ASKING_STEMS = frozenset(map(extract.stem, _ASKING.split()))


def _prose(name: str, evidence: Evidence) -> str:
    """The prompt for a field that asks, the answer for one that tells."""
    return evidence.text if extract.tool_terms(name) & _ASKING_STEMS else evidence.answer


def _matching(pattern: str, evidence: Evidence) -> str | None:
    """Something in the prompt that a pattern accepts."""
    try:
        accepts = re.compile(pattern)
    except re.error:
        # JSON Schema has the regular expressions of JavaScript; the few that differ are not looked for.
        return None
    words = [*evidence.quoted, *evidence.names, *re.findall(r"[\w.@:/+-]+", evidence.text), evidence.text]
    return next((word for word in words if accepts.search(word)), None)


def _inside(match: re.Match[str]) -> str:
    quoted: str = next(filter(None, match.groups()))
    # French quotation marks stand off from what they hold.
    return quoted.strip() if match.group().startswith("«") else quoted


def _names(text: str) -> list[str]:
    """Capitalised words that do not merely begin a sentence, each once."""
    found: list[str] = []
    for sentence in extract.sentences(text):
        for match in _NAME.finditer(sentence):
            name = match.group()
            if match.start() == 0:
                first, _, others = name.partition(" ")
                if first.casefold() in COMMON:
                    name = others
                elif not others and not _BE.match(sentence, match.end()):
                    continue
            name = re.sub(r"['’]s$", "", name)
            if name and name.casefold() not in COMMON and name not in found and name != "I":
                found.append(name)
    return found


def _number(text: str) -> float:
    number = float(text.replace(",", ""))
    return number if any(mark in text for mark in ".eE") or abs(number) >= _TOO_LARGE else int(text.replace(",", ""))
