"""Recurrent layers and cells."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import image, net, tokens


class Recurrent(nn.Module):
    """A projection, a recurrent layer, a head."""

    def __init__(self, layer: nn.Module, width: int, out: int) -> None:
        super().__init__()
        self.embed = nn.Linear(10, width)
        self.rnn = layer
        self.last = nn.Linear(out, 7)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(F.relu(self.embed(x)))
        return self.last(y)


CELL = ("embed.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0", "last.weight")


@net(tokens(6, 10), *CELL, "rnn.bias_hh_l0", name="lstm")
def lstm() -> nn.Module:
    """Four gates a hidden unit."""
    return Recurrent(nn.LSTM(14, 18, batch_first=True), 14, 18)


@net(tokens(6, 10), *CELL, name="lstm_sequence_first")
def lstm_sequence_first() -> nn.Module:
    """Sequence first, no bias."""
    return Recurrent(nn.LSTM(14, 18, bias=False), 14, 18)


@net(tokens(6, 10), *CELL, "rnn.weight_hh_l0_reverse", name="lstm_bidirectional")
def lstm_bidirectional() -> nn.Module:
    """Both directions have one hidden size."""
    return Recurrent(nn.LSTM(14, 12, batch_first=True, bidirectional=True), 14, 24)


@net(tokens(6, 10), *CELL, "rnn.weight_ih_l1", "rnn.weight_hh_l1", name="lstm_two_layers")
def lstm_two_layers() -> nn.Module:
    """The second layer reads the first one's hidden units; dropout in between."""
    return Recurrent(nn.LSTM(14, 16, 2, batch_first=True, dropout=0.1), 14, 16)


@net(tokens(6, 10), "embed.weight", name="lstm_two_layers_bidirectional")
def lstm_two_layers_bidirectional() -> nn.Module:
    """Two layers of both directions."""
    return Recurrent(nn.LSTM(14, 10, 2, batch_first=True, bidirectional=True), 14, 20)


@net(tokens(6, 10), "embed.weight", name="lstm_projected")
def lstm_projected() -> nn.Module:
    """proj_size: the output is narrower than the cell."""
    return Recurrent(nn.LSTM(14, 20, batch_first=True, proj_size=9), 14, 9)


@net(tokens(6, 10), *CELL, "rnn.bias_ih_l0", name="gru")
def gru() -> nn.Module:
    """Three gates a hidden unit."""
    return Recurrent(nn.GRU(14, 18, batch_first=True), 14, 18)


@net(tokens(6, 10), *CELL, "rnn.weight_ih_l1_reverse", name="gru_bidirectional")
def gru_bidirectional() -> nn.Module:
    """Two layers of both directions."""
    return Recurrent(nn.GRU(14, 11, 2, batch_first=True, bidirectional=True), 14, 22)


@net(tokens(6, 10), *CELL, name="rnn_tanh")
def rnn_tanh() -> nn.Module:
    """nn.RNN, one gate."""
    return Recurrent(nn.RNN(14, 18, batch_first=True), 14, 18)


@net(tokens(6, 10), "embed.weight", "lstm.weight_hh_l0", "last.weight")
class LastHidden(nn.Module):
    """Only the final hidden state is used."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(10, 12)
        self.lstm = nn.LSTM(12, 18, batch_first=True)
        self.last = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(self.embed(x))
        return self.last(hidden[-1])


@net(image(3, 4, 7), "conv.weight", "gru.weight_ih_l0", "gru.weight_hh_l0", "last.weight")
class ConvThenGru(nn.Module):
    """Channels and height are the features of a time step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 3, padding=1)
        self.gru = nn.GRU(40, 14, batch_first=True)
        self.last = nn.Linear(14, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).permute(0, 3, 1, 2).flatten(2)
        return self.last(self.gru(F.relu(x))[0])


@net(tokens(4, 10), "cell.weight_ih", "cell.weight_hh", "last.weight")
class LstmCellLoop(nn.Module):
    """nn.LSTMCell in a Python loop, its first state made from self.hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 18
        self.cell = nn.LSTMCell(10, self.hidden)
        self.last = nn.Linear(self.hidden, 7)

    def forward(self, x: Tensor) -> Tensor:
        state = (x.new_zeros(x.shape[0], self.hidden), x.new_zeros(x.shape[0], self.hidden))
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.last(state[0])


@net(tokens(4, 10), "cell.weight_ih", "cell.weight_hh", "last.weight")
class GruCellLoop(nn.Module):
    """nn.GRUCell without a first state, outputs stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(10, 18)
        self.last = nn.Linear(18, 7)

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, []
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            outputs.append(state)
        return self.last(torch.stack(outputs, dim=1))


@net(tokens(4, 10), "x2h.weight", "h2h.weight", "last.weight")
class MinimalGatedUnit(nn.Module):
    """A recurrent cell by hand: chunked gates, a state that feeds itself."""

    def __init__(self) -> None:
        super().__init__()
        self.x2h = nn.Linear(10, 32)
        self.h2h = nn.Linear(16, 32, bias=False)
        self.last = nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], self.h2h.in_features, dtype=x.dtype)
        for step in x.unbind(1):
            forget, new = (self.x2h(step) + self.h2h(h)).chunk(2, -1)
            gate = torch.sigmoid(forget)
            h = gate * h + (1 - gate) * torch.tanh(new)
        return self.last(h)
