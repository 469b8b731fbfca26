"""Training sparse dictionaries: one loop for all of them, with its gradients written out.

A step encodes a batch, selects what is kept (`selection`), reconstructs (`codes`), and takes the loss (`losses`) back
to encoder, decoder and biases in closed form; `Design` says which of these. Nothing is recorded for automatic
differentiation: on a CPU only the active entries are ever touched, and tests compare every gradient with a float64
restatement.

Sources: Bussmann, Leask & Nanda 2024 (BatchTopK); Gao et al. 2024 (auxiliary loss); Minder et al. 2025, arXiv
2504.02922 (BatchTopK and L1 crosscoders); Aranguri 2025 (tied crosscoder).
Shapes: B rows, d residual width, D = d (one target) or 2d (both models), n latents, P nested prefixes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from diffbench.activations import Rows
from diffbench.codes import Code
from diffbench.decoders import norm_share, relative_norm, row_norms
from diffbench.design import L1, Design, TopK
from diffbench.diff import DictionaryDiff
from diffbench.errors import OptionError
from diffbench.losses import crossed
from diffbench.options import DictionaryOptions
from diffbench.precision import compute_device, use_fast_matmul
from diffbench.scaling import Scaling, select_input
from diffbench.seeds import derive
from diffbench.selection import Selection, selection

CLIP = 1.0
DECAY_SHARE = 0.2
THETA_STEPS = 100
DEFAULT_PASSES = 4
REPORT_EVERY = 20
EPS = 1e-8
NEVER = torch.finfo(torch.float32).max

Report = Callable[[str, float], None]


class Trainer:
    """Parameters and state of one fit, in training space.

    Attributes:
        encoder: [n, D].
        encoder_bias: [n].
        decoders: the decoder [n, D] and what it is made of.
        bias: [D], of the decoder.
        theta: running mean of the smallest kept score; None before the first step and for L1.
    """

    def __init__(
        self,
        design: Design,
        options: DictionaryOptions,
        *,
        width: int,
        n: int,
        steps: int,
        seed: int,
        device: torch.device | None = None,
    ) -> None:
        self.design, self.options, self.steps = design, options, max(1, steps)
        self.device = torch.device("cpu") if device is None else device
        parts = design.parts
        directions = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
        directions /= directions.norm(dim=1, keepdim=True)
        initial = directions.repeat(1, parts).to(self.device)
        self.decoders = design.decoders(initial)
        self.encoder = self.decoders.expand() / parts
        self.encoder_bias = torch.zeros(n, device=self.device)
        self.bias = torch.zeros(parts * width, device=self.device)
        self.theta: float | None = None
        self.selection: Selection = selection(self._k, design.bounds(n), self.device)
        self._loss, self._price = design.loss(), design.price(n).to(self.device)
        self._silent = torch.zeros(n, dtype=torch.int64, device=self.device)
        self._horizon = max(1, min(THETA_STEPS, self.steps // 10))  # a short fit must not remember its first steps
        self._optimizer = torch.optim.Adam(self.parameters(), lr=options.lr, betas=(0.9, 0.999), fused=True)
        self._pre = torch.empty(0, device=self.device)
        self._done = 0

    def parameters(self) -> list[Tensor]:
        """All that is trained."""
        return [self.encoder, self.encoder_bias, self.bias, *self.decoders.parameters]

    @property
    def _k(self) -> int | None:
        return self.design.sparsity.k if isinstance(self.design.sparsity, TopK) else None

    @torch.no_grad()
    def step(self, x: Tensor) -> Tensor:
        """One step of Adam on a batch [B, D] in training space; the loss before it, [] (on the device)."""
        value = self.gradients(x)
        torch.nn.utils.clip_grad_norm_(self.parameters(), CLIP)
        rise = min(1.0, (self._done + 1) / self.options.warm_up)
        fall = min(1.0, (self.steps - self._done) / max(1.0, DECAY_SHARE * self.steps))
        for group in self._optimizer.param_groups:
            group["lr"] = self.options.lr * rise * max(fall, 0.0)
        self._optimizer.step()
        self.decoders.project()
        self._done += 1
        return value

    @torch.no_grad()
    def gradients(self, x: Tensor) -> Tensor:
        """Set the ``grad`` of every parameter, unclipped, and return the loss."""
        decoder = self.decoders.expand()
        norms = row_norms(decoder, self.design.parts)
        bias = self.encoder_bias - self.encoder @ self.bias if self.design.centred else self.encoder_bias
        if self._pre.shape != (len(x), len(decoder)):
            self._pre = torch.empty(len(x), len(decoder), device=self.device)
        torch.mm(x, self.encoder.T, out=self._pre)
        code, smallest = self.selection.select(self._pre, bias, norms.sum(dim=1) / self._price)
        self._remember(code, smallest, len(x))
        hats = code.decode(decoder) + self.bias
        value, g = self._loss.of(x, hats)
        blocks = g if len(g) == 1 else g.flip(0).cumsum(dim=0).flip(0)
        price = self._penalty_price(len(x)) * norms.sum(dim=1) if isinstance(self.design.sparsity, L1) else None
        at_f = code.pull(blocks, decoder, price)
        at_decoder = code.push(code.values, blocks)
        at_bias = g.sum(dim=(0, 1))
        if price is not None:
            totals = code.totals(code.values)
            value = value + torch.dot(price, totals)
            pull = ((self._penalty_price(len(x)) * totals)[:, None] / norms.clamp_min(EPS))[:, :, None]
            at_decoder += (decoder.view(*norms.shape, -1) * pull).view_as(decoder)
        at_encoder, at_encoder_bias = code.push(at_f, x), code.totals(at_f)
        if isinstance(self.design.sparsity, TopK) and self.design.sparsity.aux > 0:
            dead = (self._silent >= self.design.sparsity.dead_after).nonzero().flatten()
            if len(dead):
                into = (at_encoder, at_encoder_bias, at_decoder)
                self._auxiliary(x, x - hats[-1], decoder, bias, dead, into)
        if self.design.centred:
            at_encoder.addr_(at_encoder_bias, self.bias, alpha=-1.0)
            at_bias -= at_encoder_bias @ self.encoder
        self.encoder.grad, self.encoder_bias.grad, self.bias.grad = at_encoder, at_encoder_bias, at_bias
        self.decoders.set_gradient(at_decoder)
        return value

    def _remember(self, code: Code, smallest: float | None, rows: int) -> None:
        """Latents that were silent, and the threshold."""
        if isinstance(self.design.sparsity, L1):
            return
        self._silent += rows
        self._silent.masked_fill_(code.fired(), 0)
        if smallest is not None:
            keep = 1 - 1 / self._horizon
            self.theta = smallest if self.theta is None else keep * self.theta + (1 - keep) * smallest

    def _penalty_price(self, rows: int) -> Tensor:
        """[n]: what a latent's activity in one row, times its decoder norms, adds to the loss by the L1 penalty."""
        assert isinstance(self.design.sparsity, L1)
        warm = max(1.0, self.design.sparsity.warm_up * self.steps)
        return self._price * (self.design.sparsity.penalty * min(1.0, (self._done + 1) / warm) / rows)

    def _auxiliary(
        self,
        x: Tensor,
        error: Tensor,
        decoder: Tensor,
        bias: Tensor,
        dead: Tensor,
        into: tuple[Tensor, Tensor, Tensor],
    ) -> None:
        """Squared error, weighted as the loss is, of what the most active dead latents (d/2 in a row at most) leave.

        Gradients are added to those at encoder, encoder bias and decoder; the error itself counts as fixed.
        """
        assert isinstance(self.design.sparsity, TopK)
        f = (self._pre[:, dead] + bias[dead]).relu_()
        f = _largest_in_row(f, x.shape[1] // self.design.parts // 2)
        rows = decoder[dead]
        g = crossed(error - f @ rows, self.design.cross).mul_(-2 * self.design.sparsity.aux / len(x))
        at_f = (g @ rows.T).mul_(f > 0)
        at_encoder, at_encoder_bias, at_decoder = into
        at_decoder.index_add_(0, dead, f.T @ g)
        at_encoder.index_add_(0, dead, at_f.T @ x)
        at_encoder_bias.index_add_(0, dead, at_f.sum(dim=0))


def _largest_in_row(f: Tensor, most: int) -> Tensor:
    """[B, m] with all but the ``most`` largest entries of each row set to zero."""
    if f.shape[1] <= most:
        return f
    if f.device.type != "cpu":
        kept = f.topk(most, dim=1)
        return torch.zeros_like(f).scatter_(1, kept.indices, kept.values)
    smallest = np.partition(f.numpy(), f.shape[1] - most, axis=1)[:, f.shape[1] - most]
    return f * (f >= torch.from_numpy(smallest)[:, None])


def train(
    rows: Rows,
    design: Design,
    options: DictionaryOptions,
    *,
    seed: int,
    max_components: int,
    report: Report,
) -> DictionaryDiff:
    """Train a dictionary on paired activations and return it in raw space, in no order and without findings.

    Columns of the result for two decoders: ``relative_norm`` and ``norm_share`` in training space, and
    ``relative_norm_raw``; undefined (NaN) where the loss identifies no more than d_t - d_b.

    Raises:
        OptionError: if the data cannot be trained on, k exceeds the dictionary, or the budget is exceeded.
    """
    n = design.latents(options, rows.width)
    design.check(n)
    tokens = options.tokens or DEFAULT_PASSES * len(rows)
    if n > max_components:
        raise OptionError(f"expansion: {n} latents are more than the tier's {max_components} components")
    if len(rows) < options.batch:
        raise OptionError(f"batch: {options.batch} rows are more than the {len(rows)} that were harvested")
    if tokens < options.batch:
        raise OptionError(f"tokens: {tokens} are fewer than one batch of {options.batch} rows")
    scaling = Scaling.fit(rows.known(), design.target)
    steps, device = tokens // options.batch, compute_device()
    use_fast_matmul(device.type)
    trainer = Trainer(design, options, width=rows.width, n=n, steps=steps, seed=seed, device=device)
    loss = _run(trainer, rows, scaling, derive(seed, "order of rows"), report)
    return _fold(trainer, scaling, rows.layer, loss)


def _run(trainer: Trainer, rows: Rows, scaling: Scaling, seed: int, report: Report) -> float:
    design, batches = trainer.design, rows.batches(trainer.options.batch, seed)
    sign = -1.0 if design.reverse else 1.0
    value = torch.zeros(())
    for step in range(trainer.steps):
        x = scaling.apply(select_input(design.target, *next(batches))).mul_(sign)
        value = trainer.step(x.to(trainer.device))
        if step % REPORT_EVERY == 0:
            report(f"training, loss {float(value):.3f}", step / trainer.steps)
    if not bool(torch.isfinite(value)):
        raise OptionError(f"lr: training diverged (loss {float(value)}); try less than {trainer.options.lr}")
    return float(value)


@torch.no_grad()
def _fold(trainer: Trainer, scaling: Scaling, layer: int, loss: float) -> DictionaryDiff:
    design, parts = trainer.design, trainer.design.parts
    trained = trainer.decoders.expand().cpu()
    sign = -1.0 if design.reverse else 1.0
    encoder, offset = trainer.encoder.cpu() * scaling.scale * sign, trainer.bias.cpu()
    encoder_bias = trainer.encoder_bias.cpu() - encoder @ scaling.mean
    if design.centred:
        encoder_bias -= trainer.encoder.cpu() @ offset
    decoder, bias = trained * sign / scaling.scale, offset * sign / scaling.scale + scaling.mean
    scores = row_norms(trained, parts).sum(dim=1) / design.price(len(trained))
    sides: dict[str, Tensor] = {"decoder": decoder, "bias": bias}
    if parts == 2:
        width = decoder.shape[1] // 2
        sides = {}
        for side, start in (("base", 0), ("tuned", width)):
            end = start + width
            sides |= {f"decoder_{side}": decoder[:, start:end].contiguous(), f"bias_{side}": bias[start:end].clone()}
    top_k = isinstance(design.sparsity, TopK)
    return DictionaryDiff(
        layer=layer,
        input=design.target,
        activation="threshold" if top_k else "relu",
        encoder=encoder,
        encoder_bias=encoder_bias,
        # A latent without a decoder scores nothing, whatever its activity: it never fires.
        threshold=torch.where(scores > EPS, (trainer.theta or 0.0) / scores, NEVER) if top_k else None,
        order=torch.arange(len(encoder)),
        group=trainer.decoders.group(),
        columns=_norm_columns(design, trained, decoder, trainer.decoders.group()),
        notes={
            "steps": trainer.steps,
            "rows": trainer.steps * trainer.options.batch,
            "loss": loss,
            "matmul": use_fast_matmul(trainer.device.type),
            "device": trainer.device.type,
        },
        **sides,  # type: ignore[arg-type]
    )


def _norm_columns(design: Design, trained: Tensor, raw: Tensor, group: Tensor | None) -> dict[str, Tensor]:
    """Relative norms. Of a tied triple the shared latent has those of its pair of rows, and the others have none."""
    if design.parts == 1:
        return {}
    columns = {
        "relative_norm": relative_norm(trained),
        "relative_norm_raw": relative_norm(raw),
        "norm_share": norm_share(trained),
    }
    undefined = torch.zeros(len(trained), dtype=torch.bool)
    if design.cross == -1:  # the loss is the same whatever is added to both decoders of a latent
        undefined[:] = True
    elif group is not None:
        undefined.view(-1, 3)[:, 1:] = True
    return {name: column.masked_fill(undefined, float("nan")) for name, column in columns.items()}
