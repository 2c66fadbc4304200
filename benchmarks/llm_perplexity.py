"""Perplexity of a small Llama by method, before and after healing.

python -m benchmarks.llm_perplexity

A Llama of two million parameters is trained on the bytes of Tiny Shakespeare, then made sparse and
smaller by every method from the same weights, measured on text that it never saw, healed by a
short training, and measured again. Cells are on record as soon as they are there; the trained
model is kept beside them, and a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import secateur as sc
from benchmarks.common import ROOT, heading, machine, markdown_table, write_results
from benchmarks.records import Record
from secateur.models.operators import declare_torchvision_operators

CONTEXT = 128
BATCH = 16
SAMPLES = 128
SPARSITIES = ("0.5", "2:4", "4:8")
METHODS = ("magnitude", "wanda", "sparsegpt")
# Granularity, criterion: a quarter of the parameters goes.
STRUCTURED = (
    ("head,ffn", "random"),
    ("head,ffn", "magnitude"),
    ("head,ffn", "wanda"),
    ("head,ffn", "taylor"),
    ("head,ffn", "taylor:reduction=square_of_sum"),
    ("head,ffn", "head_importance"),
    ("head,ffn", "flap"),
    ("layer", "block_influence"),
    ("layer", "angular"),
    ("layer", "deepest"),
    ("layer", "taylor"),
)
LEFT = 0.75


def dense(layers: int) -> nn.Module:
    """The Llama, untrained."""
    declare_torchvision_operators()
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256,
            hidden_size=192,
            num_hidden_layers=layers,
            num_attention_heads=6,
            num_key_value_heads=3,
            intermediate_size=512,
            max_position_embeddings=CONTEXT,
        )
    )


def texts(path: Path) -> tuple[Tensor, Tensor]:
    """Bytes to train on, and the last tenth to measure on."""
    tokens = torch.tensor(list(path.read_bytes()), dtype=torch.long)
    cut = len(tokens) * 9 // 10
    return tokens[:cut], tokens[cut:]


def batches(tokens: Tensor, count: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Windows at random places, each with what follows it."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        starts = torch.randint(len(tokens) - CONTEXT - 1, (BATCH,), generator=generator)
        rows = torch.stack([tokens[at : at + CONTEXT + 1] for at in starts.tolist()])
        yield rows[:, :-1], rows[:, 1:]


def train(model: nn.Module, tokens: Tensor, steps: int, lr: float, seed: int) -> None:
    """AdamW with warm-up and a cosine; masks, where there are any, hold."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    warm = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=warm),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - warm)),
        ],
        [warm],
    )
    model.train()
    for ids, targets in batches(tokens, steps, seed):
        logits = model(ids).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def cells() -> list[tuple[str, str]]:
    """(what goes, by what) of every row."""
    sparse = [(sparsity, method) for sparsity in SPARSITIES for method in METHODS]
    return [("nothing", "dense"), *sparse, *STRUCTURED]


def pruned(model: nn.Module, what: str, method: str, tokens: Tensor) -> dict[str, Any]:
    """Prune a copy in place; what is left of it."""
    data = list(batches(tokens, SAMPLES // BATCH, seed=1))
    if method == "dense":
        return {"left": 1.0, "zero": 0.0}
    if what in SPARSITIES:
        found = sc.prune_blockwise(model, data, method=method, sparsity=what)
        return {"left": 1.0, "zero": found.sparsity}
    result = sc.prune(
        model,
        data[0][0][:2],
        granularity=what,
        criterion=method,
        budget={"params": LEFT},
        data=data,
    )
    return {"left": result.after.params / result.before.params, "zero": 0.0}


def measured(
    trained: nn.Module, what: str, method: str, parts: tuple[Tensor, Tensor], steps: int
) -> dict[str, Any]:
    """One row: perplexity after pruning, and after healing."""
    model = copy.deepcopy(trained)
    begin = time.perf_counter()
    row: dict[str, Any] = {"what": what, "method": method}
    row |= pruned(model, what, method, parts[0])
    row["seconds"] = time.perf_counter() - begin
    row["before"] = sc.perplexity(model, parts[1], context=CONTEXT).value
    # The dense model is trained as much longer: what healing wins is beyond that.
    train(model, parts[0], steps, lr=5e-4, seed=2)
    found = sc.perplexity(model, parts[1], context=CONTEXT)
    return row | {"after": found.value, "tokens": found.tokens}


def page(record: Record[tuple[str, str]]) -> None:
    """The table, and what it says about the published order."""
    found = record.cells
    rows = [
        [
            row["what"],
            row["method"],
            f"{row['left']:.3f}",
            f"{row['zero']:.3f}",
            f"{row['before']:.3f}",
            f"{row['after']:.3f}",
            f"{row['seconds']:.1f}",
        ]
        for row in (found[cell] for cell in cells() if cell in found)
    ]
    table = markdown_table(
        ["what goes", "by", "parameters left", "zero in blocks", "pruned", "healed", "seconds"],
        rows,
        left=2,
    )
    order = "is not measured yet"
    if all(("2:4", method) in found for method in METHODS):
        values = {method: found["2:4", method]["before"] for method in METHODS}
        holds = values["sparsegpt"] <= values["wanda"] < values["magnitude"]
        order = (
            ("holds" if holds else "does not hold")
            + " here: "
            + ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        )
    settings = record.head["settings"]
    tokens = next(iter(found.values()))["tokens"] if found else 0
    text = f"""# Perplexity of a pruned language model

A Llama of {settings["parameters"]:,} parameters ({settings["layers"]} layers, 6 heads in groups of
two), trained on the bytes of Tiny Shakespeare for {settings["steps"]} steps of {BATCH} windows.
Perplexity of a byte, context {CONTEXT}, {tokens:,} bytes that were not trained on. Methods see
{SAMPLES} windows; healing is {settings["heal"]} steps of training, the dense row's included.

{table}

The published order at 2:4, SparseGPT at most Wanda and both below magnitude, {order}. Embeddings
and the output head are not counted among the zeros. {heading(record.head["machine"])}. Made by
`python -m benchmarks.llm_perplexity`.
"""
    write_results("llm_perplexity", {"head": record.head, "cells": list(found.values())}, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--text", type=Path,
                        default=ROOT.parent / "shared/data/tinyshakespeare/input.txt")  # fmt: skip
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "llm_perplexity")
    parser.add_argument("--steps", type=int, default=3000, help="of the dense model's training")
    parser.add_argument("--heal", type=int, default=300, help="steps of healing")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--windows", type=int, default=512, help="to measure perplexity on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-resume", action="store_true")
    parser.add_argument("--no-page", action="store_true", help="leave docs/ as it is")
    arguments = parser.parse_args()
    training, unseen = texts(arguments.text)
    parts = training, unseen[: arguments.windows * CONTEXT]
    model = dense(arguments.layers)
    settings = {
        "steps": arguments.steps,
        "heal": arguments.heal,
        "layers": arguments.layers,
        "windows": arguments.windows,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    torch.set_num_threads(arguments.threads)
    head = {"settings": settings, "machine": machine(arguments.threads, ["transformers"])}
    record = Record(
        arguments.folder / "cells.jsonl",
        head,
        lambda row: (row["what"], row["method"]),
        not arguments.no_resume,
    )
    weights = arguments.folder / "dense.safetensors"
    if weights.exists() and not arguments.no_resume:
        sc.load(model, weights)
        model.eval()
    else:
        train(model, parts[0], arguments.steps, lr=2e-3, seed=0)
        sc.save(model, weights)
    for what, method in cells():
        if (what, method) not in record.cells:
            record.add(measured(model, what, method, parts, arguments.heal))
            print(record.cells[what, method], flush=True)
    if not arguments.no_page:
        page(record)


if __name__ == "__main__":
    main()
