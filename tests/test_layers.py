"""The packages stay easy to see: few levels of imports, no cycles, no long modules."""

from __future__ import annotations

from graphlib import TopologicalSorter

import grimp

from tests.conftest import ROOT

PACKAGES = ("lava_mistral", "langchain_lava_mistral", "llama_index_lava_mistral")


def test_modules_are_on_few_levels_without_cycles() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    below = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    levels: dict[str, int] = {}
    # Raises CycleError for a cycle, with its modules.
    for module in TopologicalSorter(below).static_order():
        levels[module] = 1 + max((levels[lower] for lower in below[module]), default=0)
    assert max(levels.values()) <= 11, max(levels, key=levels.__getitem__)


def test_no_module_is_over_400_lines() -> None:
    lengths = {
        path.relative_to(ROOT): len(path.read_text("utf-8").splitlines())
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert {path: length for path, length in lengths.items() if length > 400} == {}
