"""Answers that are not streamed, read as the client reads them."""

from __future__ import annotations

from typing import Any

from lava_mistral.mistral.tools import NO_TOOLS, ToolNames
from lava_mistral.mistral.turn import Turn
from lava_mistral.mistral.turn_accumulator import TurnAccumulator


def turn_of(choice: Any, names: ToolNames = NO_TOOLS) -> Turn:
    """The turn in the only choice of an answer."""
    accumulator = TurnAccumulator(names)
    accumulator.add_whole({"choices": [choice]})
    return accumulator.turns[0]


def whole_turn(message: Any, finish_reason: Any = None, **choice: Any) -> Turn:
    """The turn that a message is as the only choice of an answer."""
    return turn_of({"message": message, "finish_reason": finish_reason, **choice})
