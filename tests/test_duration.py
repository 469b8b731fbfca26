"""How long stages took: remembered on this machine, guessed from what is near, and never in anybody's way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffbench.duration import DEFAULTS, FILE, LEAST_SCALE, MOST, RECENT, Durations, told, wall

STAGE = ("method", "tinyworld", "laptop", "diff-sae", "k=8")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIFFBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def noted(*seconds: tuple[tuple[str, ...], float]) -> Durations:
    durations = Durations()
    for stage, took in seconds:
        durations.note(stage, took)
    return durations


def test_the_nearest_that_is_known_is_expected(cache: Path) -> None:
    durations = noted((STAGE, 10.0), (STAGE, 20.0), ((*STAGE[:3], "pca", "n=8"), 3.0))
    assert durations.expected(STAGE) == pytest.approx(15.0)
    assert durations.expected((*STAGE[:4], "k=16")) == pytest.approx(15.0), "the same method with other options"
    assert durations.expected((*STAGE[:3], "new")) == pytest.approx(11.0), "another method of the tier"
    assert durations.expected(("method", "gemma", "laptop", "diff-sae")) == pytest.approx(11.0)
    assert durations.expected(("score", "tinyworld")) == DEFAULTS["score"]
    assert not cache.exists(), "asking leaves no trace"


def test_what_is_not_known_at_all_grows_with_the_text_of_the_tier(cache: Path) -> None:
    durations = Durations()
    for kind in ("prepare", "control", "method", "score"):
        smoke, laptop, workstation, own = (
            durations.expected((kind, "tinyworld", tier)) for tier in ("smoke", "laptop", "workstation", "mine")
        )
        assert laptop == own == DEFAULTS[kind] and smoke == LEAST_SCALE * laptop and workstation == 8 * laptop
    assert durations.expected(("train", "tinyworld", "smoke")) == DEFAULTS["train"], "an organism of that name"


def test_another_process_knows_what_was_saved_and_adds_to_it(cache: Path) -> None:
    first, second = noted((STAGE, 10.0)), noted((STAGE, 30.0))
    assert first.expected(STAGE) == 10.0 and second.expected(STAGE) == 30.0
    first.save()
    second.save()
    assert Durations().expected(STAGE) == pytest.approx(20.0)
    assert [path.name for path in cache.iterdir()] == [FILE]
    before = (cache / FILE).read_bytes()
    first.save()
    assert (cache / FILE).read_bytes() == before, "nothing is added twice"


def test_the_newest_count(cache: Path) -> None:
    noted(*((STAGE, float(seconds)) for seconds in range(20))).save()
    assert Durations().expected(STAGE) == pytest.approx(sum(range(20 - RECENT, 20)) / RECENT)
    noted(*((("method", str(name)), 1.0) for name in range(2 * MOST))).save()
    assert len(json.loads((cache / FILE).read_text())["seconds"]) == MOST
    assert Durations().expected(STAGE) == pytest.approx(1.0), "of this one only the kind is left"


def test_the_file_names_nothing(cache: Path) -> None:
    noted((STAGE, 10.0)).save()
    content = (cache / FILE).read_text()
    assert not [word for word in STAGE if word in content]


DAMAGE = (
    "",
    "{",
    "[]",
    "null",
    "[" * 100_000,
    '{"seconds": 3}',
    '{"seconds": [1, 2]}',
    '{"seconds": {"a": "b", "c": [], "d": [null], "e": [-1], "f": [true], "g": [1e400]}}',
)


@pytest.mark.parametrize("damage", DAMAGE, ids=range(len(DAMAGE)))
def test_a_damaged_file_counts_as_empty_and_is_replaced(damage: str, cache: Path) -> None:
    cache.mkdir()
    (cache / FILE).write_text(damage)
    assert Durations().expected(STAGE) == DEFAULTS["method"]
    noted((STAGE, 10.0)).save()
    assert Durations().expected(STAGE) == 10.0


def test_one_that_cannot_be_written_is_no_reason_to_stop(cache: Path) -> None:
    cache.write_text("a file in the place of the folder")
    durations = noted((STAGE, 10.0))
    durations.save()
    assert Durations().expected(STAGE) == DEFAULTS["method"] and cache.is_file()


def test_odd_durations_are_not_remembered(cache: Path) -> None:
    noted((STAGE, float("nan")), (STAGE, float("inf")), (STAGE, -1.0)).save()
    assert not cache.exists()


def test_side_by_side_takes_no_less_than_the_longest() -> None:
    assert wall([], 2) == 0.0
    assert wall([4.0, 4.0, 4.0, 4.0], 2) == 8.0 and wall([4.0, 4.0], 1) == 8.0
    assert wall([1.0, 9.0], 4) == 9.0 and wall([3.0], 8) == 3.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (45.4, "45 s"),
        (89.0, "89 s"),
        (91, "2 min"),
        (720, "12 min"),
        (5399, "1 h 30 min"),
        (9000, "2 h 30 min"),
    ],
)
def test_durations_are_told_as_people_say_them(seconds: float, text: str) -> None:
    assert told(seconds) == text
