"""MkDocs hook: pages that live elsewhere in the repository, and links to them.

README.md, CONTRIBUTING.md, CHANGELOG.md, benchmarks/*.md and the npm package's README become pages of the site without
a copy in git. A relative link works on the page of the repository and is translated here for the site.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {  # path in the repository -> path in the site
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "packages/react-bio-clip/README.md": "react-bio-clip.md",
    **{f"benchmarks/{path.name}": f"results/{path.name}" for path in sorted((ROOT / "benchmarks").glob("*.md"))},
}
IMAGES = {f"benchmarks/{path.name}": f"results/{path.name}" for path in sorted((ROOT / "benchmarks").glob("*.png"))}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, target in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=translate(text, source, target)))
    for source, target in IMAGES.items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page, config: MkDocsConfig, files: Files) -> str:
    path = page.file.src_uri
    return markdown if path in PAGES.values() else translate(markdown, f"docs/{path}", path)


def translate(markdown: str, source: str, target: str) -> str:
    """Point relative links of ``source`` in the repository to pages of the site; others become plain text."""

    def translated(match: re.Match[str]) -> str:
        mark, text, link, anchor = match.groups(default="")
        if "://" in link:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        if path in PAGES or path in IMAGES:
            path = (PAGES | IMAGES)[path]
        elif path.startswith("docs/"):
            path = path.removeprefix("docs/")
        else:
            return text
        return f"{mark}[{text}]({posixpath.relpath(path, posixpath.dirname(target) or '.')}{anchor})"

    return LINK.sub(translated, markdown)
