"""Words that carry no subject, in the languages that examples are mostly written in."""

from __future__ import annotations

from typing import Final

_COMMON = """
    a about above after again all also am an and any are aren as at be because been before being below between both
    but by can cannot could couldn d did didn do does doesn doing don down during each either else etc few for from
    further had has have having he her here hers him his how i if in into is isn it its itself just let ll m many may
    me might mine more most much must my neither no nor not now of off on once one only or other our ours out over own
    per please re s same shall she should so some such t tell than that the their theirs them then there these they
    this those through thus to too u under until up us ve very via was we were what when where which while who whom
    whose why will with within without would yes you your yours
    le la les un une des du de et est en que qui dans pour pas sur au aux il elle ce cette ces je tu nous vous ils
    der die das und ist ein eine zu den dem mit von auf für nicht ich du er sie wir ihr wie was wer wo
    el los las una uno y es del por con para que como se su"""
COMMON: Final = frozenset(_COMMON.split())
"""Words that say nothing about what a text is about: English, French, German, Spanish."""

_TOOLISH = """
    apply argument call compute data do fetch find function get give given input make need output parameter provide
    query result return run show specified string take tool type use used user using value want"""
TOOLISH: Final = frozenset(_TOOLISH.split())
"""Words that every description of a tool, and every request for one, is made of."""
