"""The texts of the benchmark: passages of Python's own documentation, which every CPython carries, with token counts.

Prose, code, tables and names, as documentation is: how far an estimate of their tokens is off differs from passage to
passage. All passages are different; many overlap.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from pydoc_data.topics import topics

from lava_mistral.pricing.token_counting import token_ids

CHARACTERS = 3.6
"""Characters that are about one token in these texts."""


def passages(count: int, seed: int) -> list[str]:
    """Texts of about 200 tokens."""
    draw = random.Random(seed)
    whole = "\n\n".join(topics[name] for name in sorted(topics))
    texts = []
    for number in range(count):
        size = max(200, int(draw.gauss(200, 30) * CHARACTERS))
        start = draw.randrange(len(whole) - size)
        # Ends between two words, as a splitter would.
        words = whole[start : start + size].split(" ")
        texts.append(f"{seed}.{number} " + " ".join(words[1:-1]))
    return texts


def tokens_of(text: str) -> int:
    """As Mistral counts an input."""
    counted = token_ids(text, "mistral-embed", enclosed=True)
    if counted is None:
        raise SystemExit("The benchmark needs the extra [tokenizer]: pip install 'lava-mistral[tokenizer]'")
    return len(counted)


def write(path: Path, count: int) -> None:
    """Two jobs of as many texts and tokens: `first` and `then`."""
    jobs = {name: passages(count, seed) for seed, name in enumerate(("first", "then"))}
    path.write_text(json.dumps({name: [texts, [*map(tokens_of, texts)]] for name, texts in jobs.items()}))
