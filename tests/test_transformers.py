"""Every transformer, every granularity: exact, and everything that one does with a model after."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from transformer_nets import NETS, Net

pytest.importorskip("transformers", exc_type=ImportError)

TESTS = Path(__file__).parent
# One of every kind of attention, stream and mixer runs always; their relatives are slow.
QUICK = {"bert", "gpt2", "llama", "mixtral", "mamba", "t5", "swin", "clip"}
CASES = [
    pytest.param(name, each, marks=[] if name in QUICK else pytest.mark.slow)
    for name, net in NETS.items()
    for each in net.granularities.split()
]
BUDGET = {"params": 0.88}


def pruned(net: Net, granularity: str, **options: Any) -> tuple[nn.Module, sc.Result]:
    model = net.build()
    settings: dict[str, Any] = {"allocation": "uniform", "budget": BUDGET}
    if granularity in ("head", "head_dim") or (granularity == "ffn" and "mixtral" in net.model):
        settings["budget"] = {"params": 0.95}
    settings |= net.options.get(granularity, {}) | options
    return model, sc.prune(model, net.inputs(), granularity=granularity, **settings)


def first(output: Any) -> torch.Tensor:
    return next(iter(output.values()))


def zeroed(net: Net, result: sc.Result) -> nn.Module:
    """The dense model with what went at zero, or passed by: written without the library."""
    dense = net.build()
    parameters = dict(dense.named_parameters())
    with torch.no_grad():
        for name, dims in result.plan.removed.items():
            for dim, indices in dims.items():
                if name in parameters:
                    parameters[name].index_fill_(dim, torch.tensor(indices), 0)
        for entry in result.plan.rescaled:
            index = ... if entry.indices is None else torch.tensor(entry.indices)
            parameters[entry.name].movedim(entry.dim, 0)[index] *= 1.0
    for path in result.plan.dropped:

        def passed(module: nn.Module, args: Any, output: Any) -> Any:
            return (args[0], *output[1:]) if isinstance(output, tuple) else args[0]

        dense.get_submodule(path).register_forward_hook(passed)
    return dense


@pytest.mark.parametrize(("name", "granularity"), CASES)
def test_what_is_pruned_still_does_everything(name: str, granularity: str, tmp_path: Path) -> None:
    net = NETS[name]
    model, result = pruned(net, granularity)
    inputs = net.inputs()
    assert result.error is not None and result.error < 1e-4
    assert result.after.params < result.before.params
    with torch.no_grad():
        found = first(model(**inputs))
        # Norms and softmax see a masked width or stream otherwise than a removed one.
        if granularity in ("head", "ffn", "layer"):
            torch.testing.assert_close(found, first(zeroed(net, result)(**inputs)))
    if net.generates:
        _generates(model, inputs)
    loaded = sc.load(net.build(seed=1), sc.save(model, tmp_path / "small.safetensors"))
    with torch.no_grad():
        assert torch.equal(first(loaded(**inputs)), found)
    if granularity != "layer":
        replayed = net.build()
        sc.Plan.from_json(result.plan.to_json()).apply(replayed)
        with torch.no_grad():
            assert torch.equal(first(replayed(**inputs)), found)
    _trains(model, inputs)


def _generates(model: nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    given = {key: value for key, value in inputs.items() if not key.startswith("decoder_")}
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    cached = model.generate(**given, **options, use_cache=True)
    again = model.generate(**given, **options, use_cache=False)
    assert torch.equal(cached, again)
    assert cached.shape[1] > 1


def _trains(model: nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    first(model(**inputs)).square().mean().backward()
    optimizer.step()
    changed = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert any(changed)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


FRESH = """
import json, sys
sys.path[:0] = [{tests!r}]
import conftest, torch
import secateur as sc
from safetensors.torch import load_file
from transformer_nets import NETS
folder = {folder!r}
bad = []
expected = load_file(folder + "/outputs.safetensors")
for name, wanted in expected.items():
    net = NETS[name]
    model = sc.load(net.build(seed=1), f"{{folder}}/{{name}}.safetensors").eval()
    with torch.no_grad():
        output = next(iter(model(**net.inputs()).values()))
    if not torch.equal(output, wanted):
        bad.append(name)
print(json.dumps([len(expected), bad]))
"""


def test_what_was_saved_loads_in_a_fresh_process(tmp_path: Path) -> None:
    """All architectures in one process, each pruned in depth and in width."""
    from safetensors.torch import save_file

    outputs = {}
    for name, net in NETS.items():
        model = net.build()
        sc.prune(
            model, net.inputs(), granularity="ffn,layer", budget={"params": 0.8}, verify=False,
            **net.options.get("ffn", {}),
        )  # fmt: skip
        sc.save(model, tmp_path / f"{name}.safetensors")
        with torch.no_grad():
            outputs[name] = first(model(**net.inputs())).contiguous()
    save_file(outputs, tmp_path / "outputs.safetensors")
    script = FRESH.format(tests=str(TESTS), folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    count, bad = json.loads(done.stdout.strip().splitlines()[-1])
    assert count == len(NETS)
    assert not bad


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_the_pruned_model_exports_where_the_dense_one_does(name: str, tmp_path: Path) -> None:
    net = NETS[name]
    inputs = net.inputs()
    try:
        sc.export(net.build(), inputs, tmp_path / "dense.onnx")
    except sc.errors.SecateurError as error:
        pytest.skip(f"the dense model does not export: {error}")
    for granularity in net.granularities.split():
        model, _ = pruned(net, granularity)
        sc.export(model, inputs, tmp_path / f"{granularity}.onnx")


@pytest.mark.parametrize(
    ("name", "granularity", "entry"),
    [
        ("llama", "head", "num_key_value_heads"),
        ("llama", "ffn", "intermediate_size"),
        ("llama", "layer", "num_hidden_layers"),
        ("qwen3", "hidden", "hidden_size"),
        ("t5", "head_dim", "d_kv"),
        ("gpt2", "ffn", "n_inner"),
        ("bart", "layer", "encoder_layers"),
        ("swin", "layer", "depths"),
        ("clip", "ffn", "vision_config.intermediate_size"),
    ],
)
def test_the_configuration_follows(name: str, granularity: str, entry: str, tmp_path: Path) -> None:
    """So that the model's own library saves and loads what is left."""
    net = NETS[name]
    options = {} if granularity == "layer" else {"allocation": "uniform:even=true"}
    model, result = pruned(net, granularity, **options)
    assert result.config is not None and result.config.complete, result.config
    assert entry in result.plan.config
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(first(again(**net.inputs())), first(model(**net.inputs())))


def test_the_configuration_that_was_passed_in_is_left_alone() -> None:
    net = NETS["llama"]
    model = net.build()
    mine = model.config
    sc.prune(model, net.inputs(), granularity="layer", budget={"params": 0.8})
    assert mine.num_hidden_layers == 3
    assert model.config.num_hidden_layers == 2
    assert model.model.layers[1].self_attn.config is model.config


def test_sizes_that_differ_by_layer_are_said_to_need_the_plan() -> None:
    net = NETS["llama"]
    model = net.build()
    result = sc.prune(model, net.inputs(), granularity="ffn", budget={"params": 0.9})
    assert result.config is not None and not result.config.complete
    assert "secateur.save" in result.config.reason
    # Half the truth would mislead whoever builds a model from it.
    assert model.config.intermediate_size == 44


def test_whole_groups_of_heads_go_that_share_keys() -> None:
    _, result = pruned(NETS["llama"], "head")
    for group in result.groups:
        assert group.before == 2
    rows = result.plan.removed["model.layers.0.self_attn.q_proj.weight"][0]
    keys = result.plan.removed["model.layers.0.self_attn.k_proj.weight"][0]
    assert len(rows) == 2 * len(keys) == 16


def test_rotary_pairs_go_together() -> None:
    _, result = pruned(NETS["llama"], "head_dim")
    rows = result.plan.removed["model.layers.0.self_attn.q_proj.weight"][0]
    inside = {row % 8 for row in rows if row < 8}
    assert inside and {(place + 4) % 8 for place in inside} == inside


def test_granularities_combine_in_one_call() -> None:
    net = NETS["llama"]
    model = net.build()
    optimizer = torch.optim.AdamW(model.parameters())
    ema = copy.deepcopy(model)
    result = sc.prune(
        model, net.inputs(), granularity="ffn,head,layer", budget={"params": 0.6},
        optimizer=optimizer, ema=ema,
    )  # fmt: skip
    assert result.after.params <= 0.6 * result.before.params
    assert len(model.model.layers) == len(ema.model.layers) == 2
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    kinds = {"proj" in name for name in result.plan.removed}
    assert kinds == {True} and result.plan.dropped
    with torch.no_grad():
        torch.testing.assert_close(first(ema(**net.inputs())), first(model(**net.inputs())))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": "layer", "budget": {"params": 0.1}}, "cannot be met by leaving out"),
        ({"granularity": "layer", "min_keep": 3}, "min_keep=3"),
        ({"granularity": "layer", "budget": {"latency": 0.5}}, "takes a budget of macs"),
        ({"granularity": "layer", "criterion": "block_influence"}, "pass data="),
        ({"granularity": "head,head_dim"}, "prune twice"),
        ({"granularity": "ffn,channel"}, "cannot be combined"),
        ({"granularity": "ffn,layer", "criterion": "angular"}, "judges whole layers"),
        ({"granularity": "head", "round_to": 3}, "keeps all of its units"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(options: dict[str, Any], message: str) -> None:
    net = NETS["llama"]
    model = net.build()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(sc.errors.SecateurError, match=message) as caught:
        sc.prune(model, net.inputs(), **options)
    assert "\n" not in str(caught.value)
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert model.config.num_hidden_layers == 3
