"""Site: its pages, their names, what is escaped, and what an earlier build left behind."""

from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from click.testing import CliRunner
from record_factory import record, run_file, write_run
from site_factory import EXPLANATION, records

from diffbench.cli import main
from diffbench.leaderboard import build
from diffbench.leaderboard_file import LeaderboardFile
from diffbench.site import MANIFEST, file_name, write_site


class Reader(HTMLParser):
    """Links, anchors and tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, attrs)
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src"):
                self.links.append(value or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build([write_run(folder / "runs" / "demo", records(), run_file("demo"))], folder / "site")
    return folder / "site"


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_every_link_leads_somewhere_inside(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert {page.parent.name for page in pages} == {"site", "organisms", "methods"}
    for page in pages:
        read = Reader(text_of(page))
        assert len(read.ids) == len(set(read.ids)), page
        assert not read.tags & {"img", "iframe", "object", "embed", "base", "b>", "img/"}, page
        for link in read.links:
            if link == "data:,":
                continue
            path, _, anchor = link.partition("#")
            assert "://" not in path and not path.startswith("/")
            target = (page.parent / unquote(path)).resolve() if path else page
            assert target.is_relative_to(site) and target.is_file(), (page, link)
            if anchor:
                assert anchor in Reader(text_of(target)).ids, (page, link)


def test_strangers_are_escaped_everywhere(site: Path) -> None:
    found = 0
    for page in site.rglob("*.html"):
        text = text_of(page)
        assert "<img" not in text and "<b>green" not in text
        found += "&lt;img src=x onerror=alert(1)&gt;" in text
    assert found >= 4
    [page] = (site / "methods").glob("img-src-x-*.html")
    assert EXPLANATION.replace("<", "&lt;").replace(">", "&gt;") in text_of(page)


def test_the_page_of_all_results_shows_what_is_asked(site: Path) -> None:
    text = text_of(site / "index.html")
    for shown in (
        "Standings over organisms",
        "identity: 2 independent nulls",
        "superseded by v2",
        "BudgetExceeded: 61.2 s of 60 s",
        "-.53 [-.58, -.48]",  # a negative score
        "differ by",  # what would separate neighbours
        'data-family="family-0"',
        'data-tier="laptop"',
        "own track: reads training data",
    ):
        assert shown in text, shown
    rows = re.findall(r"<tr[^>]*>", text[text.index('id="rows"') : text.index('id="failures"')])[1:]
    tables = text[text.index('id="rows"') : text.index('id="failures"')].split("<tr")[2:]
    of = [re.search(r'href="organisms/([^"]+)"', row) for row in tables]
    organisms = {each.group(1): [] for each in of if each is not None}
    for row, each in zip(tables, of, strict=True):
        assert each is not None
        organisms[each.group(1)].append("data-pinned" in row)
    assert any(any(pinned) for pinned in organisms.values()) and len(organisms) > 2
    for pinned in organisms.values():
        assert pinned == sorted(pinned, reverse=True), "controls stand at the head of their organism"
    assert any('class="faded"' in row for row in rows)


def test_an_organism_has_its_pair_rows_and_failures(site: Path) -> None:
    text = text_of(site / "organisms" / "halfswap.html")
    for shown in ("Superseded by version 2", "What the layers can carry", "1, scored", "coverage 1.00", "killed by"):
        assert shown in text
    assert "kl is under its noise floor" in text.lower()  # why there is no number


def test_a_method_has_its_seeds_standings_and_evidence(site: Path) -> None:
    text = text_of(site / "methods" / "flaky.html")
    assert text[text.index('id="seeds"') :].count("<tr") >= 5 and "DiffError: decoder holds NaN" in text
    text = text_of(site / "methods" / "diff-sae.html")
    assert "Its ranks in the standings" in text and "It says green for blue." in text


def test_records_that_are_published_with_the_site_are_linked(tmp_path: Path) -> None:
    build([write_run(tmp_path / "site" / "records" / "a run", [record()])], tmp_path / "site")
    links = Reader(text_of(tmp_path / "site" / "methods" / "diff-sae.html")).links
    [link] = (link for link in links if link.endswith("record.json"))
    assert "%20" in link and (tmp_path / "site" / "methods" / unquote(link)).resolve().is_file()


def test_equal_records_give_equal_pages(site: Path, tmp_path: Path) -> None:
    shuffled = records()[::-1]
    build([write_run(tmp_path / "demo", shuffled, run_file("demo"))], tmp_path / "site")
    first, second = ({p.relative_to(s): p.read_bytes() for s in (s,) for p in s.rglob("*") if p.is_file()}
                     for s in (site, tmp_path / "site"))  # fmt: skip
    assert first == second and str(tmp_path) not in text_of(tmp_path / "site" / "index.html")


@pytest.mark.parametrize(
    "name",
    ["a b", "A", "a", "../a", "a/b", ".", "..", "", "con", "nul.x", "é", "e\u0301", "x" * 200, "a-0123456789abcdef"],
)
def test_names_of_files_are_safe(name: str) -> None:
    file = file_name(name)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,90}\.html", file)
    assert file == file_name(name) and (name in ("a",)) == (file == f"{name}.html")


def test_names_of_files_do_not_collide() -> None:
    names = ["a", "A", "a b", "a-b", "a  b", "a/b", "../a/b", "con", "con-", "-con", "x" * 60, "x" * 61, "é", "è"]
    names += [file_name(name).removesuffix(".html") for name in names]
    files = [file_name(name).lower() for name in dict.fromkeys(names)]
    assert len(set(files)) == len(files)
    assert file_name("halfswap@7") == "halfswap@7.html"


def test_pages_of_what_is_gone_are_removed_if_they_are_ours(tmp_path: Path) -> None:
    out, methods = tmp_path / "site", tmp_path / "site" / "methods"
    found = {f"methods/{name}.html": name for name in ("one", "two", "three", "four")}
    write_site(found, out)
    (methods / "by-hand.html").write_text("mine")
    (methods / "two.html").write_text("changed by hand")
    (methods / "three.html").unlink()
    (methods / "three.html").symlink_to(methods / "one.html")
    write_site({"methods/one.html": "one"}, out)
    assert sorted(page.name for page in methods.iterdir()) == ["by-hand.html", "one.html", "three.html", "two.html"]
    assert list(json.loads(text_of(out / MANIFEST))["pages"]) == ["methods/one.html"]
    assert (out / ".nojekyll").read_bytes() == b""


def test_a_manifest_leads_nowhere_else(tmp_path: Path) -> None:
    out, outside = tmp_path / "site", tmp_path / "outside.html"
    names = ["../outside.html", "methods/../../outside.html", str(outside), "leaderboard.md", "methods/../index.html"]
    write_site({"index.html": "a page", "methods/a.html": "a page"}, out)
    for path in (outside, out / "leaderboard.md"):
        path.write_text("a page")
    digest = hashlib.sha256(b"a page").hexdigest()
    (out / MANIFEST).write_text(json.dumps({"pages": dict.fromkeys([*names, "methods/a.html"], digest)}))
    write_site({}, out)
    assert outside.exists() and (out / "leaderboard.md").exists() and (out / "index.html").exists()
    assert not (out / "methods" / "a.html").exists()
    (out / MANIFEST).write_text("[")
    write_site({"index.html": "a page"}, out)
    assert list(json.loads(text_of(out / MANIFEST))["pages"]) == ["index.html"]


def test_the_schema_is_published_and_describes_the_json(site: Path) -> None:
    text = text_of(site / "leaderboard.json")
    assert LeaderboardFile.model_validate_json(text).model_dump(mode="json", exclude_unset=True) == json.loads(text)
    schema = json.loads(text_of(site / "schema.json"))
    row = json.loads(text)["rows"][0]
    assert set(schema["$defs"]["DataRow"]["properties"]) == set(row)
    assert set(schema["$defs"]["SummaryRow"]["properties"]) == set(json.loads(text)["summary"][0])
    assert all(entry["description"] for entry in schema["$defs"]["DataRow"]["properties"].values())
    printed = CliRunner().invoke(main, ["schema", "leaderboard"])
    assert json.loads(printed.stdout) == schema


def test_no_records(tmp_path: Path) -> None:
    build([write_run(tmp_path / "empty", [])], tmp_path / "site")
    assert "0 records of 1 run" in text_of(tmp_path / "site" / "index.html")
    assert not (tmp_path / "site" / "methods").exists()
