"""`lava-mistral demo`."""

from __future__ import annotations

import json
import os
import subprocess
import time
import zipfile
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from lava_mistral.cli.documents import passages, prose
from lava_mistral.gateway import Interrupted, LocalGateway
from tests.fakes import command_line
from tests.fakes.command_line import CLI, COMMAND, MAIN, access, run
from tests.fakes.pdf_file import pdf
from tests.fakes.warm_python import WarmPython

Spawn = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def spawn(warm_python: Callable[..., WarmPython]) -> Spawn:
    """Runs `lava-mistral demo` in a process of its own, where modules are missing."""

    def spawn(*arguments: str | Path | bytes, missing: Sequence[str] = (), **environment: str) -> Any:
        script = f"import sys\nsys.modules |= dict.fromkeys({missing!r})\n{MAIN}"
        return warm_python(CLI).run(script, "demo", *arguments, **environment)

    return spawn


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two texts, and with much that is none."""
    (tmp_path / "bees.md").write_text(
        "# Bees\n\nA bee colony has one queen.\n\nThe beekeeper Ada Novak harvests honey in July.\n"
    )
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "ships.TXT").write_text("The ship Aurora sails from Oslo every Monday.")
    (tmp_path / "photo.txt").write_bytes(b"\x89PNG\0\0\1")
    (tmp_path / "old.md").write_bytes("Übergröße".encode("latin-1"))
    (tmp_path / "huge.md").write_text("x" * 2_000_001)
    (tmp_path / "gone.md").symlink_to(tmp_path / "nowhere.md")
    (tmp_path / "empty.md").write_text(" \n")
    (tmp_path / "table.csv").write_text("Csv;is;no;text;to;read")
    for hidden in (".git", "node_modules"):
        (tmp_path / hidden).mkdir()
        (tmp_path / hidden / "inside.md").write_text("Nobody should read this.")
    return tmp_path


class TestDemo:
    def test_without_a_key_the_first_line_says_that_it_is_simulated(self) -> None:
        result = run("demo")
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        assert lines[0].startswith("SIMULATED: ")
        assert "not Mistral" in lines[0]
        assert "Question: How do I bill a call to one of my customers?" in result.stdout
        answer = result.stdout.split("Answer of mistral-small-2603:\n")[1].split("\n\nSources")[0]
        assert "To bill a call to one of your customers, wrap it in billed_to with the customer's id" in answer
        assert answer.endswith(".")

    def test_a_required_customer_is_told_with_the_variable_to_unset(self) -> None:
        result = run("demo", LAVA_REQUIRE_CUSTOMER="1")
        assert result.exit_code == 1
        assert "env -u LAVA_REQUIRE_CUSTOMER lava-mistral demo" in result.stderr

    def test_it_answers_from_the_users_files_with_sources_and_cost(self, folder: Path, gateway: LocalGateway) -> None:
        question = "When does Ada Novak harvest honey?"
        result = run("demo", folder, "--question", question, **access(gateway))
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith(f"Talking to the gateway on this machine, {gateway.base_url}")
        answer = result.stdout.split("Answer of mistral-small-2603:")[1].split("Sources")[0]
        assert "July" in answer
        assert "[1] bees.md: " in result.stdout

        *paid, asked = gateway.requests
        assert all(request.path == "/v1/embeddings" for request in paid)
        assert asked.path == "/v1/chat/completions"
        assert asked.streamed
        assert question in json.dumps(asked.body["messages"][-1])
        for request in gateway.requests:
            assert request.request_id in result.stdout
        total = next(line for line in result.stdout.splitlines() if line.startswith("total"))
        assert Decimal(total.split("$")[1]) == sum(request.cost for request in gateway.requests)

    def test_what_is_no_text_is_skipped_and_named(self, folder: Path, gateway: LocalGateway) -> None:
        result = run("demo", folder, **access(gateway))
        assert result.exit_code == 0, result.output
        for reason in (
            "photo.txt (can't be read: binary)",
            "old.md (can't be read: not UTF-8 text)",
            "huge.md (larger than 2 MB)",
            "gone.md (No such file or directory)",
            "table.csv (no kind of document that is read)",
        ):
            assert f"Skipped {reason}." in result.stdout
        sent = json.dumps([request.body for request in gateway.requests])
        assert "Aurora" in sent
        assert "Nobody should read this" not in sent
        assert "Csv" not in sent

    def test_one_file_will_do(self, folder: Path, gateway: LocalGateway) -> None:
        result = run("demo", folder / "bees.md", "-q", "Who harvests honey?", **access(gateway))
        assert result.exit_code == 0, result.output
        assert "Ada Novak" in result.stdout

    def test_an_empty_folder_is_named(self, tmp_path: Path) -> None:
        result = run("demo", tmp_path)
        assert result.exit_code == 1
        assert f"no document to read in {tmp_path}" in result.stderr
        assert "Traceback" not in result.output

    @pytest.mark.parametrize(
        "arguments",
        [("/no/such/folder",), ("--question", " "), ("--colour", "red")],
    )
    def test_a_wrong_call_exits_with_2(self, arguments: tuple[str, ...]) -> None:
        assert run("demo", *arguments).exit_code == 2

    def test_a_failed_call_ends_in_a_sentence(self, folder: Path) -> None:
        with LocalGateway(balance="0") as gateway:
            result = run("demo", folder, **access(gateway))
        assert result.exit_code == 1
        assert "merchant's wallet" in result.stderr
        assert "HTTP 402" in result.stderr
        assert "Traceback" not in result.output

    def test_a_missing_extra_is_named(self, spawn: Spawn) -> None:
        done = spawn(missing=["uvicorn"])
        assert done.returncode == 1, done.stderr
        assert 'pip install "lava-mistral[gateway]"' in done.stderr.decode()
        assert b"Traceback" not in done.stderr

    def test_it_needs_no_framework(self, spawn: Spawn, folder: Path, gateway: LocalGateway) -> None:
        done = spawn(folder, missing=["langchain_core", "llama_index"], **access(gateway))
        assert done.returncode == 0, done.stderr

    def test_the_instruction_is_no_part_of_the_answer(self, tmp_path: Path, gateway: LocalGateway) -> None:
        (tmp_path / "ok.md").write_text("The capital of France is Paris.")
        result = run("demo", tmp_path, "-q", "What is the capital?", **access(gateway))
        assert result.exit_code == 0, result.output
        answer = result.stdout.split("Answer of mistral-small-2603:")[1].split("Sources")[0]
        assert "The capital of France is Paris." in answer
        assert "passages" not in answer
        instruction = gateway.requests[-1].body["messages"][0]["content"]
        assert "\n\n[1] ok.md\nThe capital of France is Paris." in instruction

    def test_a_failure_in_the_middle_of_the_answer_stands_on_its_own_line(self, folder: Path) -> None:
        with LocalGateway(faults=[(lambda record: record.streamed, Interrupted(after=3))]) as gateway:
            done = subprocess.run(
                [COMMAND, "demo", str(folder), "-q", "When does Ada Novak harvest honey?"],
                env=os.environ | access(gateway),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=120,
            )
        assert done.returncode == 1
        lines = done.stdout.split("Answer of mistral-small-2603:\n")[1].splitlines()
        assert lines[0] == "The beekeeper"
        assert lines[2].startswith("Failed: ")

    def test_a_file_name_may_be_no_text(self, tmp_path: Path, gateway: LocalGateway, spawn: Spawn) -> None:
        folder = os.fsencode(tmp_path) + b"/caf\xe9"
        os.mkdir(folder)
        for name, content in ((b"th\xe9.md", b"Tea is a drink."), (b"bin\xe9.md", b"\0")):
            with open(folder + b"/" + name, "wb") as file:
                file.write(content)
        done = spawn(folder, "-q", "What is tea?", **access(gateway))
        assert done.returncode == 0, done.stderr
        said = done.stdout.decode()
        assert "[1] th\N{REPLACEMENT CHARACTER}.md: Tea is a drink." in said
        assert "Skipped bin\N{REPLACEMENT CHARACTER}.md (can't be read: binary)." in said
        os.remove(folder + b"/th\xe9.md")
        done = spawn(folder, **access(gateway))
        assert done.returncode == 1
        assert "caf\N{REPLACEMENT CHARACTER}" in done.stderr.decode()

    def test_as_a_process(self, folder: Path, gateway: LocalGateway) -> None:
        done = command_line.spawn(
            "demo", folder, "--question", "Where does the ship Aurora sail from?", **access(gateway)
        )
        assert done.returncode == 0, done.stderr
        assert "Oslo" in done.stdout


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """A folder with one document of each kind."""
    (tmp_path / "bees.html").write_text(
        "<html><head><title>Shop</title><style>p {}</style></head><body><h1>Bees</h1>"
        "<script>alert('buy')</script><p>The beekeeper <b>Ada Novak</b> harvests\nhoney in July.</p></body></html>"
    )
    (tmp_path / "ships.pdf").write_bytes(pdf("The ship Aurora sails from Oslo", "every Monday."))
    (tmp_path / "scan.pdf").write_bytes(pdf())
    (tmp_path / "cut.pdf").write_bytes(pdf("Half of it")[:120])
    with zipfile.ZipFile(tmp_path / "tea.docx", "w") as word:
        word.writestr("[Content_Types].xml", CONTENT_TYPES)
        word.writestr("_rels/.rels", RELATIONS)
        word.writestr("word/document.xml", DOCUMENT)
    return tmp_path


OFFICE = "http://schemas.openxmlformats.org"
XML = '<Default Extension="xml" ContentType="application/xml"/>'
CONTENT_TYPES = f'<Types xmlns="{OFFICE}/package/2006/content-types">{XML}</Types>'
RELATIONS = (
    f'<Relationships xmlns="{OFFICE}/package/2006/relationships"><Relationship Id="r1" Target="word/document.xml" '
    f'Type="{OFFICE}/officeDocument/2006/relationships/officeDocument"/></Relationships>'
)
DOCUMENT = (
    f'<w:document xmlns:w="{OFFICE}/wordprocessingml/2006/main"><w:body><w:p><w:r><w:t>Green tea is grown in Uji.</w:t>'
    "</w:r></w:p></w:body></w:document>"
)


@pytest.mark.parametrize(
    ("question", "answer", "source"),
    [
        ("When does Ada Novak harvest honey?", "The beekeeper Ada Novak harvests honey in July.", "bees.html"),
        ("When does the ship Aurora sail?", "The ship Aurora sails from Oslo every Monday.", "ships.pdf"),
        ("Where is green tea grown?", "Green tea is grown in Uji.", "tea.docx"),
    ],
)
def test_pdf_html_and_word_are_read(
    documents: Path, gateway: LocalGateway, question: str, answer: str, source: str
) -> None:
    result = run("demo", documents, "-q", question, **access(gateway))
    assert result.exit_code == 0, result.output
    assert answer in result.stdout.split("Answer of mistral-small-2603:")[1].split("Sources")[0]
    assert f"[1] {source}: " in result.stdout
    assert "Skipped scan.pdf (no text in it; a scan needs OCR first)." in result.stdout
    assert "Skipped cut.pdf (can't be read: " in result.stdout
    sent = json.dumps([request.body for request in gateway.requests])
    for left_out in ("alert(", "Shop", "p {}"):
        assert left_out not in sent


def test_without_the_extra_those_are_skipped_and_the_extra_is_named(
    documents: Path, gateway: LocalGateway, spawn: Spawn
) -> None:
    (documents / "plain.txt").write_text("The capital of France is Paris.")
    missing = ["pypdf", "mammoth", "markdownify"]
    done = spawn(documents, "-q", "What is the capital of France?", missing=missing, **access(gateway))
    assert done.returncode == 0, done.stderr
    assert b"Paris" in done.stdout
    for name in ("bees.html", "ships.pdf", "tea.docx"):
        assert f'Skipped {name} (needs pip install "lava-mistral[documents]").' in done.stdout.decode()


def test_one_chunk_is_one_chunk_and_the_question_fits_the_text(tmp_path: Path, gateway: LocalGateway) -> None:
    (tmp_path / "bees.md").write_text("# Bees\n\nBees live in colonies, and\neach colony has one queen.\n")
    result = run("demo", tmp_path, **access(gateway))
    assert result.exit_code == 0, result.output
    assert "Embedded 1 chunk with mistral-embed" in result.stdout
    assert "Question: What is said about Bees?" in result.stdout
    assert "Bees live in colonies, and each colony has one queen." in result.stdout


def test_many_files_of_other_kinds_are_counted(tmp_path: Path, gateway: LocalGateway) -> None:
    (tmp_path / "text.md").write_text("The capital of France is Paris.")
    for number in range(7):
        (tmp_path / f"{number}.png").write_bytes(b"")
    result = run("demo", tmp_path, **access(gateway))
    assert "Skipped 0.png, 1.png, 2.png, 3.png, 4.png and 2 more (no kind of document that is read)." in result.stdout


def test_passages_are_of_whole_sentences() -> None:
    text = "\n".join(f"Sentence {number} says something about nothing. Is it? It is!" for number in range(40))
    pieces = list(passages(text, 200))
    assert max(map(len, pieces)) <= 200
    assert all(piece[0].isupper() and piece[-1] in ".?!" for piece in pieces)
    assert " ".join(" ".join(pieces).split()) == " ".join(text.split())
    assert list(passages("One sentence is longer than that. Two.", 10)) == ["One sentence is longer than that.", "Two."]


def test_a_table_of_two_megabytes_is_read_in_time_and_cut_into_texts_that_mistral_embeds() -> None:
    table = "".join(f"{number},a ship sails from Oslo,{number / 7:.2f}\n" for number in range(50_000))
    began = time.monotonic()
    pieces = list(passages(prose(table), 800))
    assert time.monotonic() - began < 10
    assert max(map(len, pieces)) <= 4000
    assert " ".join("".join(pieces).split()).startswith("0,a ship sails from Oslo,0.00 1,a ship")


def test_many_chunks_are_announced(tmp_path: Path, gateway: LocalGateway) -> None:
    (tmp_path / "long.txt").write_text("The ship Aurora sails from Oslo. " * 6_000)
    result = run("demo", tmp_path, "-q", "Where does the Aurora sail from?", **access(gateway))
    assert result.exit_code == 0, result.output
    begun, done = result.stdout.index("Embedding 250 chunks"), result.stdout.index("Embedded 250 chunks")
    assert begun < done


def test_a_larger_table_is_refused_with_what_embeds_it(tmp_path: Path) -> None:
    (tmp_path / "large.csv").write_bytes(b"1,row\n" * 1_700_000)
    result = run("demo", tmp_path / "large.csv")
    assert result.exit_code == 1
    assert "large.csv (larger than 2 MB)" in result.stderr
    assert "`lava-mistral embed`" in result.stderr


def test_prose_is_what_is_left_of_markdown() -> None:
    markdown = (
        "# Tea\n\nTea is a\ndrink; see [the page](https://example.com).\n\n```python\nprint(1)\n```\n\n"
        "| a | b |\n|---|---|\n\n- first\n  goes on\n- second\n\n## Green\n![leaf](leaf.png)\nIt is grown in Uji.\n"
    )
    assert prose(markdown) == "Tea: Tea is a drink; see the page.\nfirst goes on\nsecond\nGreen: It is grown in Uji."
