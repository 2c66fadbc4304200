"""Real architectures: a sample in every run, all of them where there is time."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import secateur as sc
from architectures import SETS, Architecture, architecture, architectures, names
from secateur.inputs import as_inputs, evaluating, named_tensors, run

BUDGET = 0.5
TOLERANCE = 1e-4

# Spread over the sets and over what their graphs are made of; each takes a few seconds.
SAMPLE = [
    "torchvision:resnet18",
    "torchvision:mobilenet_v3_small",
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:squeezenet1_1",
    "torchvision:densenet121",
    "torchvision:googlenet",
    "torchvision:efficientnet_b0",
    "torchvision:swin_t",
    "segmentation:lraspp_mobilenet_v3_large",
    "timm:ghostnet_050",
    "timm:res2next50",
    "timm:convnext_zepto_rms",
    "timm:gmlp_ti16_224",
    "timm:levit_128s",
    "timm:mobilevit_xxs",
    "timm:pvt_v2_b0",
    "timm:vit_tiny_patch16_224",
    "hf:bert",
    "hf:gpt2",
    "hf:llama",
    "hf:qwen3",
    "hf:t5",
    "hf:whisper_encoder",
    "yolo:v5",
    "yolo:v11",
]


def outputs(model: nn.Module, inputs: object) -> list[torch.Tensor]:
    with evaluating(model):
        named = list(named_tensors(run(model, as_inputs(inputs))))
    return [tensor for _, tensor in named if tensor.is_floating_point()]


def check(item: Architecture) -> None:
    """Half the MACs go, the smaller model equals the masked one, and it trains on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, inputs = item.prepared()
        before = outputs(model, inputs)
        result = sc.prune(model, inputs, budget={"macs": BUDGET})
    assert result.after.macs <= BUDGET * result.before.macs
    after = outputs(model, inputs)
    size = max(float(tensor.abs().max()) for tensor in after)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in after)
    assert result.error is not None
    assert result.error <= TOLERANCE * size
    # The check is worth something only where pruning moves the outputs and inputs still do.
    moved = max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True))
    told_apart = max(float((t[:1] - t[1:2]).abs().max()) for t in after if len(t) > 1)
    assert result.error <= min(moved, told_apart) / 100

    model.train()
    given = as_inputs(inputs)
    tensors = [t for _, t in named_tensors(model(*given.args, **given.kwargs)) if t.requires_grad]
    sum(tensor.float().square().mean() for tensor in tensors).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.shape == parameter.shape, name


@pytest.mark.parametrize("name", SAMPLE)
def test_sample(name: str) -> None:
    check(architecture(name))


@pytest.mark.slow
@pytest.mark.coverage
@pytest.mark.parametrize("name", [name for name in names() if name not in SAMPLE])
def test_every_other(name: str) -> None:
    check(architecture(name))


def test_the_sample_is_spread_over_the_sets() -> None:
    assert {name.split(":")[0] for name in SAMPLE} == set(SETS)
    assert len(SAMPLE) == len(set(SAMPLE)) == 25


def test_the_registry_is_complete() -> None:
    counts = {kind: len(names(kind)) for kind in SETS}
    assert counts["torchvision"] == 80
    assert counts["segmentation"] == 6
    timm = [item for item in architectures().values() if item.set == "timm"]
    assert len({item.family for item in timm}) == len(timm) >= 96


@pytest.mark.slow
def test_the_registry_follows_the_libraries() -> None:
    from architectures import import_torchvision

    import_torchvision()
    import timm
    import torchvision

    known = {item.model for item in architectures().values() if item.set == "torchvision"}
    assert known == set(torchvision.models.list_models(module=torchvision.models))
    families = {item.family for item in architectures().values() if item.set == "timm"}
    assert families == set(timm.list_modules())


def test_building_is_reproducible() -> None:
    item = architecture("yolo:v5")
    first, second = item.build().state_dict(), item.build().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(item.inputs(), item.inputs())
    assert sum(p.numel() for p in item.build().parameters()) == item.parameters
