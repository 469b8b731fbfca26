"""The benchmark's own arithmetic, and that its sides take turns; no test asserts how long anything takes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks import agreement, gpu_speed, grid_time, lines
from benchmarks.jobs import Harvesting, Shape, Steps, Training, read_job, write_job
from benchmarks.lines import Goal, Line
from benchmarks.mixtures import ACTIVE, Mixture
from benchmarks.peers import PEERS, ours, python_of
from benchmarks.settings import Settings
from benchmarks.sides.diffbench_training import build
from benchmarks.sides.schedule import schedule
from benchmarks.turns import Ratio, Side, SideFailed, Timed, children, cores, take_turns, undisturbed

TINY = Training("sae", Shape(16, 64, 4, 64), steps=40, pool=4)


def test_rows_follow_from_the_seed_and_are_scaled_per_model() -> None:
    first, again, other = Mixture(24, 2, 3), Mixture(24, 2, 3), Mixture(24, 2, 4)
    assert torch.equal(first.batch(5, 100), again.batch(5, 100)) and first.checksum() == again.checksum()
    assert first.checksum() != other.checksum()
    assert not torch.equal(first.batch(5, 100), first.batch(6, 100))
    x = first.held_out(20_000)
    assert not torch.equal(x[:100], first.batch(0, 100))
    for part in x.split(24, dim=1):
        assert float(part.pow(2).sum(dim=1).mean()) == pytest.approx(24, rel=0.02)
        assert float(part.mean(dim=0).norm()) < 0.1 * 24**0.5


def test_rows_are_sparse_sums_with_directions_of_one_model_alone() -> None:
    mixture = Mixture(24, 2, 0)
    directions = mixture._directions
    alone = [(part == 0).all(dim=1) for part in directions.split(24, dim=1)]
    assert all(0.02 < float(part.double().mean()) < 0.2 for part in alone) and not bool((alone[0] & alone[1]).any())
    both = directions[~(alone[0] | alone[1])]
    assert torch.equal(both[:, :24], both[:, 24:]) and len(directions) == 4 * 24 > ACTIVE


def test_no_trainer_starts_at_the_directions_that_it_is_to_find() -> None:
    job = replace(TINY, pool=0)
    fit = build(job, lambda: None)
    cosines = fit.trainer.encoder @ Mixture(job.shape.width, 1, job.seed)._directions.T
    assert float(cosines.max()) < 0.95


def test_jobs_survive_their_file(tmp_path: Path) -> None:
    for job in (replace(TINY, start="a.npz", matmul="medium"), Harvesting("llama", 3, 8, 16)):
        write_job(job, tmp_path / "job.json")
        assert read_job(tmp_path / "job.json") == job


def test_the_schedule_is_that_of_the_trainer() -> None:
    job = replace(TINY, warm_up=7)
    fit = build(job, lambda: None)
    factor = schedule(job)
    for step in range(job.steps):
        fit.feed()
        fit.step()
        assert fit.trainer._optimizer.param_groups[0]["lr"] == pytest.approx(job.lr * factor(step))


def test_ratios_are_of_the_rounds_medians() -> None:
    fast, slow = Timed("a", {}), Timed("b", {})
    for fast_wall, slow_wall in (([9.0, 1.0, 0.5], 4.0), ([2.0], 6.0), ([1.0], 9.0)):
        fast.add(Steps(fast_wall, [0.25] * len(fast_wall)), "wall")
        slow.add(Steps([slow_wall], [1.0]), "wall")
    assert (fast.rounds, fast.median) == ([1.0, 2.0, 1.0], 1.0)
    assert Ratio.of(fast, slow) == Ratio(4.0, 3.0, 9.0)
    assert undisturbed([fast, slow]) == pytest.approx((5 * 0.25 + 3) / (13.5 + 19))
    busy = Timed("c", {})
    busy.add(Steps([9.0, 9.0], [1.0, 3.0]), "processor")
    assert busy.rounds == [2.0]


def test_goals_are_stated_and_states_are_no_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert Goal(least=8).met(8) and not Goal(least=8).met(7.9) and Goal(most=1).met(1) and not Goal(most=1).met(1.1)
    rows = [
        Line("training", "x", ours=12345.6, ratio=7.0, goal=Goal(least=8)),
        Line("gpu", "y", state="no GPU", goal=Goal(least=8)),
    ]
    lines.print_table(rows)
    first, second = capsys.readouterr().out.splitlines()[1:]
    assert "12,346" in first and ">= 8 missed" in first
    assert "no GPU" in second and "met" not in second and "missed" not in second
    lines.write_json({"gpu": lines.Part(rows, {"t": Timed("a", {})})}, Path("x"), tmp_path / "deep" / "file.json")
    text = (tmp_path / "deep" / "file.json").read_text(encoding="utf-8")
    assert '"state": "no GPU"' in text and '"rounds": []' in text and '"torch"' in text


def test_sides_take_turns_on_the_same_data_from_the_same_start() -> None:
    job = replace(TINY, lr=1e-2, warm_up=1, pool=0)
    sides = [replace(ours(job), name="first"), replace(ours(job), name="second")]
    first, second = take_turns(sides, core=cores()[0], clock="wall", warm=2, block=15, rounds=2, quality=True)
    assert len(first.seconds) == 30 and len(first.rounds) == 2 and first.losses == second.losses
    assert first.quality is not None and first.quality == second.quality
    assert first.quality.batch_l0 == pytest.approx(4, rel=0.01) and 0 < first.quality.batch < first.losses[0]
    assert first.peak is None or 0 < first.peak < 1 << 30


def test_a_side_that_fails_or_has_other_data_is_named() -> None:
    other = replace(ours(replace(TINY, seed=1)), name="other")
    with pytest.raises(SideFailed, match="different data"), children([ours(TINY), other], cores()[0]):
        pass
    broken = Side("broken", "no_such_side", sys.executable, TINY)
    with pytest.raises(SideFailed, match=r"broken: ModuleNotFoundError.*no_such_side"), children([broken], cores()[0]):
        pass


def test_a_start_is_read_and_a_peer_without_environment_is_no_error(tmp_path: Path) -> None:
    import numpy as np

    assert python_of(PEERS["sae"], tmp_path) is None
    fit = build(TINY, lambda: None)
    fit.feed()
    fit.step()
    mine = fit.trainer
    names = ("encoder", "encoder_bias", "bias", "decoder")
    np.savez(tmp_path / "start.npz", **{n: p.numpy() for n, p in zip(names, mine.parameters(), strict=True)})
    again = build(replace(TINY, start=str(tmp_path / "start.npz")), lambda: None).trainer
    for a, b in zip(mine.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("kind", "error"), agreement.CASES)
def test_agreement_is_measured_with_dead_latents(kind: str, error: str) -> None:
    job = Training("sae" if kind == "sae" else "crosscoder", Shape(16, 120, 4, 96), steps=60)
    found = agreement._check(replace(job, error="norm" if error == "norm" else "squared"))
    assert found.dead == 30 and found.flips <= 65536 / (4 * 96)
    assert 0 < found.gradient < 1e-5


def test_agreement_sees_a_wrong_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffbench.codes import SparseCode

    pull = SparseCode.pull
    monkeypatch.setattr(SparseCode, "pull", lambda self, *args: pull(self, *args) * 1.001)
    assert agreement._check(Training("sae", Shape(16, 120, 4, 96), steps=60)).gradient > 1e-4


def test_without_a_gpu_the_part_is_a_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = Settings(peers=tmp_path, out=tmp_path, core=0, clock="wall", quick=True, device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    [line] = gpu_speed.measure(settings).lines
    assert line.state == "no GPU" and line.ours is None and line.ratio is None


def test_dictionary_methods_are_those_that_are_told_their_tokens() -> None:
    found = grid_time.dictionary_methods()
    assert {"diff-sae", "crosscoder-batchtopk"} <= set(found)
    assert not {"pca", "mean-difference", "oracle", "nothing"} & set(found)
