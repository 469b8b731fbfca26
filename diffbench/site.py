"""Site: which pages the leaderboard's static site has, under which names, and which old ones go.

Names of organisms and methods come from strangers, so a page's name is made from them and never is them; and only what
an earlier build wrote, and nobody changed since, is ever removed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from diffbench.atomic import write_text
from diffbench.board import Board
from diffbench.change_detection import ChangeDetection
from diffbench.run_folder import safe_name
from diffbench.site_pages import Site, index, method_page, organism_page
from diffbench.standing import Standing
from diffbench.truth import Schema

MANIFEST = "site.json"
MANIFEST_BYTES = 8 << 20
FOLDERS = ("organisms", "methods")
HASHED = 16
"""Hexadecimal digits that stand behind a name which is not safe as it is."""
_PLAIN = re.compile(r"[a-z0-9][a-z0-9._@-]{0,59}")
_TAKEN = re.compile(rf".*-[0-9a-f]{{{HASHED}}}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
_PAGE = re.compile(rf"({'|'.join(FOLDERS)})/[A-Za-z0-9][A-Za-z0-9._@-]{{0,99}}\.html")


class SiteFile(Schema):
    """What the last build wrote, so that the next one knows its own."""

    schema_version: int = 1
    pages: dict[str, str] = Field(description="path within the site, and SHA-256 of what was written there")


def file_name(name: str) -> str:
    """The page's file of an organism or a method: safe on every file system, and never that of another name.

    A name that is no plain lower-case one, or looks like one that was made, carries a part of its digest.
    """
    plain = _PLAIN.fullmatch(name) and safe_name(name) == name
    if plain and not _TAKEN.fullmatch(name) and not _RESERVED.fullmatch(name):
        return f"{name}.html"
    return f"{safe_name(name)}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:HASHED]}.html"


def pages(
    board: Board, standings: tuple[Standing, ...], detection: tuple[ChangeDetection, ...], out: Path
) -> Iterator[tuple[str, str]]:
    """Every page: its path within the site, and its text.

    Args:
        board: what is shown.
        standings: over organisms.
        detection: of change.
        out: where the site goes; records that lie below are linked.
    """
    site = Site.of(board, standings, detection, file_name, out)
    yield "index.html", index(site)
    for name, file in site.names["organisms"].items():
        yield f"organisms/{file}", organism_page(site, name)
    for name, file in site.names["methods"].items():
        yield f"methods/{file}", method_page(site, name)


def write_site(found: Mapping[str, str], out: Path) -> list[Path]:
    """Write pages, each atomically, and remove those of an earlier build that are no more; returns their paths.

    A page that somebody changed, put there by hand or made a link is left alone.
    """
    before = _known(out)
    now = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in found.items()}
    gone = {path: digest for path, digest in before.items() if path not in now}
    # Whatever happens on the way, the manifest knows all that may be there.
    _note(out, before | now)
    for path, text in found.items():
        target = out / path
        if target.is_symlink() or not target.is_file() or target.read_bytes() != text.encode():
            write_text(target, text)
    for path, digest in gone.items():
        if _is_ours(out / path, digest):
            (out / path).unlink()
    _note(out, now)
    write_text(out / ".nojekyll", "")
    return [*(out / path for path in found), out / MANIFEST, out / ".nojekyll"]


def _is_ours(path: Path, digest: str) -> bool:
    if path.is_symlink() or path.parent.is_symlink() or not path.is_file():
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() == digest


def _known(out: Path) -> dict[str, str]:
    """Pages of an earlier build; nothing that a manifest says can lead out of the two folders."""
    path = out / MANIFEST
    try:
        if path.is_symlink() or path.stat().st_size > MANIFEST_BYTES:
            return {}
        known = SiteFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return {}
    return {page: digest for page, digest in known.pages.items() if _PAGE.fullmatch(page)}


def _note(out: Path, known: Mapping[str, str]) -> None:
    file = SiteFile(pages=dict(sorted(known.items())))
    write_text(out / MANIFEST, json.dumps(file.model_dump(), indent=1) + "\n")
