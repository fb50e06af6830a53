"""After surgery: training on the original's outputs brings the network back, and its cost can be written down."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from edgetl_export.quantize.distill import DistillOptions
from edgetl_export.relearn import Relearned, relearn
from edgetl_export.surgery import Operated, Surgery, operate
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.errors import ExportError

if TYPE_CHECKING:
    from tests.zoo import Trained

OPTIONS = DistillOptions(epochs=10, device="cpu")


def logits(trained: Trained, network: nn.Module) -> npt.NDArray[np.float32]:
    """(200, 4) of images that nothing was fitted to."""
    return replace(trained.source, module=network).reference()(trained.tensors)


def learned(operated: Operated, trained: Trained, options: DistillOptions = OPTIONS) -> Relearned:
    """Of a copy: the network itself is trained."""
    return relearn(copied(operated), trained.source, trained.samples, options)


def copied(operated: Operated) -> Operated:
    return replace(operated, network=copy.deepcopy(operated.network))


@pytest.fixture(scope="module")
def operated(trained: Trained) -> Operated:
    """ReLU6 for SiLU, without the repair of batch norms: much is left to learn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgetl_export.surgery._with_moments_of", lambda _original, changed, _batches: changed)
        return operate(trained.source.module, Surgery("relu6"), iter(trained.samples), trained.source.normalize)


def test_the_network_comes_back_on_images_it_has_not_seen(operated: Operated, trained: Trained) -> None:
    wanted = logits(trained, trained.source.module)
    before = logits(trained, operated.network)
    found = learned(operated, trained)
    after = logits(trained, found.network)
    assert sqnr_db(wanted, after) > sqnr_db(wanted, before) + 2.5
    agreement = (after.argmax(1) == wanted.argmax(1)).mean()
    assert agreement > (before.argmax(1) == wanted.argmax(1)).mean()


@pytest.mark.gpu
def test_a_gpu_brings_it_back_too(operated: Operated, trained: Trained) -> None:
    wanted, before = logits(trained, trained.source.module), logits(trained, operated.network)
    found = learned(operated, trained, replace(OPTIONS, device="cuda"))
    assert all(value.device.type == "cpu" for value in found.network.state_dict().values())
    assert sqnr_db(wanted, logits(trained, found.network)) > sqnr_db(wanted, before) + 2.5


def test_more_epochs_leave_less_loss(operated: Operated, trained: Trained) -> None:
    losses = [learned(operated, trained, replace(OPTIONS, epochs=epochs)).loss for epochs in (1, 10)]
    assert losses[1] < 0.7 * losses[0]


def test_batch_norms_keep_their_statistics_and_the_original_stays(operated: Operated, trained: Trained) -> None:
    original = {name: value.clone() for name, value in trained.source.module.state_dict().items()}
    found = learned(operated, trained)
    statistics = dict(found.network.named_buffers())
    assert len(statistics) >= 12
    for name, value in operated.network.named_buffers():
        assert torch.equal(statistics[name], value), name
    for name, value in trained.source.module.state_dict().items():
        assert torch.equal(original[name], value), name
    assert not found.network.training
    assert not any(parameter.requires_grad for parameter in found.network.parameters())


def test_the_same_seed_gives_the_same_network(operated: Operated, trained: Trained) -> None:
    first, second = (learned(operated, trained, replace(OPTIONS, epochs=2)).network.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_it_cost_can_be_written_into_the_manifest(operated: Operated, trained: Trained) -> None:
    facts: dict[str, Any] = learned(operated, trained).facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["replaced"] == {"SiLU": 2}
    assert facts["epochs"] == OPTIONS.epochs
    assert facts["sqnr_db"] == operated.sqnr_db_after
    assert 0 < facts["loss"] < 1
    assert "network" not in facts


def test_no_time_is_no_training(operated: Operated, trained: Trained) -> None:
    found = learned(operated, trained, replace(OPTIONS, seconds=1e-9))
    before = operated.network.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in found.network.state_dict().items())


def test_a_loss_that_is_not_finite_is_told(operated: Operated, trained: Trained) -> None:
    broken = copied(operated)
    next(broken.network.parameters()).data[0] = torch.nan
    with pytest.raises(ExportError, match="loss is not finite"):
        relearn(broken, trained.source, trained.samples, OPTIONS)
