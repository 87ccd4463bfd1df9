"""Brings what the pages link to outside of docs/ into the site, which is whole by itself wherever it is hosted."""

import re
from pathlib import Path
from posixpath import dirname, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).parent.parent
# Documents that lie beside what they are about, and the page that each becomes.
PAGES = {
    "README.md": "index.md",
    "launch/README.md": "launch.md",
    "pretrained/nano/README.md": "nano.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):(?=<)")  # of docstrings, before what they name
LINK = re.compile(r"(\[[^\]]*\]\()([^)#:\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents of ``PAGES``."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(REPOSITORY / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages; add the files that are no pages."""
    sources = {uri: source for source, uri in PAGES.items()}
    here = page.file.src_uri
    source = sources.get(here, f"docs/{here}")

    def linked(match: re.Match[str]) -> str:
        target = normpath(f"{dirname(source)}/{match[2]}".removeprefix("/"))
        if not (REPOSITORY / target).is_file():
            return match[0]
        uri = PAGES.get(target) or target.removeprefix("docs/")
        if uri == target and uri not in PAGES.values():
            uri = f"files/{target}"
            if files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(REPOSITORY / target)))
        return match[1] + relpath(uri, dirname(here) or ".")

    return LINK.sub(linked, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave out the roles of docstrings; what they name stays as code."""
    return ROLE.sub("", html)
