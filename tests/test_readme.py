"""The README's Python examples run, in order, against the embedded gateway."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lava_mistral.gateway import LocalGateway

README = Path(__file__).resolve().parents[1] / "README.md"
SECTIONS = re.split(r"^## ", README.read_text(), flags=re.MULTILINE)[1:]


def examples(section: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)


WITH_EXAMPLES = [pytest.param(section, id=section.splitlines()[0]) for section in SECTIONS if examples(section)]


@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("idle_loop")
@pytest.mark.parametrize("section", WITH_EXAMPLES)
def test_the_examples_of_a_section_run(
    section: str, gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAVA_SECRET_KEY", gateway.secret_key)
    monkeypatch.setenv("LAVA_BASE_URL", gateway.base_url)
    names: dict[str, object] = {"__name__": "readme"}
    for example in examples(section):
        exec(compile(example, f"README.md, {section.splitlines()[0]}", "exec"), names)
    assert "import" in section
    assert capsys.readouterr().out or "billed_to" in section


def test_every_python_section_is_covered() -> None:
    assert len(WITH_EXAMPLES) >= 5
