"""What `profile` reports, what it leaves alone, and how latency is measured."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from secateur import profile
from secateur.errors import InputError
from secateur.profiling import Timing, compare, interleave


def small_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)
    )


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scratch", torch.zeros(5, dtype=torch.float64), persistent=False)

    def forward(self, tokens, scale=1.0):
        return self.head(self.body(self.body(self.embedding(tokens)))) * scale


def test_resnet18():
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.resnet18(weights=None)
    x = torch.zeros(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    cost = profile(model, x)
    assert cost.macs == counter.get_total_flops() // 2 == 1_814_073_344
    assert cost.params == 11_689_512
    buffers = 4800 * 2 * 4 + 20 * 8
    assert cost.bytes == 11_689_512 * 4 + buffers
    assert cost.layers["layer1.0.conv1"].macs == 64 * 64 * 9 * 56 * 56
    assert cost.layers["fc"].params == 513_000


def test_layers_add_up_and_keep_the_model_order():
    cost = profile(small_net(), torch.zeros(2, 3, 8, 8))
    assert list(cost.layers) == ["0", "1", "4"]
    assert sum(layer.macs for layer in cost.layers.values()) == cost.macs
    assert sum(layer.params for layer in cost.layers.values()) == cost.params
    assert (cost.layers["0"].kind, cost.layers["0"].macs) == ("Conv2d", 2 * 36 * 8 * 27)


def test_shared_tensors_count_once_and_shared_layers_run_twice():
    model = Tied()
    cost = profile(model, torch.zeros(2, 3, dtype=torch.long))
    assert cost.params == 44 + 20
    assert cost.bytes == 4 * (44 + 20) + 5 * 8
    assert cost.layers["body"].macs == 2 * (6 * 16)
    assert cost.layers["embedding"].params == 44
    assert cost.layers["head"].params == 0
    assert cost.layers["head"].macs == 6 * 44


def test_dict_and_tuple_inputs_cost_the_same():
    tokens = torch.zeros(2, 3, dtype=torch.long)
    model = Tied()
    by_name = profile(model, {"tokens": tokens, "scale": 2.0})
    assert by_name.macs == profile(model, (tokens, 2.0)).macs == profile(model, tokens).macs


def test_half_precision_bytes():
    model = nn.Linear(4, 3).to(torch.bfloat16)
    cost = profile(model, torch.zeros(1, 4, dtype=torch.bfloat16))
    assert (cost.params, cost.bytes) == (15, 30)


def test_zeros_are_reported_and_never_as_a_smaller_model():
    model = nn.Linear(10, 10, bias=False)
    dense = profile(model, torch.zeros(1, 10))
    with torch.no_grad():
        model.weight[:5] = 0
    masked = profile(model, torch.zeros(1, 10))
    assert masked.nonzero == 50 and masked.sparsity == 0.5
    assert (masked.params, masked.bytes, masked.macs) == (dense.params, dense.bytes, dense.macs)
    assert "50.0% zeros" in str(masked)


def test_leaves_the_model_as_it_was():
    model = small_net().train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hooks = [len(module._forward_hooks) for module in model.modules()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    profile(model, torch.randn(2, 3, 8, 8), latency=True, runs=5, warmup=1)
    assert [module.training for module in model.modules()] == [True, True, False, True, True, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert hooks == [len(module._forward_hooks) for module in model.modules()]
    assert torch.is_grad_enabled() and torch.backends.mha.get_fastpath_enabled() == fast_path


def test_a_failed_forward_leaves_no_hook_behind():
    model = small_net()
    with pytest.raises(InputError, match="rejects the example inputs"):
        profile(model, torch.zeros(1, 4, 8, 8))
    assert model.training
    assert profile(model, torch.zeros(1, 3, 8, 8)).layers["0"].macs == 36 * 8 * 27
    from torch.nn.modules import module

    assert not module._global_forward_hooks and not module._global_forward_pre_hooks


def test_a_model_that_catches_an_error_inside_keeps_its_layers_apart():
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(5, 5)

        def forward(self, x):
            try:
                x = self.second(x)
            except RuntimeError:
                x = self.first(x)
            return x @ x.T

    cost = profile(Careful(), torch.zeros(3, 4))
    assert cost.layers["first"].macs == 48
    assert cost.layers[""].macs == 36


def test_counts_inside_inference_mode():
    class Inference(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 5)

        def forward(self, x):
            with torch.inference_mode():
                return self.linear(x).matmul(torch.ones(5, 2))

    cost = profile(Inference(), torch.zeros(2, 3, 4))
    assert cost.layers["linear"].macs == 6 * 20
    assert cost.layers[""].macs == 6 * 10


def test_meta_device():
    cost = profile(nn.Linear(4, 3, device="meta"), torch.zeros(2, 4, device="meta"))
    assert (cost.macs, cost.params, cost.nonzero, cost.bytes) == (24, 15, 15, 60)


def test_operations_from_elsewhere_are_named():
    with torch.library._scoped_library("secateur_test", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")

        class Custom(nn.Module):
            def forward(self, x):
                return torch.ops.secateur_test.twice(x)

        cost = profile(Custom(), torch.zeros(2))
    assert cost.uncounted == ("secateur_test::twice",)
    assert "not counted: secateur_test::twice" in str(cost)


def test_uninitialised_parameters():
    with pytest.raises(InputError, match=r"'0\.weight' is not initialised"):
        profile(nn.Sequential(nn.LazyLinear(3)), torch.zeros(1, 4))


def test_reads_well_and_serialises():
    cost = profile(small_net(), torch.zeros(1, 3, 8, 8))
    text = str(cost)
    assert text.splitlines()[0] == "10.7 k MACs, 3.13 k parameters, 12.6 kB, 0.3% zeros"
    assert "Conv2d" in text and "total" in text
    assert max(map(len, text.splitlines())) <= 100
    assert json.loads(json.dumps(asdict(cost)))["layers"]["4"]["macs"] == 2880
    assert repr(cost).startswith("Profile(macs=10656, params=3130,")


def test_a_long_model_shows_its_costliest_layers():
    model = nn.Sequential(*(nn.Linear(n, n + 1) for n in range(1, 60)))
    lines = str(profile(model, torch.zeros(1, 1)))
    assert "and 19 smaller layers" in lines
    assert "│ 58 " in lines and "│ 3 " not in lines


def test_latency_is_measured_only_when_asked():
    model, x = small_net(), torch.zeros(4, 3, 8, 8)
    assert profile(model, x).latency_ms is None
    cost = profile(model, x, latency=True, warmup=2, runs=9, threads=1)
    assert cost.latency_ms == cost.latency.median_ms > 0
    assert (cost.latency.runs, cost.latency.batch, cost.latency.threads) == (9, 4, 1)
    assert "batch 4, 1 thread, cpu, median of 9 runs" in str(cost)
    with pytest.raises(InputError, match="runs only applies with latency=True"):
        profile(model, x, runs=3)


def test_candidates_take_turns():
    order = []
    timings = interleave(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, warmup=1, runs=4
    )
    assert "".join(order) == "ab" + "ab" + "ba" + "ab" + "ba"
    assert timings["a"].runs == timings["b"].runs == 4


def test_time_limit_shortens_the_measurement_but_not_below_five_runs():
    import time

    timings = interleave({"slow": lambda: time.sleep(0.002)}, seconds=0.004)
    assert timings["slow"].runs == 5


def test_threads_are_restored():
    before = torch.get_num_threads()
    timing = interleave({"x": lambda: None}, warmup=0, runs=1, threads=before + 1)["x"]
    assert timing.threads == before + 1
    assert torch.get_num_threads() == before


def test_compare_sees_which_model_is_faster():
    models = {"wide": nn.Linear(1024, 1024), "narrow": nn.Linear(1024, 8)}
    models["wide"].train()
    timings = compare(models, torch.zeros(64, 1024), warmup=3, runs=15, threads=1)
    assert timings["wide"].ratio(timings["narrow"]) > 1.5
    assert models["wide"].training
    with pytest.raises(InputError, match="rejects the example inputs"):
        compare(models, torch.zeros(1, 3))


def test_timing_statistics():
    timing = Timing("x", (1.0, 2.0, 3.0, 4.0, 100.0))
    assert (timing.median_ms, timing.spread_ms, timing.runs) == (3.0, 2.0, 5)
    with pytest.raises(InputError, match="not timed in one run"):
        timing.ratio(Timing("y", (1.0,)))


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"seconds": 0}, {"warmup": -1}])
def test_wrong_timing_options(wrong):
    with pytest.raises(InputError, match="must be positive"):
        interleave({"x": lambda: None}, **wrong)
    with pytest.raises(InputError, match="nothing to time"):
        interleave({})
