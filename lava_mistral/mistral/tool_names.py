"""Map the names of tools to names that Mistral takes, and back. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from itertools import count
from typing import Any, Self

_REFUSED = re.compile(r"[^a-zA-Z0-9_-]")
_LONGEST = 64


@lru_cache(maxsize=4096)
def tool_name(name: str) -> str:
    """Return the name with "_" for each character that Mistral refuses in a name, cut to 64 characters."""
    return _REFUSED.sub("_", name)[:_LONGEST] or "tool"


class ToolNames:
    """Map the names of the tools of one request, each to a form of its own that Mistral takes.

    A name that Mistral takes stays. In another one "_" replaces what it refuses; where two names would be the same, a
    hash of the own name ends it. `built_in` says whether the request has tools that run on Mistral's side too.
    """

    __slots__ = ("_known", "_own", "_wire", "built_in")

    def __init__(self, names: Iterable[str] = (), *, built_in: bool = False) -> None:
        self.built_in = built_in
        self._known = set(names)
        forms = Counter(map(tool_name, self._known))
        self._wire: dict[str, str] = {}
        for name in sorted(self._known):
            wire = tool_name(name)
            if wire != name and forms[wire] > 1:
                wire = _hashed(name, self._known | forms.keys() | set(self._wire.values()))
            if wire != name:
                self._wire[name] = wire
        self._own = {wire: name for name, wire in self._wire.items()}

    @classmethod
    def of_tools(cls, tools: Iterable[Any] | None) -> Self:
        """Return the names of the functions in a request's tools."""
        functions = [tool.get("function") for tool in tools or () if isinstance(tool, Mapping)]
        names = [function.get("name") for function in functions if isinstance(function, Mapping)]
        return cls((name for name in names if isinstance(name, str)), built_in=None in functions)

    def to_wire(self, name: str) -> str:
        """Return the form of a tool's own name; of a name that is none of these, what `tool_name` says."""
        return self._wire.get(name) or tool_name(name)

    def from_wire(self, name: str) -> str:
        """Return the own name of a tool by the form that was sent; any other name as it is."""
        return self._own.get(name, name)

    def runs_here(self, name: str) -> bool:
        """Return whether a call of this name is one to run here, and not one that ran on Mistral's side."""
        return not self.built_in or name in self._known

    def applied(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body of a request with the names in tools, tool choice and messages as Mistral takes them."""
        named = {**body, "messages": [self._message(message) for message in body["messages"]]}
        if body.get("tools"):
            named["tools"] = [self._named(tool) for tool in body["tools"]]
        if "tool_choice" in body:
            named["tool_choice"] = self._named(body["tool_choice"])
        return named

    def _message(self, message: Any) -> Any:
        """Return the message with names of Mistral's form; the message itself where it has no others."""
        calls = message.get("tool_calls")
        if calls:
            new = [self._named(call) for call in calls]
            return message if new == calls else message | {"tool_calls": new}
        return self._named(message) if message["role"] == "tool" else message

    def _named(self, holder: Any) -> Any:
        """Return a tool, call, choice or result with a name of Mistral's form; the same object where it has one."""
        if not isinstance(holder, Mapping):
            return holder
        field = "function" if "function" in holder else "name"
        given = wire = holder.get(field)
        if field == "function":
            wire = self._named(given)
        elif isinstance(given, str) and given:
            wire = self.to_wire(given)
        return holder if wire == given else {**holder, field: wire}


NO_TOOLS = ToolNames()
"""The names of a request without tools."""


def _hashed(name: str, taken: Collection[str]) -> str:
    digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    forms = (f"{tool_name(name)[: _LONGEST - 1 - length]}_{digest[:length]}" for length in count(8))
    return next(form for form in forms if form not in taken)
