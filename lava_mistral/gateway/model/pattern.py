"""Writes a text that a regular expression matches."""

import re
import string
from collections.abc import Iterator

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?(?:P?<\w+>|:)|[*+?]\??|\{\d+(?:,\d*)?\}\??|.", re.S)
_CHARACTERS = string.ascii_letters + string.digits + string.punctuation + " "


def example(pattern: str, least: int = 0) -> str:
    """Write a short text for a pattern, of its first alternatives; what may be repeated is so often as `least` asks.

    Look-arounds and references to groups are not understood: check what comes.
    """
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
