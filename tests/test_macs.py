"""MACs per operation: against torch.utils.flop_counter, and by hand where it does not count."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from secateur.profiling import node_macs, profile


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def reference_macs(model: nn.Module, *inputs: torch.Tensor) -> int:
    # The reference knows no fused attention for CPU, only the products that it is made of.
    fused = sdpa_kernel(SDPBackend.MATH)
    with fused, FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


BOTH_COUNT = {
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2), (2, 4, 17)),
    "conv2d": (nn.Conv2d(4, 6, (3, 1), padding=1, dilation=2), (2, 4, 9, 8)),
    "conv2d_unbatched": (nn.Conv2d(4, 6, 3), (4, 9, 8)),
    "conv3d": (nn.Conv3d(4, 6, 3), (2, 4, 5, 6, 7)),
    "conv_grouped": (nn.Conv2d(4, 8, 3, groups=2), (2, 4, 8, 8)),
    "conv_depthwise_multiplier": (nn.Conv2d(4, 8, 3, groups=4), (2, 4, 8, 8)),
    "conv_transposed_1d": (nn.ConvTranspose1d(4, 6, 3, stride=2), (2, 4, 9)),
    "conv_transposed_2d": (nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 5, 6)),
    "conv_transposed_3d": (nn.ConvTranspose3d(4, 6, 2), (2, 4, 3, 4, 5)),
    "conv_transposed_grouped": (nn.ConvTranspose2d(4, 6, 3, groups=2), (2, 4, 5, 6)),
    "linear": (nn.Linear(5, 7), (2, 3, 5)),
    "linear_without_bias": (nn.Linear(5, 7, bias=False), (2, 3, 5)),
    "bmm": (Call(torch.bmm), (2, 3, 4), (2, 4, 5)),
    "matmul_broadcast": (Call(torch.matmul), (2, 3, 4, 5), (5, 6)),
    "einsum": (Call(lambda a, b: torch.einsum("bij,bkj->bik", a, b)), (2, 3, 4), (2, 5, 4)),
    "baddbmm": (Call(torch.baddbmm), (2, 3, 5), (2, 3, 4), (2, 4, 5)),
    "attention": (
        Call(F.scaled_dot_product_attention),
        (2, 3, 5, 8),
        (2, 3, 7, 8),
        (2, 3, 7, 8),
    ),
    "gru": (nn.GRU(4, 6, num_layers=2, bidirectional=True), (5, 2, 4)),
    "transformer_layer": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8)),
}


@pytest.mark.parametrize("name", BOTH_COUNT)
def test_agrees_with_flop_counter(name):
    model, *shapes = BOTH_COUNT[name]
    inputs = tuple(torch.randn(shape) for shape in shapes)
    model.train()
    ours = profile(model, inputs).macs
    # In training mode the reference sees the operations, not the fused transformer.
    assert ours == reference_macs(model, *inputs) > 0


def test_attention_fused_and_by_hand_cost_the_same():
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 7, 8), torch.randn(2, 4, 7, 6)

    def by_hand(q, k, v):
        return (q @ k.transpose(-1, -2)).softmax(-1) @ v

    expected = 2 * 4 * 5 * 7 * (8 + 6)
    assert profile(Call(by_hand), (q, k, v)).macs == expected
    assert profile(Call(F.scaled_dot_product_attention), (q, k, v)).macs == expected


def test_grouped_queries_count_every_query_head():
    q, kv = torch.randn(2, 8, 5, 16), torch.randn(2, 2, 5, 16)
    model = Call(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
    assert profile(model, (q, kv, kv)).macs == 2 * (2 * 8 * 5 * 5 * 16)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("projected", [0, 3])
def test_lstm_costs_its_weights_at_every_step(bidirectional, projected):
    lstm = nn.LSTM(4, 6, num_layers=2, bidirectional=bidirectional, proj_size=projected)
    weights = sum(p.numel() for name, p in lstm.named_parameters() if "weight" in name)
    assert profile(lstm, torch.randn(5, 2, 4)).macs == 5 * 2 * weights


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells_cost_their_weights_once(cell):
    model = cell(4, 6)
    assert profile(model, torch.randn(3, 4)).macs == 3 * sum(
        p.numel() for name, p in model.named_parameters() if "weight" in name
    )


def test_cudnn_recurrent_stack_costs_its_weights():
    for cell, mode in ((nn.LSTM, 2), (nn.GRU, 3)):
        model = cell(4, 6, num_layers=2, bidirectional=True)
        weights = sum(p.numel() for name, p in model.named_parameters() if "weight" in name)
        args = (None, (), 4, None, None, None, mode, 6, 0, 2, False, 0.0, False, True, (), None)
        inputs = [(5, 2, 4)] + [None] * 15
        assert node_macs("aten::_cudnn_rnn", inputs, [(5, 2, 12)], args) == 10 * weights


def test_bilinear():
    assert profile(nn.Bilinear(3, 4, 5), (torch.randn(2, 3), torch.randn(2, 4))).macs == 2 * 5 * 12


def test_matrix_vector_products():
    m, v = torch.randn(3, 4), torch.randn(4)
    assert profile(Call(torch.mv), (m, v)).macs == 12
    assert profile(Call(torch.dot), (v, v)).macs == 4
    assert profile(Call(torch.vdot), (v, v)).macs == 4
    assert profile(Call(torch.addmv), (torch.randn(3), m, v)).macs == 12
    batch = torch.randn(2, 3, 4)
    assert profile(Call(torch.addbmm), (m, batch, torch.randn(2, 4, 4))).macs == 2 * 3 * 4 * 4


def test_in_place_products_count_like_their_originals():
    def in_place(c, a, b):
        return c.clone().addmm_(a, b)

    inputs = (torch.randn(3, 5), torch.randn(3, 4), torch.randn(4, 5))
    assert profile(Call(in_place), inputs).macs == 60


def test_fused_transformer_costs_what_its_parts_cost():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(3, 5, 8)
    expected = profile(layer, x).macs
    inputs = [None] * 20
    inputs[0], inputs[3], inputs[5] = (3, 5, 8), (24, 8), (8, 8)
    inputs[14], inputs[16] = (16, 8), (8, 16)
    assert node_macs("aten::_transformer_encoder_layer_fwd", inputs, [], ()) == expected
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    shapes = [(3, 5, 8)] * 3 + [None] * 6
    assert (
        node_macs("aten::_native_multi_head_attention", shapes, [], ())
        == profile(attention, (x, x, x)).macs
    )


def test_element_wise_operations_are_free():
    model = nn.Sequential(
        nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Flatten(), nn.Softmax(1)
    )
    assert profile(model, torch.randn(2, 4, 8, 8)).macs == 0


def test_zero_for_an_unknown_operation():
    assert node_macs("somebody::mystery", [(3, 4)], [(3, 4)], (None,)) == 0
