"""Map the names of tools to names that Mistral takes, and back. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from itertools import count
from typing import Any, Self

_REFUSED = re.compile(r"[^a-zA-Z0-9_-]")
LONGEST_NAME = 64


@lru_cache(maxsize=4096)
def tool_name(name: str) -> str:
    """Return the name with "_" for each character that Mistral refuses in a name, cut to 64 characters."""
    return _REFUSED.sub("_", name)[:LONGEST_NAME] or "tool"


class ToolNames:
    """Map the names of the tools of one request, each to a form of its own that Mistral takes.

    A name that Mistral takes stays. In another one "_" replaces what it refuses; where two names would be the same, a
    hash of the own name ends it. So a name's form depends on the set of names, but not on their order.

    Args:
        names: the tools' own names.
        built_in: whether the request has tools that run on Mistral's side too.
    """

    __slots__ = ("_known", "_own", "_wire", "built_in")

    def __init__(self, names: Iterable[str] = (), *, built_in: bool = False) -> None:
        self.built_in = built_in
        self._known = set(names)
        own = sorted(self._known)
        taken = {name for name in own if tool_name(name) == name}
        forms = Counter(tool_name(name) for name in own)
        self._wire: dict[str, str] = {}
        for name in own:
            if name in taken:
                continue
            wire = tool_name(name)
            if forms[wire] > 1:
                wire = _hashed(name, taken | set(forms) | set(self._wire.values()))
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
        body = dict(body)
        body["messages"] = [self._message(message) for message in body["messages"]]
        if body.get("tools"):
            body["tools"] = [self._function(tool) for tool in body["tools"]]
        if isinstance(body.get("tool_choice"), Mapping):
            body["tool_choice"] = self._function(body["tool_choice"])
        return body

    def _message(self, message: Any) -> Any:
        """Return the message with names of Mistral's form; the message itself where it has no others."""
        calls = message.get("tool_calls")
        if calls:
            new = [self._function(call) for call in calls]
            return message if all(map(_same, new, calls)) else message | {"tool_calls": new}
        return self._named(message) if message["role"] == "tool" else message

    def _function(self, holder: Any) -> Any:
        """Return a tool, a call or a choice with a name of Mistral's form; the same object where it has one."""
        function = holder.get("function") if isinstance(holder, Mapping) else None
        named = self._named(function) if isinstance(function, Mapping) else function
        return holder if named is function else {**holder, "function": named}

    def _named(self, named: Any) -> Any:
        name = named.get("name")
        wire = self.to_wire(name) if isinstance(name, str) and name else name
        return named if wire == name else {**named, "name": wire}


NO_TOOLS = ToolNames()
"""The names of a request without tools."""


def _same(one: Any, other: Any) -> bool:
    return one is other


def _hashed(name: str, taken: set[str]) -> str:
    digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    forms = (f"{tool_name(name)[: LONGEST_NAME - 1 - length]}_{digest[:length]}" for length in count(8))
    return next(form for form in forms if form not in taken)
