"""Show the methods that the clients make of flows (`chat = driven(ClientBase._chat)`) in the reference, as methods."""

from __future__ import annotations

import re
from typing import Any

import griffe

_MADE = re.compile(r"(a?)driven\(ClientBase\.(_\w+)\)")


class Flows(griffe.Extension):
    """Replaces the attribute by a function with the flow's parameters, result and docstring."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        if pkg.name != "lava_mistral":
            return
        clients = pkg["client.clients"]
        for client in (clients["LavaMistral"], clients["AsyncLavaMistral"]):
            for name, attribute in list(client.attributes.items()):
                if made := _MADE.fullmatch(str(attribute.value)):
                    flow = clients["ClientBase"].all_members[made[2]]
                    result = str(flow.returns).removeprefix("Flow[").removesuffix("]")
                    method = griffe.Function(name, parameters=flow.parameters, returns=result, docstring=flow.docstring)
                    method.labels |= {"async"} if made[1] else set()
                    client.set_member(name, method)
