"""Documents under test: links resolve, commands exist, nothing of this machine stands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts.doc_blocks import REPO
from scripts.reference_docs import commands

PAGES = sorted(
    [
        *(REPO / "docs").rglob("*.md"),
        *(
            path
            for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
            if (path := REPO / name).exists()
        ),
    ]
)

FENCE_RE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE_RE = re.compile(r"`[^`\n]+`")
LINK_RE = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
HEADING_RE = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
COMMAND_RE = re.compile(r"^\s*(?:\$ )?(?:\.venv/bin/)?(provledger|keys|make) ([a-z-]+)(.*)$")
SHELL_RE = re.compile(r"^ *```sh\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def anchor(heading: str) -> str:
    """The fragment that GitHub gives a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = FENCE_RE.sub("", page.read_text("utf-8"))
    return {anchor(heading) for heading in HEADING_RE.findall(text)}


def links(page: Path) -> Iterator[str]:
    text = CODE_RE.sub("``", FENCE_RE.sub("", page.read_text("utf-8")))
    yield from LINK_RE.findall(text)


def shell_lines(page: Path) -> Iterator[str]:
    for block in SHELL_RE.findall(page.read_text("utf-8")):
        yield from block.replace("\\\n", " ").splitlines()


def relative(page: Path) -> str:
    return str(page.relative_to(REPO))


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_resolve(page: Path) -> None:
    broken = []
    for target in links(page):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, fragment = target.partition("#")
        place = (page.parent / path) if path else page
        if not place.exists() or (fragment and fragment not in anchors(place)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_pages_name_no_machine(page: Path) -> None:
    text = page.read_text("utf-8")
    assert not re.search(r"(?<![\w.])/(?:work|root|tmp)/", text)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_commands_shown_exist(page: Path) -> None:
    """Verbs, options and make targets in shell blocks are real ones."""
    known = dict(verbs())
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text("utf-8"), re.MULTILINE))
    wrong = []
    for line in shell_lines(page):
        match = COMMAND_RE.match(line)
        if match is None:
            continue
        program, verb, rest = match.groups()
        if program == "make":
            wrong += [line] if verb not in targets else []
            continue
        name = f"{program} {verb}"
        if name == "provledger keys":
            verb, _, rest = rest.strip().partition(" ")
            name = f"keys {verb}"
        elif name in ("provledger fips", "provledger log", "provledger anchor"):
            verb, _, rest = rest.strip().partition(" ")
            name = f"{name} {verb}"
        options = set(re.findall(r"(?<=\s)--[a-z0-9-]+", rest.partition("#")[0])) - {"--help"}
        if name not in known or not options <= known[name]:
            wrong.append(line)
    assert not wrong


def verbs() -> Iterator[tuple[str, set[str]]]:
    for name, command in commands():
        yield (
            name,
            {option for item in command.params for option in [*item.opts, *item.secondary_opts]},
        )


def test_readme_verifies_a_receipt_as_it_shows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example of offline verification runs as it stands, and prints what stands below it."""
    text = (REPO / "README.md").read_text("utf-8")
    found = re.search(
        r"```python\n([^`]*verify_receipt[^`]*)```\n\n```text\n(.*?)```", text, re.DOTALL
    )
    assert found is not None
    code, shown = found.groups()
    monkeypatch.chdir(REPO)
    exec(compile(code, "README.md", "exec"), {})
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == shown.splitlines()


def test_python_shown_compiles() -> None:
    """Every Python block parses, and what it imports from us is there."""
    for page in PAGES:
        for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            compile(block, str(page), "exec")
            for line in re.findall(r"^from provledger.*$", block, re.MULTILINE):
                exec(line, {})


def test_records_of_decisions_are_numbered_without_gap() -> None:
    numbers = sorted(path.name[:4] for path in (REPO / "docs" / "adr").glob("*.md"))
    assert numbers == [f"{number:04}" for number in range(len(numbers))]


@pytest.mark.parametrize(
    "page", sorted((REPO / "docs" / "adr").glob("000[1-9]*.md")), ids=lambda page: page.stem
)
def test_records_of_decisions_follow_the_template(page: Path) -> None:
    text = page.read_text("utf-8")
    for part in (
        "- Status: ",
        "- Date: ",
        "\n## Context\n",
        "\n## Decision\n",
        "\n## Consequences\n",
    ):
        assert part in text
    assert text.startswith(f"# {page.name[:4]}. ")
