"""The documents: their links lead somewhere, the site's navigation names every page, and the site builds whole."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import REPOSITORY

PAGES = sorted((REPOSITORY / "docs").rglob("*.md"))
DOCUMENTS = [*PAGES, *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
             REPOSITORY / "launch/README.md", REPOSITORY / "pretrained/nano/README.md"]  # fmt: skip


def _text(path: Path) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def _anchors(path: Path) -> set[str]:
    """The anchors of the headings, as hosting sites and the site's configuration make them."""
    headings = re.findall(r"^#+ (.*)$", _text(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _wrong_links(path: Path) -> list[str]:
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", _text(path))
    places = [(path.parent / file if file else path, anchor) for file, anchor in links]
    return [
        f"{file}#{anchor}" for file, anchor in places if not file.exists() or (anchor and anchor not in _anchors(file))
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_to_files_and_headings(path):
    assert _wrong_links(path) == []


def test_wrong_links_are_found(tmp_path):
    (tmp_path / "a.md").write_text("# One `b`: two\n[1](#one-b-two) [2](a.md#no) [3](b.md) [4](https://b.org/c)\n")
    assert _wrong_links(tmp_path / "a.md") == [f"{tmp_path / 'a.md'}#no", f"{tmp_path / 'b.md'}#"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_list_begins_after_an_empty_line(path):
    """Hosting sites need none, but the site takes the items for words of the paragraph before."""
    assert re.findall(r"^(?![-*] |\d+\. |\s)(.+)\n(?:[-*]|\d+\.) ", _text(path), re.MULTILINE) == []


def test_the_navigation_names_every_page():
    named = re.findall(r": (\S+\.md)$", (REPOSITORY / "mkdocs.yml").read_text(), re.MULTILINE)
    brought = re.findall(r'": "(\S+\.md)",$', (REPOSITORY / "docs/site.py").read_text(), re.MULTILINE)
    pages = [str(path.relative_to(REPOSITORY / "docs")) for path in PAGES]
    assert sorted(named) == sorted(pages + brought)


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_fetches_nothing(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (make docs)")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    fetched = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*")
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(PAGES)
    assert [match for page in pages for match in fetched.findall(page.read_text())] == []
    assert [css for css in tmp_path.rglob("*.css") if re.search(r"url\([\"']?(?:https?:)?//", css.read_text())] == []
    assert ":class:" not in (tmp_path / "api.html").read_text()
