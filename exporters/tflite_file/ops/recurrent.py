"""LSTM, GRU and RNN of a known number of steps, unrolled into products and gates.

The inputs of all steps are multiplied at once. A first state of zeros costs nothing: what it would
be multiplied with is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sepdeploy.errors import TFLITE_FORM, BadInput
from sepdeploy.exporters.tflite_file.format.graph import Array
from sepdeploy.exporters.tflite_file.ops.concat import concat
from sepdeploy.exporters.tflite_file.ops.select import picked_along
from sepdeploy.exporters.tflite_file.ops.shape import transpose
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.affine import Converter, Lazy, settle
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item
from sepdeploy.exporters.tflite_file.values.contract import contract
from sepdeploy.exporters.tflite_file.values.elementwise import binary, unary
from sepdeploy.exporters.tflite_file.values.layout import Constant, Value

MAX_STEPS = 1024
KINDS = {"Sigmoid": "LOGISTIC", "Tanh": "TANH", "Relu": "RELU"}
USUAL = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


@dataclass(frozen=True)
class _Cell:
    """One direction: its weights, and a state that is None where it is zero."""

    ctx: Context
    node: Node
    recurrent: Array  # (gates * hidden, hidden)
    bias: Array  # (2, gates * hidden): of the input, of the state
    kinds: Sequence[str]

    @property
    def hidden(self) -> int:
        return int(self.recurrent.shape[1])

    def part(self, gates: Value, k: int, count: int = 1) -> Value:
        """The k-th gate, or several from it on."""
        where = np.arange(k * self.hidden, (k + count) * self.hidden)
        return picked_along(self.ctx, self.node, gates, where, 1)

    def of_state(self, h: Item | None, first: int, count: int, bias: Array | None) -> Item | None:
        """R h + bias for some gates; None where both are zero."""
        rows = slice(first * self.hidden, (first + count) * self.hidden)
        if h is None:
            return None if bias is None else Constant(bias[None, rows], (1, count * self.hidden))
        part = None if bias is None else bias[rows]
        return contract(self.ctx.b, self.ctx.b.runtime(h), 1, self.recurrent[rows], part, "state")

    def plus(self, x: Value, y: Item | None) -> Value:
        return x if y is None else binary(self.ctx.b, "ADD", x, y)

    def times(self, x: Item, y: Item) -> Value:
        return binary(self.ctx.b, "MUL", x, y)

    def act(self, k: int, x: Value) -> Value:
        return unary(self.ctx.b, self.kinds[k], x)


State = tuple[Item | None, Item | None]
Step = Callable[[_Cell, Value, State], tuple[Value, Item | None]]


def _lstm(cell: _Cell, x: Value, state: State) -> tuple[Value, Item]:
    """Gates i, o, f, c; the bias is in x."""
    h, c = state
    pre = cell.plus(x, cell.of_state(h, 0, 4, None))
    gates = cell.act(0, cell.part(pre, 0, 3))
    new = cell.times(cell.part(gates, 0), cell.act(1, cell.part(pre, 3)))
    if c is not None:
        new = cell.plus(new, cell.times(cell.part(gates, 2), c))
    return cell.times(cell.part(gates, 1), cell.act(2, new)), new


def _gru(cell: _Cell, x: Value, state: State) -> tuple[Value, None]:
    """Gates z, r, h; the bias of z and r is in x, that of h where it belongs."""
    h = state[0]
    gates = cell.act(0, cell.plus(cell.part(x, 0, 2), cell.of_state(h, 0, 2, None)))
    update, reset = cell.part(gates, 0), cell.part(gates, 1)
    candidate = cell.part(x, 2)
    if cell.ctx.integer(cell.node, "linear_before_reset", 0):
        inner = cell.of_state(h, 2, 1, cell.bias[1])
        candidate = cell.plus(candidate, None if inner is None else cell.times(reset, inner))
    else:
        inner = cell.of_state(None if h is None else cell.times(reset, h), 2, 1, cell.bias[1])
        candidate = cell.plus(candidate, inner)
    new = cell.act(1, candidate)
    kept = cell.times(update, binary(cell.ctx.b, "SUB", h, new)) if h is not None else None
    if kept is None:  # (1 - z) n = n - z n
        return binary(cell.ctx.b, "SUB", new, cell.times(update, new)), None
    return cell.plus(new, kept), None


def _rnn(cell: _Cell, x: Value, state: State) -> tuple[Value, None]:
    return cell.act(0, cell.plus(x, cell.of_state(state[0], 0, 1, None))), None


STEPS: dict[str, Step] = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}


def recurrent_op(op: str) -> Converter:
    """Return the converter of LSTM, GRU or RNN."""

    def convert(ctx: Context, node: Node, inputs: Inputs) -> list[Lazy]:
        x = ctx.value(node, inputs, 0)
        states = list(inputs)
        samples_first = bool(ctx.integer(node, "layout", 0))
        if samples_first:
            x = layout.transpose(x, (1, 0, 2))
            turned = Node("Transpose", "", node.name, [], [], {"perm": [1, 0, 2]})
            states[5:7] = [i and transpose(ctx, turned, [i])[0] for i in states[5:7]]
        w, r = (ctx.array(node, inputs, i) for i in (1, 2))
        _refuse_rest(ctx, node, inputs, x)
        ways = _directions(ctx, node, len(w))
        hidden = r.shape[2]
        bias = ctx.optional_array(node, inputs, 3)
        biases = np.zeros((len(w), 2 * w.shape[1]), np.float32) if bias is None else bias
        kinds = _activations(node, op, len(w))
        outputs, last_h, last_c = [], [], []
        for d, backwards in enumerate(ways):
            cell = _Cell(ctx, node, r[d], biases[d].reshape(2, -1), kinds[d])
            start = tuple(_start(ctx, states, place, d) for place in (5, 6))
            with ctx.b.sharing():  # every step reads the same
                series, h, c = _run(cell, STEPS[op], x, w[d], start, backwards=backwards)
            outputs.append(series)
            last_h.append(h)
            last_c.append(c)
        split = [ctx.b.reshaped(s, (*s.shape[:2], 1, hidden)) for s in outputs]
        series = _joined(ctx, split, 2)
        if not samples_first:
            series = layout.transpose(series, (1, 2, 0, 3))
        found: list[Lazy] = [series]
        for last in (last_h, last_c)[: len(node.outputs) - 1]:
            state = _stacked(ctx, last)
            found.append(layout.transpose(state, (1, 0, 2)) if samples_first else state)
        return found

    return convert


def _refuse_rest(ctx: Context, node: Node, inputs: Inputs, x: Value) -> None:
    lengths, peephole = ctx.optional(inputs, 4), ctx.optional(inputs, 7)
    if isinstance(lengths, Constant) and bool(np.all(lengths.data == x.shape[0])):
        lengths = None
    unusual = [n for n in ("clip", "input_forget") if node.attributes.get(n)]
    if lengths is not None or peephole is not None or unusual or x.shape[0] > MAX_STEPS:
        raise BadInput(
            f"{node}: sequences of their own lengths, peepholes, clipping and more than "
            f"{MAX_STEPS} steps have no TFLite form",
            hint=TFLITE_FORM,
        )


def _directions(ctx: Context, node: Node, count: int) -> list[bool]:
    """Whether each direction runs backwards."""
    found = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}.get(
        ctx.text(node, "direction", "forward"), []
    )
    if len(found) != count:
        raise BadInput(f"{node}: {count} directions of weights do not fit", hint=TFLITE_FORM)
    return found


def _activations(node: Node, op: str, directions: int) -> list[list[str]]:
    names = [
        n.decode() if isinstance(n, bytes) else str(n)
        for n in node.attributes.get("activations", USUAL[op] * directions)
    ]
    size = len(USUAL[op])
    if len(names) != size * directions or not set(names) <= set(KINDS):
        raise BadInput(f"{node}: activations {names} have no TFLite form", hint=TFLITE_FORM)
    return [[KINDS[n] for n in names[d * size : (d + 1) * size]] for d in range(directions)]


def _start(ctx: Context, inputs: Inputs, place: int, direction: int) -> Item | None:
    """The first state (N, hidden), None where it is zero."""
    item = ctx.optional(inputs, place)
    if item is None:
        return None
    if isinstance(item, Value):
        return _row(ctx, item, direction)
    data = item.data.reshape((1,) * (len(item.shape) - item.data.ndim) + item.data.shape)
    own = data[direction if data.shape[0] > 1 else 0]
    if not own.any():
        return None
    return Constant(np.broadcast_to(own, (own.shape[0], item.shape[2])), item.shape[1:])


def _row(ctx: Context, x: Value, index: int) -> Value:
    taken = picked_along(ctx, Node("Gather", "", ctx.b.scope, [], []), x, np.array([index]), 0)
    return ctx.b.reshaped(taken, taken.shape[1:])


def _run(
    cell: _Cell,
    step: Step,
    x: Value,
    weight: Array,
    start: Sequence[Item | None],
    *,
    backwards: bool,
) -> tuple[Value, Value, Item | None]:
    """Return the outputs (N, steps, hidden) and the last states of one direction."""
    bias = cell.bias.sum(axis=0)
    if cell.node.op == "GRU":  # the candidate's state has its bias to itself
        bias[2 * cell.hidden :] = cell.bias[0, 2 * cell.hidden :]
    gates = contract(cell.ctx.b, x, 2, weight, bias, "input")
    h, c = start
    series: dict[int, Value] = {}
    times = range(x.shape[0])
    for t in reversed(times) if backwards else times:
        h, c = step(cell, _row(cell.ctx, gates, t), (h, c))
        series[t] = h
    assert isinstance(h, Value), "there is a step"
    rows = [cell.ctx.b.reshaped(series[t], (series[t].shape[0], 1, cell.hidden)) for t in times]
    return _joined(cell.ctx, rows, 1), h, c


def _stacked(ctx: Context, states: Sequence[Item | None]) -> Value:
    values = [ctx.b.runtime(s) for s in states if s is not None]
    return _joined(ctx, [ctx.b.reshaped(v, (1, *v.shape)) for v in values], 0)


def _joined(ctx: Context, values: Sequence[Value], axis: int) -> Value:
    node = Node("Concat", "", ctx.b.scope, [], [], {"axis": axis})
    (joined,) = concat(ctx, node, list(values))
    found = settle(ctx.b, joined)
    assert isinstance(found, Value), "values join to a value"
    return found
