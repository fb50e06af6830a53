from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from edgetl_export import capture
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.errors import ExportError


def test_the_captured_module_is_the_original_behind_the_input_contract(trained) -> None:
    captured = capture(trained.source)
    with torch.inference_mode():
        logits = captured.module(torch.tensor(trained.tensors)).numpy()
    assert sqnr_db(trained.source.reference()(trained.tensors), logits) > 100
    assert captured.input.shape == (1, 32, 32, 3)
    assert captured.output.shape == (1, 4)


def test_batch_norms_are_folded_and_the_original_is_left_alone(trained) -> None:
    before = {key: value.clone() for key, value in trained.source.module.state_dict().items()}
    captured = capture(trained.source)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in captured.module.modules())
    after = trained.source.module.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_reference_normalises_by_itself(trained) -> None:
    """A capture with the wrong statistics must not be able to agree with the reference."""
    wrong = dataclasses.replace(trained.source.normalize, mean=(0.5, 0.5, 0.5))
    captured = capture(dataclasses.replace(trained.source, normalize=wrong))
    with torch.inference_mode():
        logits = captured.module(torch.tensor(trained.tensors)).numpy()
    assert sqnr_db(trained.source.reference()(trained.tensors), logits) < 40


def test_labels_must_fit_the_network(trained) -> None:
    with pytest.raises(ExportError, match=r"gives \[1, 4\] for one image; its labels need \[1, 2\]"):
        capture(dataclasses.replace(trained.source, labels=trained.source.labels[:2]))


def test_a_network_that_cannot_be_traced_is_exported_unfolded(trained) -> None:
    class Branches(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.inner(x) if x.sum() > -np.inf else self.inner(-x)
            return logits

    captured = capture(dataclasses.replace(trained.source, module=Branches(trained.source.module)))
    with torch.inference_mode():
        logits = captured.module(torch.tensor(trained.tensors)).numpy()
    assert sqnr_db(trained.source.reference()(trained.tensors), logits) > 100


class ByValues(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(x * 2 if x.mean() > 0 else x)
        return logits


def test_a_network_that_decides_by_values_is_refused_with_its_line(trained) -> None:
    source = dataclasses.replace(trained.source, module=ByValues(trained.source.module))
    with pytest.raises(ExportError, match=r"cannot be traced: .*data-dependent.*if x\.mean") as raised:
        _ = capture(source).program
    assert "shapes alone" in str(raised.value.fix)


def test_other_parameters_make_another_network_and_leave_this_one(trained) -> None:
    captured = capture(trained.source)
    images = torch.tensor(trained.tensors[:4])
    with torch.inference_mode():
        before = captured.module(images)
        changed = captured.with_parameters({"network.head.bias": torch.tensor([1.0, -2.0, 3.0, 0.0])})
        bias = captured.module.get_parameter("network.head.bias")
        torch.testing.assert_close(changed.module(images), before - bias + torch.tensor([1.0, -2.0, 3.0, 0.0]))
        assert torch.equal(captured.module(images), before)
        # The graphs are those of the new parameters, also when the old ones were made first.
        torch.testing.assert_close(changed.batched(images), changed.module(images))
    assert changed.source is captured.source


def test_the_batched_graph_is_the_same_for_any_number_of_images(trained) -> None:
    captured = capture(trained.source)
    of_one = [node.name for node in captured.program.module().graph.nodes if node.op == "call_function"]
    assert set(of_one) <= {node.name for node in captured.batched.graph.nodes}
    for n in (1, 2, 7):
        images = torch.tensor(trained.tensors[:n])
        with torch.inference_mode():
            torch.testing.assert_close(captured.batched(images), captured.module(images))


def test_parameters_have_one_name_in_module_and_graph(trained) -> None:
    captured = capture(trained.source)
    named = dict(captured.module.named_parameters())
    for name, value in captured.batched.named_parameters():
        assert torch.equal(value, named[name])
    assert len(named) == 16


def test_the_original_is_asked_about_a_few_images_at_a_time(trained) -> None:
    original, asked = trained.source.reference(), list[int]()
    original._network.register_forward_pre_hook(lambda _, given: asked.append(len(given[0])))
    found = original(trained.tensors[:20])
    assert asked == [8, 8, 4]
    np.testing.assert_allclose(found[[0, 19]], original(trained.tensors[[0, 19]]), rtol=1e-4, atol=1e-5)
