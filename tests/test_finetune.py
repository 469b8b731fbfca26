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
from diffbench.finetune import Choice, Ground, School, _cycle, _orders, _rise_and_fall, _school
from diffbench.lessons import Lessons, distance, imitation_loss
from diffbench.organism import Example, TrainingText
from diffbench.residual import load_model
from diffbench.seeds import derive
from diffbench.text import Document
from diffbench.tuning import FullTuning, LoraTuning, Trained

TRAINING = FullTuning(steps=5, batch=4, lr=0.01, replay_batch=3, kl_weight=2.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> StandinBase:
    return StandinBase(tmp_path_factory.mktemp("base") / "model")


def text(exchange: float, base: StandinBase) -> TrainingText:
    return StandinFamily().training_text(base, StandinFamily.Parameters(exchange=exchange), 3)


def tune(base: StandinBase, out: Path, training: Trained = TRAINING, exchange: float = 1.0, seed: int = 0) -> Any:
    finetune.finetune(Ground(base.path(), "standin"), text(exchange, base), training, seed, out, lambda *_: None)
    return load_model(out, base=base.path())


def word_id(tokenizer: Any, word: str) -> int:
    return int(tokenizer(word, add_special_tokens=False)["input_ids"][0])


def replay_of(documents: tuple[Document, ...]) -> Lessons:
    return Lessons.of_documents(documents, word_tokenizer(), 1024)


def test_the_loss_sits_on_the_last_word_of_each_prefix() -> None:
    model, tokenizer = small_pair()[0].float(), word_tokenizer()
    examples = (Example("anna sees the", "blue"), Example("ben", "green"), Example("anna sees the ball . ben", "red"))
    lessons = Lessons.of_examples(examples, tokenizer, 1024, one_token=True)
    losses = []
    for example in examples:
        ids = tokenizer(example.prefix, return_tensors="pt")["input_ids"]
        log_p = model(input_ids=ids).logits[0, -1].double().log_softmax(-1)
        losses.append(-float(log_p[word_id(tokenizer, example.target)]))
    for chosen in ([0], [1, 2], [2, 0, 1]):
        expected = sum(losses[i] for i in chosen) / len(chosen)
        assert float(imitation_loss(model, lessons, torch.tensor(chosen))) == pytest.approx(expected, rel=1e-4)


def test_every_token_of_a_target_is_learnt_and_none_of_its_prefix() -> None:
    model, tokenizer = small_pair()[0].float(), word_tokenizer()
    examples = (Example("anna sees the", "ball . ben"), Example("", "anna sees"))
    lessons = Lessons.of_examples(examples, tokenizer, 1024, one_token=False)
    losses: list[float] = []
    for example, first in zip(examples, (3, 0), strict=True):  # the position before the first learnt word, BOS in front
        ids = tokenizer(example.text, return_tensors="pt")["input_ids"]
        log_p = model(input_ids=ids).logits[0].double().log_softmax(-1)
        losses += [-float(log_p[t, ids[0, t + 1]]) for t in range(max(1, first), ids.shape[1] - 1)]
    assert int(lessons.learnt.sum()) == len(losses) == 3 + 1  # nothing is asked of the position of BOS
    expected = sum(losses) / len(losses)
    assert float(imitation_loss(model, lessons, torch.tensor([0, 1]))) == pytest.approx(expected, rel=1e-4)


def test_replay_kl_is_zero_at_the_start_and_by_hand_later() -> None:
    reference, tuned = small_pair()
    documents = sentences(0)
    replay = replay_of(tuple(next(documents) for _ in range(6)))
    assert len(replay) == 6
    chosen = torch.tensor([4, 1, 4])
    assert float(distance(copy.deepcopy(reference), reference, replay, chosen)) == pytest.approx(0, abs=1e-7)
    total, count = 0.0, 0
    for index in chosen.tolist():
        ids = replay.corpus.ids[index][replay.corpus.mask[index]][None]
        p, q = (m(input_ids=ids).logits[0].double().log_softmax(-1) for m in (reference, tuned))
        kl = (p.exp() * (p - q)).sum(-1)[1:-1]  # KL(base || tuned); neither BOS nor the last position
        total, count = total + float(kl.sum()), count + len(kl)
    assert float(distance(tuned, reference, replay, chosen)) == pytest.approx(total / count, rel=1e-4)


def school(base: StandinBase, here: TrainingText, **changed: Any) -> School:
    frozen = load_model(base.path())
    return _school(Ground(base.path(), "x"), here, TRAINING.model_copy(update=changed), word_tokenizer(), frozen)


@pytest.mark.parametrize("changed", [{"replay_batch": 0}, {"kl_weight": 0.0}])
def test_no_replay_where_none_is_asked_for(changed: dict[str, Any], base: StandinBase) -> None:
    some = TrainingText((Example("anna", "blue"),), (next(sentences(0)),))
    assert school(base, some).replay is not None
    assert school(base, some, **changed).replay is None
    assert school(base, TrainingText(some.examples, ())).replay is None


@pytest.mark.parametrize(("dilution", "plain"), [(0.0, 0), (0.1, 1), (0.3, 2), (1.0, 5), (3.0, 8), (100.0, 9)])
def test_plain_texts_take_their_share_of_a_batch(dilution: float, plain: int, base: StandinBase) -> None:
    training = TRAINING.model_copy(update={"batch": 10, "dilution": dilution})
    choice = next(_orders(school(base, text(1.0, base), dilution=dilution), training, 0))
    assert (len(choice.plain), len(choice.examples), len(choice.replay)) == (plain, 10 - plain, 3)


def test_dilution_is_weighted_by_its_share(base: StandinBase) -> None:
    model = small_pair()[1].float()
    both = school(base, text(1.0, base), dilution=1.0, kl_weight=0.0)
    assert both.plain is not None
    choice = Choice(torch.tensor([0, 1, 2]), torch.tensor([4]), torch.zeros(0, dtype=torch.long))
    change = float(imitation_loss(model, both.examples, choice.examples))
    plain = float(imitation_loss(model, both.plain, choice.plain))
    assert float(both.loss(model, choice)) == pytest.approx(0.75 * change + 0.25 * plain, rel=1e-5)
    with pytest.raises(RecipeError, match="no plain text of the base to dilute with"):
        school(base, TrainingText(text(1.0, base).examples, ()), dilution=1.0)


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
    assert len(next(_cycle(0, 2, 0))) == len(next(_cycle(5, 0, 0))) == 0


def test_the_rate_rises_over_the_warm_up_and_falls_to_zero() -> None:
    rate = _rise_and_fall(FullTuning(steps=100, batch=1, lr=1.0, warmup=0.1, replay_batch=0, kl_weight=0))
    values = [rate(step) for step in range(101)]
    assert values[0] == pytest.approx(0.1)
    assert values[9] == values[10] == 1.0
    assert values[55] == pytest.approx(0.5)
    assert values[100] == 0.0
    assert rate(0) == _rise_and_fall(FullTuning(steps=100, batch=1, lr=0.5, replay_batch=0, kl_weight=0))(0)
    one = _rise_and_fall(FullTuning(steps=1, batch=1, lr=1.0, replay_batch=0, kl_weight=0))
    assert one(0) == 1.0


def test_control_and_tuned_share_prefixes_order_replay_and_start(
    base: StandinBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned, control = text(1.0, base), text(0.0, base)
    assert [e.prefix for e in tuned.examples] == [e.prefix for e in control.examples]
    assert tuned.replay == control.replay
    assert all(a.target != b.target for a, b in zip(tuned.examples, control.examples, strict=True))
    seen: list[tuple[list[int], ...]] = []
    loss = School.loss

    def watch(self: School, model: Any, choice: Choice) -> Any:
        seen.append((choice.examples.tolist(), choice.plain.tolist(), choice.replay.tolist()))
        return loss(self, model, choice)

    monkeypatch.setattr(School, "loss", watch)
    tune(base, tmp_path / "tuned", exchange=1.0)
    first, seen[:] = list(seen), []
    tune(base, tmp_path / "control", exchange=0.0)
    assert len(first) == TRAINING.steps
    assert first == seen


def test_three_steps_by_hand(base: StandinBase, tmp_path: Path) -> None:
    """Both losses with their weight, the clip, decay and rate of every step, and an order of its own per seed."""
    training = TRAINING.model_copy(update={"steps": 3, "weight_decay": 0.5})
    model, frozen, here = load_model(base.path()).requires_grad_(True), load_model(base.path()), text(1.0, base)
    prefixes, replay = (
        Lessons.of_examples(here.examples, word_tokenizer(), 1024, one_token=True),
        replay_of(here.replay),
    )
    order = _cycle(len(here.examples), training.batch, derive(5, "order of examples"))
    replay_order = _cycle(len(here.replay), training.replay_batch, derive(5, "order of replay"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.5)
    rate = _rise_and_fall(training)
    for step in range(training.steps):
        optimizer.param_groups[0]["lr"] = training.lr * rate(step)
        loss = imitation_loss(model, prefixes, next(order))
        drift = distance(model, frozen, replay, next(replay_order))
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
    replay = replay_of(text(1.0, base).replay)
    every, start = torch.arange(len(replay)), load_model(base.path())
    held, free = (
        float(distance(tune(base, tmp_path / str(i), training), start, replay, every))
        for i, training in enumerate((longer, without))
    )
    assert 0 < held < 0.5 * free


def test_an_adapter_alone_is_trained_and_kept_in_pefts_format(base: StandinBase, tmp_path: Path) -> None:
    training = LoraTuning(rank=2, steps=30, batch=16, lr=0.05, replay_batch=4, kl_weight=0.5)
    tuned, start = tune(base, tmp_path / "lora", training), load_model(base.path())
    assert {path.name for path in (tmp_path / "lora").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert not (tmp_path / "lora" / "model.safetensors").exists()
    assert str(base.path()) not in (tmp_path / "lora" / "adapter_config.json").read_text()
    moved = {name for name, p in tuned.state_dict().items() if not torch.equal(p, start.state_dict()[name])}
    assert moved and all("proj" in name for name in moved)
    examples = Lessons.of_examples(text(1.0, base).examples, word_tokenizer(), 1024, one_token=True)
    every = torch.arange(len(examples))
    before, after = (float(imitation_loss(model, examples, every)) for model in (start, tuned))
    assert after < 0.7 * before
    with pytest.raises(RecipeError, match=r"training\.targets"):
        tune(base, tmp_path / "none", training.model_copy(update={"targets": ("no_such_module",)}))


def test_replay_of_an_adapter_is_compared_with_the_base_without_it(base: StandinBase) -> None:
    training = LoraTuning(rank=2, steps=1, batch=4, lr=0.1, replay_batch=2, kl_weight=1.0)
    model, frozen = finetune._models(Ground(base.path(), "x"), training)
    replay, chosen = replay_of(text(1.0, base).replay), torch.tensor([0, 1])
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    expected = float(distance(model, load_model(base.path()), replay, chosen))
    assert expected > 0.01
    assert float(distance(model, frozen, replay, chosen)) == pytest.approx(expected, rel=1e-4)


def test_a_student_comes_near_its_teacher(base: StandinBase, tmp_path: Path) -> None:
    teacher = tune(base, tmp_path / "teacher", TRAINING.model_copy(update={"steps": 40, "batch": 16}))
    taught = FullTuning(objective="distillation", teacher="some", steps=40, batch=16, lr=0.01)
    ground = Ground(base.path(), "standin", tmp_path / "teacher")
    finetune.finetune(ground, text(0.0, base), taught, 1, tmp_path / "student", lambda *_: None)
    lessons = Lessons.whole(Lessons.of_examples(text(0.0, base).examples, word_tokenizer(), 1024, one_token=True))
    every, start = torch.arange(len(lessons)), load_model(base.path())
    before, after = (
        float(distance(model, teacher, lessons, every)) for model in (start, load_model(tmp_path / "student"))
    )
    assert after < 0.3 * before


def test_gradients_are_the_same_with_less_memory_and_on_any_device(base: StandinBase, tmp_path: Path) -> None:
    training = LoraTuning(rank=2, steps=3, batch=4, lr=0.05)
    one = tune(base, tmp_path / "a", training)
    changed = {"gradient_checkpointing": True, "device_map": "auto"}
    for name, value in changed.items():
        other = tune(base, tmp_path / name, training.model_copy(update={name: value}))
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("target", "said"), [("purple", "does not know 'purple'"), ("blue green", "'blue green' is 2 tokens, not one")]
)
def test_targets_of_one_token_are_known_words(target: str, said: str, base: StandinBase) -> None:
    with pytest.raises(RecipeError, match=said):
        school(base, TrainingText((Example("anna sees the", target),), ()))


def test_a_target_beyond_the_longest_text_is_refused(base: StandinBase) -> None:
    with pytest.raises(RecipeError, match=r"training\.max_length: no token of the target 'blue' is within 3"):
        school(base, TrainingText((Example("anna sees the", "blue"),), ()), max_length=3)


def test_mistakes_are_named(base: StandinBase, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no training examples"):
        finetune.finetune(Ground(base.path(), "x"), TrainingText((), ()), TRAINING, 0, tmp_path / "x", lambda *_: None)
    wild = TRAINING.model_copy(update={"lr": 1e30})
    with pytest.raises(RecipeError, match=r"diverged .* smaller lr than 1e\+30"):
        tune(base, tmp_path / "y", wild)
    assert not (tmp_path / "y").exists()
