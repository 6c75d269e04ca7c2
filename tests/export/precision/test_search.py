"""Which layers are kept high: the ones that do the harm, and no more than it takes."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from claprt.errors import ExportError
from claprt_export import build as build_module
from claprt_export import comparison, variants
from claprt_export.build import build
from claprt_export.comparison import Bound
from claprt_export.precision import search
from claprt_export.precision.int8 import with_weights_of
from claprt_export.precision.observe import observe
from claprt_export.precision.quantize import FORMS, Form, Method, Quantizer, linear_layers
from claprt_export.precision.search import errors, keep_high
from claprt_export.precision.simulate import int8_layers
from claprt_export.random_checkpoint import save_random_checkpoint
from claprt_export.variants import Tower, write_half, write_int8
from tests.export.precision.helpers import Subject, run_onnx, vectors_of, worst_error

GetSubject = Callable[[str], Subject]


class Turner(nn.Module):
    """(1, 2) -> the same, turned by the angles of the layers that are rounded: 1 - cosine is known exactly."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        super().__init__()
        self.angles = {name: math.sqrt(2 * share) for name, share in shares.items()}
        self.rounded: tuple[str, ...] = ()
        self.tried: list[tuple[str, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        # Independent errors add up in their squares.
        angle = math.sqrt(sum(self.angles[name] ** 2 for name in self.rounded))
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        return x @ turn

    @contextlib.contextmanager
    def rounding(self, names: Sequence[str]) -> Iterator[None]:
        self.rounded = tuple(names)
        self.tried.append(self.rounded)
        yield
        self.rounded = ()


def searched(shares: Mapping[str, float], budget: float) -> tuple[search.Kept, Turner]:
    tower = Turner(shares)
    inputs = [(torch.tensor([[1.0, 0.2 * i]], dtype=torch.float64).float(),) for i in range(12)]
    reference = torch.cat([x for (x,) in inputs])
    return keep_high(tower, list(shares), [tower.rounding], inputs, reference, budget), tower


NAMES = "abcdefghij"
EVEN = dict.fromkeys(NAMES, 1e-5)


def test_nothing_is_kept_where_nothing_must_be() -> None:
    """And nothing is tried one by one then."""
    kept, tower = searched(EVEN, 4e-4)
    assert kept.names == ()
    assert kept.contributions == ()
    assert kept.error == pytest.approx(1e-4, rel=0.05)
    assert tower.tried == [tuple(NAMES)]


@pytest.mark.parametrize("bad", [("d",), ("j", "a"), ("c", "f", "g")])
def test_the_worst_are_kept(bad: tuple[str, ...]) -> None:
    """Exactly those, the worst first, with what each contributes; and the bound holds with a margin."""
    shares = EVEN | {name: 2e-3 / 2**i for i, name in enumerate(bad)}
    kept, _ = searched(shares, 4e-4)
    assert kept.names == bad
    assert kept.contributions == pytest.approx([shares[name] for name in bad], rel=0.01)
    assert kept.error == pytest.approx(1e-5 * (10 - len(bad)), rel=0.05)


def test_one_decision_for_several_forms() -> None:
    """What either form cannot do without is kept, and the error is the worse form's."""
    tower = Turner({})
    forms = [Turner(EVEN | {"b": 2e-3}), Turner(EVEN | {"g": 1e-3})]

    @contextlib.contextmanager
    def as_if(form: Turner, names: Sequence[str]) -> Iterator[None]:
        tower.angles = form.angles
        with tower.rounding(names):
            yield

    inputs = [(torch.tensor([[1.0, 0.2 * i]]),) for i in range(12)]
    reference = torch.cat([x for (x,) in inputs])
    roundings = [functools.partial(as_if, form) for form in forms]
    kept = keep_high(tower, list(NAMES), roundings, inputs, reference, 4e-4)
    assert kept.names == ("b", "g")
    assert kept.contributions == pytest.approx([2e-3, 1e-3], rel=0.01)
    assert kept.error == pytest.approx(8e-5, rel=0.05)


def test_everything_is_kept_before_giving_up() -> None:
    kept, tower = searched(EVEN, 0.0)
    assert sorted(kept.names) == list(NAMES)
    assert tower.tried[-1] == ()
    assert kept.error == pytest.approx(0, abs=1e-6)


def test_no_number_counts_as_the_opposite() -> None:
    """A vector of NaN has an error of 2, so that a layer that overflows is the worst of all."""
    tower = nn.Identity()
    nan = torch.tensor([[torch.nan, 1.0]])
    inputs = [(nan,), (torch.tensor([[1.0, 0.0]]),), (torch.tensor([[-1.0, 0.0]]),)]
    reference = torch.tensor([[1.0, 0.0]]).repeat(3, 1)
    np.testing.assert_allclose(errors(tower, inputs, reference), [2, 0, 2], atol=1e-7)


def poisoned(tower: Subject, layer: str) -> Any:
    """The same function, but one feature of one layer's input is 3000 times as large and the others lose all steps."""
    module = tower.module
    block, _, last = layer.rpartition(".")
    assert last == "up"
    part = module.get_submodule(block)
    with torch.no_grad():
        part.norm2.weight[3] *= 3000
        part.norm2.bias[3] *= 3000
        part.up.weight[:, 3] /= 3000
    np.testing.assert_allclose(vectors_of(module, tower.batches), tower.vectors, atol=1e-5)
    return module


@pytest.mark.parametrize("form", FORMS)
def test_a_poisoned_layer(subject: GetSubject, form: Form) -> None:
    """Of a tower with one layer that INT8 cannot represent, exactly that one is kept, and then the bound holds."""
    tower = subject("audio")
    layers = linear_layers(tower.original)
    layer = [one for one in layers if one.endswith(".up")][2]
    module = poisoned(tower, layer)
    seen = observe(module, layers, tower.batches, len(tower.batches))
    numbers = Quantizer(module, seen, Method(shift=False, compensate=False)).numbers("max")
    reference = torch.from_numpy(tower.vectors)

    def rounding(names: Sequence[str]) -> Any:
        return int8_layers(module, numbers, form, names)

    with rounding([one for one in layers if one != layer]):
        others = worst_error(vectors_of(module, tower.batches), tower.vectors)
    with rounding(layers):
        every = worst_error(vectors_of(module, tower.batches), tower.vectors)
    assert every > 5 * others
    kept = keep_high(module, layers, [rounding], tower.batches, reference, 1.6 * others)
    assert kept.names == (layer,)
    assert kept.error == pytest.approx(others, rel=1e-3)
    assert kept.contributions[0] > 4 * others


def written(tower: Subject, module: Any, folder: Path) -> Tower:
    """A changed tower as a build has it, with its FP32 graph."""
    name = "text" if tower.name == "text" else "audio"
    path = folder / f"{name}.fp32.onnx"
    onnx.save(with_weights_of(tower.graph, module), path)
    return Tower(name, module, path, tower.batches, tower.batches)


def test_smoothing_cures_a_poisoned_layer(subject: GetSubject, tmp_path: Path) -> None:
    """Where the scale can move into weights, the build finds that out by itself, and nothing is kept."""
    tower = subject("audio")
    module = poisoned(tower, [one for one in linear_layers(tower.original) if one.endswith(".up")][2])
    ticks: list[str] = []
    choices = write_int8(written(tower, module, tmp_path), 0.999, ticks.append)
    assert set(choices) == set(FORMS)
    for form, choice in choices.items():
        assert choice.kept == ()
        assert choice.weights_kept == 0
        assert "smooth" in choice.method
        assert choice.layers == len(linear_layers(module))
        found = run_onnx(onnx.load(tmp_path / f"audio.{form}.onnx"), tower.batches)
        assert worst_error(found, tower.vectors) <= 1e-3
    assert any("calibrating" in text for text in ticks)


def test_graphs_that_err_more_keep_more(subject: GetSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FP16 and the order of sums may change a graph's error for the worse; then the search goes on."""
    tower = subject("text")
    kept = []
    for errors_of_graphs in ([0.0, 0.0], [1.0, 0.0, 0.0, 0.0]):
        found = iter(errors_of_graphs)
        monkeypatch.setattr(variants, "_graph_error", lambda tower, form, indices, found=found: next(found))
        choices = write_int8(written(tower, tower.module, tmp_path), 0.9999, lambda text: None)
        kept.append(len(choices["int8"].kept))
        assert list(found) == []
    assert kept[0] < kept[1]


def test_the_search_reaches_the_graph(subject: GetSubject, tmp_path: Path) -> None:
    """What `write_int8` says it kept is FP16 or FP32 in the files, and nothing else is; counted in weights."""
    tower = subject("text")
    choices = write_int8(written(tower, tower.module, tmp_path), 0.99997, lambda text: None)
    assert len(set(choices.values())) == 1  # both forms keep the same
    for form, choice in choices.items():
        assert 0 < len(choice.kept) < choice.layers
        assert list(choice.contributions) == sorted(choice.contributions, reverse=True)
        model = onnx.load(tmp_path / f"text.{form}.onnx")
        makers = {output: node.op_type for node in model.graph.node for output in node.output}
        integer = {
            node.name
            for node in model.graph.node
            if node.op_type == "MatMulIntegerToFloat" or makers.get([*node.input, "", ""][1]) == "DequantizeLinear"
        }
        layers = linear_layers(tower.original)
        assert integer == set(layers) - set(choice.kept)
        modules = dict(tower.original.named_modules())
        counts = {n: modules[n].weight.numel() for n in choice.kept}
        assert sum(counts.values()) <= choice.weights_kept <= 1.1 * sum(counts.values())
        error = worst_error(run_onnx(model, tower.batches), tower.vectors)
        assert error < 1e-4, form  # of the bound's 3e-5, and what FP16 adds


def test_a_block_that_overflows_half(subject: GetSubject, tmp_path: Path) -> None:
    """A value of 300,000 inside one block: that block stays FP32 and the graph gives the right vectors."""
    tower = subject("audio")
    module = tower.module
    name = [n for n, m in module.named_modules() if type(m).__name__ == "WindowBlock"][3]
    block = module.get_submodule(name)
    with torch.no_grad():
        block.v.weight *= 3e5
        block.out.weight /= 3e5
    np.testing.assert_allclose(vectors_of(module, tower.batches), tower.vectors, atol=1e-5)
    changed = written(tower, module, tmp_path)
    choice = write_half(changed, 0.9999, lambda text: None)
    assert choice.kept == (name,)
    assert choice.contributions[0] > 0.5
    assert choice.weights_kept == sum(p.numel() for p in block.parameters())
    model = onnx.load(tmp_path / "audio.fp16.onnx")
    found = run_onnx(model, tower.batches)
    assert np.isfinite(found).all()
    assert worst_error(found, tower.vectors) < 1e-4
    weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert f"{name}.v.weight" in weights
    assert f"{name}.v.weight_fp16" not in weights
    assert sum(kind == onnx.TensorProto.FLOAT16 for kind in weights.values()) > 50


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_bound_that_nothing_holds(
    subject: GetSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """The tower, the figures and the way out are in the error."""
    tower = subject("text")
    target = written(tower, tower.module, tmp_path)
    write: Any = write_half if precision == "fp16" else write_int8
    with pytest.raises(ExportError, match=f"{precision} cannot hold its bound: text tower: .*--precision"):
        write(target, 1.5, lambda text: None)
    assert [path.name for path in tmp_path.iterdir()] == ["text.fp32.onnx"]


def test_a_build_that_cannot_hold_a_bound_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_random_checkpoint(tmp_path / "checkpoint", "tiny", depths=(2,), num_attention_heads=(1,))
    monkeypatch.setitem(comparison.BOUNDS, "fp16", Bound(1.5, 0.9999))
    monkeypatch.setattr(build_module, "_JUDGED", 2)
    with pytest.raises(ExportError, match="fp16 cannot hold its bound: audio tower"):
        build(str(source), tmp_path / "bundle", precisions=("fp16",))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_bounds_are_the_promised_ones() -> None:
    """What the README promises of each variant."""
    assert {name: (b.audio, b.text) for name, b in comparison.BOUNDS.items()} == {
        "fp32": (0.999999, 0.999999),
        "fp16": (0.9999, 0.9999),
        "int8": (0.9995, 0.999),
        "int8-cpu": (0.9995, 0.999),
    }
