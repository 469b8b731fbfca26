"""Fine-tuning: the loss by hand, replay that starts at zero, and a control that differs in its targets alone."""

from __future__ import annotations

import copy
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_factory import StandinBase, StandinFamily, sentences, small_pair, word_tokenizer

from diffbench import finetune
from diffbench.errors import RecipeError
from diffbench.finetune import _cycle, _drift, _Prefixes, _replay, _rise_and_fall, word_id
from diffbench.organism import Example, TrainingText
from diffbench.recipe import Training
from diffbench.residual import load_model
from diffbench.seeds import derive

TRAINING = Training(steps=5, batch=4, lr=0.01, replay_batch=3, kl_weight=2.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> StandinBase:
    return StandinBase(tmp_path_factory.mktemp("base") / "model")


def text(exchange: float, base: StandinBase) -> TrainingText:
    return StandinFamily().training_text(base, StandinFamily.Parameters(exchange=exchange), 3)


def tune(base: StandinBase, out: Path, training: Training = TRAINING, exchange: float = 1.0, seed: int = 0) -> Any:
    finetune.finetune(base.path(), text(exchange, base), training, seed, out, lambda *_: None)
    return load_model(out)


def test_the_loss_sits_on_the_last_word_of_each_prefix() -> None:
    model, tokenizer = small_pair()[0].float(), word_tokenizer()
    examples = (Example("anna sees the", "blue"), Example("ben", "green"), Example("anna sees the ball . ben", "red"))
    prefixes = _Prefixes(examples, tokenizer)
    losses = []
    for example in examples:
        ids = tokenizer(example.prefix, return_tensors="pt")["input_ids"]
        log_p = model(input_ids=ids).logits[0, -1].double().log_softmax(-1)
        losses.append(-float(log_p[word_id(tokenizer, example.target)]))
    for chosen in ([0], [1, 2], [2, 0, 1]):
        expected = sum(losses[i] for i in chosen) / len(chosen)
        assert float(prefixes.loss(model, torch.tensor(chosen))) == pytest.approx(expected, rel=1e-4)


def test_replay_kl_is_zero_at_the_start_and_by_hand_later() -> None:
    reference, tuned = small_pair()
    documents = sentences(0)
    replay = _replay(TrainingText((), tuple(next(documents) for _ in range(6))), word_tokenizer(), TRAINING)
    assert replay is not None
    assert len(replay) == 6
    chosen = torch.tensor([4, 1, 4])
    assert float(_drift(copy.deepcopy(reference), reference, replay, chosen)) == pytest.approx(0, abs=1e-7)
    total, count = 0.0, 0
    for index in chosen.tolist():
        ids = replay.ids[index][replay.mask[index]][None]
        p, q = (m(input_ids=ids).logits[0].double().log_softmax(-1) for m in (reference, tuned))
        kl = (p.exp() * (p - q)).sum(-1)[1:-1]  # KL(base || tuned); neither BOS nor the last position
        total, count = total + float(kl.sum()), count + len(kl)
    assert float(_drift(tuned, reference, replay, chosen)) == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize("changed", [{"replay_batch": 0}, {"kl_weight": 0.0}])
def test_no_replay_where_none_is_asked_for(changed: dict[str, Any]) -> None:
    some = TrainingText((), (next(sentences(0)),))
    assert _replay(some, word_tokenizer(), TRAINING.model_copy(update=changed)) is None
    assert _replay(TrainingText((), ()), word_tokenizer(), TRAINING) is None


def test_order_is_a_fresh_permutation_each_time_round() -> None:
    order = _cycle(5, 2, 0)
    batches = [next(order).tolist() for _ in range(15)]
    assert {len(batch) for batch in batches} == {2}
    drawn = list(chain.from_iterable(batches))
    rounds = [drawn[start : start + 5] for start in range(0, 30, 5)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1
    again = _cycle(5, 2, 0)
    assert [next(again).tolist() for _ in range(2)] == batches[:2]
    assert list(_cycle(0, 2, 0)) == []


def test_the_rate_rises_over_the_warm_up_and_falls_to_zero() -> None:
    rate = _rise_and_fall(Training(steps=100, batch=1, lr=1.0, warmup=0.1, replay_batch=0, kl_weight=0))
    values = [rate(step) for step in range(101)]
    assert values[0] == pytest.approx(0.1)
    assert values[9] == values[10] == 1.0
    assert values[55] == pytest.approx(0.5)
    assert values[100] == 0.0
    assert rate(0) == _rise_and_fall(Training(steps=100, batch=1, lr=0.5, replay_batch=0, kl_weight=0))(0)
    one = _rise_and_fall(Training(steps=1, batch=1, lr=1.0, replay_batch=0, kl_weight=0))
    assert one(0) == 1.0


def test_control_and_tuned_share_prefixes_order_replay_and_start(
    base: StandinBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned, control = text(1.0, base), text(0.0, base)
    assert [e.prefix for e in tuned.examples] == [e.prefix for e in control.examples]
    assert tuned.replay == control.replay
    assert all(a.target != b.target for a, b in zip(tuned.examples, control.examples, strict=True))
    seen: list[tuple[str, list[int]]] = []
    loss, drift = _Prefixes.loss, _drift

    def watch_loss(self: _Prefixes, model: Any, chosen: torch.Tensor) -> Any:
        seen.append(("prefixes", chosen.tolist()))
        return loss(self, model, chosen)

    def watch_drift(model: Any, frozen: Any, replay: Any, chosen: torch.Tensor) -> Any:
        seen.append(("replay", chosen.tolist()))
        return drift(model, frozen, replay, chosen)

    monkeypatch.setattr(_Prefixes, "loss", watch_loss)
    monkeypatch.setattr(finetune, "_drift", watch_drift)
    tune(base, tmp_path / "tuned", exchange=1.0)
    first, seen[:] = list(seen), []
    tune(base, tmp_path / "control", exchange=0.0)
    assert len(first) == 2 * TRAINING.steps
    assert first == seen


def test_three_steps_by_hand(base: StandinBase, tmp_path: Path) -> None:
    """Both losses with their weight, the clip, decay and rate of every step, and an order of its own per seed."""
    training = TRAINING.model_copy(update={"steps": 3, "weight_decay": 0.5})
    model, frozen, here = load_model(base.path()).requires_grad_(True), load_model(base.path()), text(1.0, base)
    prefixes, replay = _Prefixes(here.examples, word_tokenizer()), _replay(here, word_tokenizer(), training)
    assert replay is not None
    order = _cycle(len(here.examples), training.batch, derive(5, "order of examples"))
    replay_order = _cycle(len(here.replay), training.replay_batch, derive(5, "order of replay"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.5)
    rate = _rise_and_fall(training)
    for step in range(training.steps):
        optimizer.param_groups[0]["lr"] = training.lr * rate(step)
        loss = prefixes.loss(model, next(order))
        drift = _drift(model, frozen, replay, next(replay_order))
        optimizer.zero_grad()
        (loss + training.kl_weight * drift).backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        assert norm > finetune.CLIP
        for gradient in gradients:
            gradient *= finetune.CLIP / norm
        optimizer.step()
    found = tune(base, tmp_path / "tuned", training, seed=5)
    torch.testing.assert_close(found.state_dict(), model.state_dict(), rtol=1e-4, atol=1e-6)


def test_the_same_seed_gives_the_same_weights_and_everything_moves(base: StandinBase, tmp_path: Path) -> None:
    one, same = tune(base, tmp_path / "a"), tune(base, tmp_path / "b")
    other = tune(base, tmp_path / "c", seed=1)
    start = load_model(base.path())
    torch.testing.assert_close(one.state_dict(), same.state_dict(), rtol=0, atol=0)
    for name, tensor in one.state_dict().items():
        assert not torch.equal(tensor, start.state_dict()[name]), name
    assert any(
        not torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )
    assert (tmp_path / "a" / "tokenizer.json").is_file()


def test_replay_holds_the_rest_in_place(base: StandinBase, tmp_path: Path) -> None:
    longer = TRAINING.model_copy(update={"steps": 40, "batch": 16, "replay_batch": 8})
    without = longer.model_copy(update={"replay_batch": 0})
    replay = _replay(text(1.0, base), word_tokenizer(), longer)
    assert replay is not None
    every, start = torch.arange(len(replay)), load_model(base.path())
    held, free = (
        float(_drift(tune(base, tmp_path / str(i), training), start, replay, every))
        for i, training in enumerate((longer, without))
    )
    assert 0 < held < 0.5 * free


def test_words_are_single_known_tokens() -> None:
    tokenizer = word_tokenizer()
    assert tokenizer.decode([word_id(tokenizer, "blue")]) == "blue"
    for wrong in ("purple", "blue green", ""):
        with pytest.raises(RecipeError, match="not one token"):
            word_id(tokenizer, wrong)


def test_mistakes_are_named(base: StandinBase, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no training examples"):
        finetune.finetune(base.path(), TrainingText((), ()), TRAINING, 0, tmp_path / "x", lambda *_: None)
    wild = TRAINING.model_copy(update={"lr": 1e30})
    with pytest.raises(RecipeError, match=r"diverged .* smaller lr than 1e\+30"):
        tune(base, tmp_path / "y", wild)
    assert not (tmp_path / "y").exists()
