"""Wanda and SparseGPT block by block, against NumPy; perplexity against its formula."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import secateur as sc
from secateur.blockwise.methods import kept_in_rows


class Mlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return x + scale * self.down(torch.relu(self.up(self.norm(x))))


class Language(nn.Module):
    """Embeddings, three blocks, a head."""

    def __init__(self, width: int = 16, inner: int = 24) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(32, width)
        self.blocks = nn.ModuleList(Mlp(width, inner) for _ in range(3))
        self.head = nn.Linear(width, 32)
        with torch.no_grad():
            # Features of words go together; were they independent, nothing could be made up for.
            self.embed.weight.copy_(torch.randn(32, 3) @ torch.randn(3, width))
            self.embed.weight.add_(torch.randn(32, width), alpha=0.1)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, scale=1.0)
        return self.head(x)


def data(count: int = 4) -> list[tuple[Tensor, None]]:
    generator = torch.Generator().manual_seed(3)
    return [(torch.randint(32, (4, 12), generator=generator), None) for _ in range(count)]


def inputs_of(model: Language, index: int, leaf: str) -> np.ndarray:
    """What a layer is given by the model as it is, ``[tokens, inputs]``."""
    seen = []
    layer = getattr(model.blocks[index], leaf)
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    with torch.no_grad():
        for ids, _ in data():
            model(ids)
    handle.remove()
    return torch.cat([each.flatten(0, -2) for each in seen]).double().numpy()


def numpy_sparsegpt(weight: np.ndarray, x: np.ndarray, gone: Any, block: int = 128) -> np.ndarray:
    """The published algorithm, in double precision."""
    hessian = 2 * x.T @ x / len(x)
    hessian += 0.01 * hessian.diagonal().mean() * np.eye(len(hessian))
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    weight, columns = weight.copy(), weight.shape[1]
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        mask = None
        if not isinstance(gone, tuple):
            scores = weight[:, start:stop] ** 2 / upper.diagonal()[start:stop] ** 2
            count = math.floor(scores.size * gone + 1e-9)
            mask = np.zeros(scores.size, dtype=bool)
            mask[np.argsort(scores.ravel(), kind="stable")[:count]] = True
            mask = mask.reshape(scores.shape)
        errors = np.zeros((len(weight), stop - start))
        runs = np.zeros((len(weight), stop - start), dtype=bool)
        for at in range(start, stop):
            if mask is None and (at - start) % gone[1] == 0:
                part = slice(at, at + gone[1])
                scores = weight[:, part] ** 2 / upper.diagonal()[part] ** 2
                order = np.argsort(scores, axis=1, kind="stable")[:, : gone[1] - gone[0]]
                np.put_along_axis(runs[:, at - start : at - start + gone[1]], order, True, axis=1)
            lost = (mask if mask is not None else runs)[:, at - start]
            kept = np.where(lost, 0.0, weight[:, at])
            errors[:, at - start] = (weight[:, at] - kept) / upper[at, at]
            weight[:, at:stop] -= np.outer(errors[:, at - start], upper[at, at:stop])
            weight[:, at] = kept
        weight[:, stop:] -= errors @ upper[start:stop, stop:]
    return weight


def error(weight: Tensor, dense: Tensor, x: np.ndarray) -> float:
    return float((((weight - dense).detach().double().numpy() @ x.T) ** 2).sum())


@pytest.mark.parametrize("sparsity", [0.5, 0.3, "2:4", "4:8"])
def test_wanda_takes_the_lowest_of_every_row_on_inputs_of_the_pruned_model(sparsity: Any) -> None:
    model, dense = Language().eval(), Language().eval()
    found = sc.prune_blockwise(model, data(), method="wanda", sparsity=sparsity)
    for index in range(3):
        # The blocks before are pruned by now; this one is dense while its inputs are seen.
        seen = copy.deepcopy(model)
        seen.blocks[index] = copy.deepcopy(dense.blocks[index])
        for leaf in ("up", "down"):
            weight = getattr(dense.blocks[index], leaf).weight.detach().numpy()
            norms = np.sqrt((inputs_of(seen, index, leaf) ** 2).sum(axis=0))
            scores = np.abs(weight) * norms
            if isinstance(sparsity, str):
                keep, of = map(int, sparsity.split(":"))
                runs = scores.reshape(len(scores), -1, of)
                order = np.argsort(runs, axis=2, kind="stable")[:, :, : of - keep]
                mask = np.ones(runs.shape, dtype=bool)
                np.put_along_axis(mask, order, False, axis=2)
                mask = mask.reshape(scores.shape)
            else:
                gone = math.floor(scores.shape[1] * sparsity + 1e-9)
                order = np.argsort(scores, axis=1, kind="stable")[:, :gone]
                mask = np.ones(scores.shape, dtype=bool)
                np.put_along_axis(mask, order, False, axis=1)
            left = getattr(model.blocks[index], leaf).weight.detach().numpy()
            assert ((left != 0) == mask).all()
            assert (left[mask] == weight[mask]).all()
    masks = sc.masks_of(model)
    assert len(masks) == 6
    assert found.zeros == sum(int((~mask).sum()) for mask in masks.values())
    assert torch.equal(model.head.weight, dense.head.weight)


@pytest.mark.parametrize("sparsity", [0.5, "2:4"])
def test_sparsegpt_is_no_worse_than_the_published_algorithm(sparsity: Any) -> None:
    model, dense = Language(inner=160).eval(), Language(inner=160).eval()
    sc.prune_blockwise(model, data(), method="sparsegpt", sparsity=sparsity)
    by_size = Language(inner=160).eval()
    sc.prune_blockwise(by_size, data(), method="magnitude", sparsity=sparsity)
    gone = (2, 4) if sparsity == "2:4" else sparsity
    for leaf in ("up", "down"):
        x = inputs_of(dense, 0, leaf)
        before = getattr(dense.blocks[0], leaf).weight
        own = error(getattr(model.blocks[0], leaf).weight, before, x)
        reference = numpy_sparsegpt(before.detach().double().numpy(), x, gone)
        published = error(torch.from_numpy(reference), before, x)
        plain = error(getattr(by_size.blocks[0], leaf).weight, before, x)
        assert own <= published * 1.01
        assert own < plain
    assert (
        0.49
        < sum(int((m == 0).sum()) for m in sc.masks_of(model).values())
        / sum(m.numel() for m in sc.masks_of(model).values())
        <= 0.5
    )


def test_equal_scores_go_by_index_and_exactly_as_many() -> None:
    assert kept_in_rows(torch.ones(2, 10), 0.3).int().tolist() == [[0] * 3 + [1] * 7] * 2
    scores = torch.randint(4, (50, 33), generator=torch.Generator().manual_seed(0)).float()
    kept = kept_in_rows(scores, 0.4)
    order = scores.argsort(dim=1, stable=True)[:, :13]
    assert torch.equal(kept, torch.ones_like(kept).scatter_(1, order, False))


def test_weights_in_bfloat16_stay_so_and_a_generator_will_do() -> None:
    model = Language().eval().to(torch.bfloat16)
    found = sc.prune_blockwise(model, iter(data()), sparsity=0.5, masked=False)
    assert found.sparsity == 0.5 and not sc.masks_of(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    weight = model.blocks[1].up.weight
    assert int((weight == 0).sum()) == weight.numel() // 2


def test_ignored_layers_stay_dense_and_what_is_pruned_is_saved(tmp_path: Path) -> None:
    model = Language().eval()
    sc.prune_blockwise(model, data(), method="wanda", ignore=["blocks.*.down"])
    assert all((block.down.weight != 0).all() for block in model.blocks)
    loaded = sc.load(Language(), sc.save(model, tmp_path / "sparse.safetensors"))
    assert sc.masks_of(loaded).keys() == sc.masks_of(model).keys()
    assert torch.equal(loaded.blocks[2].up.weight, model.blocks[2].up.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "wnda"}, "did you mean 'wanda'"),
        ({"sparsity": "4:2"}, "or as 2:4"),
        ({"sparsity": 1.0}, r"must lie in \[0, 1\)"),
        ({"data": []}, "no batch"),
        ({"data": None}, "pass data="),
        ({"data": [(torch.tensor([[40]]), None)]}, "another model's tokenizer"),
        ({"ignore": ["blocks.*"]}, "not ignored"),
    ],
)
def test_what_cannot_be_done_is_said(options: dict[str, Any], message: str) -> None:
    model = Language()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(sc.errors.SecateurError, match=message):
        sc.prune_blockwise(model, **{"data": data(), **options})
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_perplexity_is_the_exponential_of_the_mean_loss_in_windows() -> None:
    model = Language().eval()
    tokens = torch.randint(32, (50,), generator=torch.Generator().manual_seed(1))
    losses = []
    with torch.no_grad():
        for start in range(0, 48, 8):
            ids = tokens[start : start + 8]
            rows = model(ids[None])[0, :-1].log_softmax(-1)
            losses += [-float(rows[at, ids[at + 1]]) for at in range(7)]
    found = sc.perplexity(model, tokens, context=8, batch_size=4)
    assert found.value == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)
    assert (found.context, found.tokens) == (8, 42)


@pytest.mark.parametrize(
    ("tokens", "context", "message"),
    [
        (torch.ones(5, dtype=torch.long), 8, "5 tokens, less than one window of 8"),
        (torch.full((8,), 99), 8, "another model's tokenizer"),
        (torch.ones(8, dtype=torch.long), 1, "at least 2"),
        (torch.ones(2, 8), 4, "one row of integers"),
    ],
)
def test_perplexity_refuses_what_is_no_text(tokens: Tensor, context: int, message: str) -> None:
    with pytest.raises(sc.errors.InputError, match=message):
        sc.perplexity(Language(), tokens, context=context)


def test_the_command_line_prunes_language_models(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    from secateur.cli import app

    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, max_position_embeddings=64,
        architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question. " * 200)
    common = ["prune", "--model", f"hf:{tmp_path / 'model'}", "--data", f"text:{text}",
              "--length", "16"]  # fmt: skip
    run = CliRunner().invoke
    out = tmp_path / "sparse.safetensors"
    done = run(app, [*common, "--method", "wanda", "--sparsity", "2:4", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "50.0%" in done.output and out.is_file()
    out = tmp_path / "small.safetensors"
    done = run(app, [*common, "--granularity", "ffn,head,layer", "--criterion", "taylor",
                     "--budget", "params=0.75", "--out", str(out)])  # fmt: skip
    assert done.exit_code == 0, done.output
    loaded = sc.load(transformers.LlamaForCausalLM(config), out)
    assert len(loaded.model.layers) == 2
    for wrong in (["--method", "wanda"], ["--method", "wanda", "--sparsity", "2:4",
                                          "--granularity", "ffn"]):  # fmt: skip
        assert run(app, [*common, *wrong, "--out", str(out)]).exit_code != 0
