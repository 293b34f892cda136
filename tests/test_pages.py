"""The pages that people read: links lead somewhere, tables are those of the records, the first page is short."""

import json
import re
from pathlib import Path

import pytest

from experiments.compare import markdown

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md"]
PAGES += [ROOT / folder / "README.md" for folder in ("jaxrnn", "experiments", "benchmarks")]
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Those that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page):
    links = [link for link in _LINK.findall(_CODE.sub("", page.read_text())) if "://" not in link]
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = page if not path else (page.parent / path).resolve()
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_is_named_exists(page):
    named = re.findall(r"`((?:jaxrnn|tests|benchmarks|experiments|\.\w+)/[\w./-]+)`", page.read_text())
    missing = {name for name in named if not (ROOT / name).exists()}
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_is_named_exists(page):
    for module in re.findall(r"python -m ((?:experiments|benchmarks)\.\w+)", page.read_text()):
        path = ROOT / module.replace(".", "/")
        # The table of one epoch names the command that wrote its record.
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists() or module == "benchmarks.epoch"


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_the_table_of_accuracy_is_what_compare_wrote():
    record = json.loads((ROOT / "experiments" / "results" / "compare.json").read_text())
    assert markdown(record["baselines"], record["networks"]) in (ROOT / "README.md").read_text()


def test_pictures_are_small():
    sizes = {path.name: path.stat().st_size for path in (ROOT / "experiments" / "pictures").iterdir()}
    assert sum(sizes.values()) < 600_000, sizes
