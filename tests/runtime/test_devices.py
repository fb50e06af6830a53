"""Which provider, delegate or device a word means, and where the operators of a session then run.

Real here: ONNX Runtime's CPU provider and one that takes no operator, LiteRT with XNNPACK, without it and with an
external delegate built by the test, OpenVINO's CPU, AUTO, MULTI and HETERO. The hardware that this machine lacks is
played by lists of what would be available and by fake libraries.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetl_runtime import EngineError, FallbackWarning, Placement, load, open_bundle
from edgetl_runtime.engines import litert, ort, ov
from edgetl_runtime.engines.binding import Execution
from edgetl_runtime.engines.delegates import BUILTIN, LIBRARIES, XNNPACK, delegation, load_library
from edgetl_runtime.engines.providers import CPU, PROVIDERS, wanted_providers
from edgetl_runtime.placement import OperatorPlace

VARIANTS = ("onnx.fp32", "tflite.fp32", "openvino.fp32")
NO_OPERATORS = "AzureExecutionProvider"
"""In every build of ONNX Runtime for x86; it runs calls to a service, so none of a model's operators."""

DELEGATE = """
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
struct Delegate {
  void *data;
  int (*prepare)(void *, struct Delegate *);
  void *copy_from, *copy_to, *free_handle;
  int64_t flags;
  void *opaque;
};
static int prepare(void *context, struct Delegate *delegate) { return 0; }  /* takes no operator */
struct Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t n, void (*report)(const char *)) {
  if (n && strcmp(keys[0], "level")) { report("unknown option"); return NULL; }
  struct Delegate *made = calloc(1, sizeof *made);
  made->prepare = prepare;
  return made;
}
void tflite_plugin_destroy_delegate(struct Delegate *delegate) { free(delegate); }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An external delegate that is one, and takes no operator."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build a delegate with")
    folder = tmp_path_factory.mktemp("delegate")
    (folder / "delegate.c").write_text(DELEGATE)
    made = folder / "libidle_delegate.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(made), str(folder / "delegate.c")], check=True)
    return made


# ONNX Runtime's providers


@pytest.mark.parametrize(
    ("device", "available", "name", "options"),
    [
        ("cpu", ("CUDAExecutionProvider", CPU), CPU, {}),
        ("gpu", ("TensorrtExecutionProvider", "CUDAExecutionProvider", CPU), "CUDAExecutionProvider", {}),
        ("gpu", ("OpenVINOExecutionProvider", CPU), "OpenVINOExecutionProvider", {"device_type": "GPU"}),
        ("npu", ("OpenVINOExecutionProvider", CPU), "OpenVINOExecutionProvider", {"device_type": "NPU"}),
        ("npu", ("CoreMLExecutionProvider", CPU), "CoreMLExecutionProvider", {"MLComputeUnits": "CPUAndNeuralEngine"}),
        ("GPU", ("DmlExecutionProvider", CPU), "DmlExecutionProvider", {}),
        ("auto", ("QNNExecutionProvider", CPU), "QNNExecutionProvider", {"backend_type": "htp"}),
        ("auto", (CPU,), CPU, {}),
        ("tensorrt", ("TensorrtExecutionProvider", "CUDAExecutionProvider", CPU), "TensorrtExecutionProvider", {}),
        ("xnnpack", ("XnnpackExecutionProvider", CPU), "XnnpackExecutionProvider", {}),
        ("WebGpuExecutionProvider", ("WebGpuExecutionProvider", CPU), "WebGpuExecutionProvider", {}),
    ],
)
def test_device_means_a_provider(device: str, available: tuple[str, ...], name: str, options: dict[str, str]) -> None:
    provider = wanted_providers(Execution(device=device), available)[0]
    assert (provider.name, dict(provider.options)) == (name, options)


def test_own_options_stand_before_those_of_the_table() -> None:
    execution = Execution(device="npu", options={"device_type": "NPU.1", "precision": "FP16"})
    (provider,) = wanted_providers(execution, ("OpenVINOExecutionProvider", CPU))
    assert dict(provider.options) == {"device_type": "NPU.1", "precision": "FP16"}


@pytest.mark.parametrize("device", [*PROVIDERS, "gpu", "npu", "edgetpu", "quantum"])
def test_missing_provider_is_an_error_that_names_what_is_there(device: str) -> None:
    with pytest.raises(EngineError, match="onnxruntime has no device") as caught:
        wanted_providers(Execution(device=device), (CPU,))
    assert "cpu, auto" in str(caught.value)


def test_provider_that_does_not_start_is_no_silent_cpu(pristine_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = [*ort.onnxruntime.get_available_providers(), "CUDAExecutionProvider"]
    monkeypatch.setattr(ort.onnxruntime, "get_available_providers", lambda: there)
    with pytest.raises(EngineError, match="CUDA"):
        load(pristine_bundle, variant="onnx.fp32", device="gpu")


@pytest.mark.parametrize("device", ["auto", "gpu"])
def test_provider_that_is_left_out_is_tried_no_longer(
    device: str, pristine_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a build for OpenVINO or CUDA on a machine without the hardware."""
    real = ort.onnxruntime.InferenceSession
    asked = []

    def start(model: bytes, options: Any, *, providers: list[str], provider_options: list[dict[str, str]]) -> Any:
        asked.append(providers[0])
        return real(model, options, providers=[CPU])

    monkeypatch.setattr(ort.onnxruntime, "InferenceSession", start)
    there = ["CUDAExecutionProvider", "OpenVINOExecutionProvider", CPU]
    monkeypatch.setattr(ort.onnxruntime, "get_available_providers", lambda: there)
    if device == "auto":
        with load(pristine_bundle, variant="onnx.fp32", device=device) as classifier:
            assert set(classifier.placement().counts) == {"CPU"}
        assert asked[0] == "CUDAExecutionProvider"
        assert asked[-1] == CPU
    else:
        with pytest.raises(EngineError, match="CUDA or OpenVINO did not start"):
            load(pristine_bundle, variant="onnx.fp32", device=device)


@pytest.mark.parametrize("tells", [True, False], ids=["assignment", "profile"])
def test_onnxruntime_falls_back_with_a_word(
    tells: bool, pristine_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "_TELLS_ASSIGNMENT", tells and ort._TELLS_ASSIGNMENT)
    with pytest.warns(FallbackWarning, match=r"operators \d on CPU; fallen back: "):
        classifier = load(pristine_bundle, variant="onnx.fp32", device=NO_OPERATORS)
    with classifier:
        placement = classifier.placement()
    assert placement.fallen_back == placement.operators
    assert "ReduceMean" in {operator.type for operator in placement.operators}
    with pytest.raises(EngineError, match=r"fallen back: .*ReduceMean"):
        load(pristine_bundle, variant="onnx.fp32", device=NO_OPERATORS, strict=True)


def test_old_onnxruntime_says_that_it_cannot_tell(pristine_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "_TELLS_ASSIGNMENT", False)
    with (
        load(pristine_bundle, variant="onnx.fp32") as classifier,
        pytest.raises(EngineError, match=r"onnxruntime>=1\.24"),
    ):
        classifier.placement()


# LiteRT's delegates


def _loads(*there: str) -> Any:
    """A fake ``load_delegate`` for which only these libraries exist."""

    def load_delegate(library: str, options: dict[str, str]) -> tuple[str, dict[str, str]]:
        if library not in there:
            raise OSError(f"{library}: cannot open shared object file")
        if "bad" in options:
            raise ValueError("unknown option bad")
        return library, options

    return load_delegate


@pytest.mark.parametrize("kind", list(LIBRARIES))
def test_device_means_the_delegate_that_is_there(kind: str) -> None:
    name = LIBRARIES[kind][-1]
    found = delegation(Execution(device=kind, options={"device": "usb:0"}), _loads(name))
    assert found.delegate == (name, {"device": "usb:0"})
    assert (found.place, found.wanted, found.xnnpack) == (kind.upper(), (kind.upper(),), False)


def test_auto_takes_a_delegate_or_xnnpack() -> None:
    found = delegation(Execution(device="auto"), _loads("libvx_delegate.so"))
    assert (found.place, found.wanted) == ("NPU", ())
    found = delegation(Execution(device="auto"), _loads())
    assert (found.place, found.delegate, found.xnnpack) == (XNNPACK, None, True)


@pytest.mark.parametrize("device", [*LIBRARIES, "quantum", "libmine.so"])
def test_missing_delegate_is_an_error(device: str) -> None:
    with pytest.raises(EngineError, match=f"litert has no device '{device}'"):
        delegation(Execution(device=device), _loads())


def test_options_that_a_delegate_refuses() -> None:
    with pytest.raises(EngineError, match="refused its options"):
        delegation(Execution(device="edgetpu", options={"bad": "1"}), _loads(*LIBRARIES["edgetpu"]))


def test_library_that_is_no_delegate(library: Path, capfd: pytest.CaptureFixture[str], pristine_bundle: Path) -> None:
    other = library.with_name("libother.so")
    source = other.with_suffix(".c")
    source.write_text("int nothing;")
    subprocess.run(["cc", "-shared", "-o", str(other), str(source)], check=True)
    with pytest.raises(OSError, match="no delegate"):
        load_library(lambda *_: None, str(other), {})
    with pytest.raises(EngineError, match="no delegate"):
        load(pristine_bundle, variant="tflite.fp32", device=str(other))
    assert "ignored" not in capfd.readouterr().err


def test_external_delegate_is_loaded_and_what_it_leaves_is_named(library: Path, pristine_bundle: Path) -> None:
    with pytest.warns(FallbackWarning, match="fallen back: CAST pixels, MEAN means, FULLY_CONNECTED "):
        classifier = load(pristine_bundle, variant="tflite.fp32", device=str(library))
    with classifier:
        placement = classifier.placement()
        assert set(placement.counts) == {BUILTIN}
        assert placement.wanted == (library.name,)
        golden = open_bundle(pristine_bundle).golden()
        assert golden is not None
        assert classifier.logits(golden.tensors[0]).argmax() == golden.logits[0].argmax()
    with pytest.raises(EngineError, match="MEAN means"):
        load(pristine_bundle, variant="tflite.fp32", device=str(library), strict=True)
    with pytest.raises(EngineError, match="refused its options"):
        load(pristine_bundle, variant="tflite.fp32", device=str(library), device_options={"colour": "red"})


def test_xnnpack_on_and_off(pristine_bundle: Path) -> None:
    golden = open_bundle(pristine_bundle).golden()
    assert golden is not None
    answers = {}
    for device, place in (("cpu", XNNPACK), ("builtin", BUILTIN)):
        with load(pristine_bundle, variant="tflite.fp32", device=device) as classifier:
            answers[device] = np.stack([classifier.logits(tensor) for tensor in golden.tensors])
            counts = classifier.placement().counts
        assert max(counts, key=lambda name: counts[name]) == place
    np.testing.assert_allclose(answers["cpu"], answers["builtin"], rtol=1e-3, atol=1e-3)


def test_delegated_operators_are_those_between_a_delegates_inputs_and_outputs() -> None:
    def node(index: int, name: str, inputs: list[int], outputs: list[int]) -> dict[str, Any]:
        return {"index": index, "op_name": name, "inputs": np.array(inputs), "outputs": np.array(outputs)}

    # 0 -A-> 1 -B-> 2 -C-> 3 -D-> 4, of which a delegate has B and C; tensor 9 is a weight, -1 an input left out.
    chain = [node(0, "A", [0], [1]), node(1, "B", [1, 9], [2]), node(2, "C", [2, -1], [3]), node(3, "D", [3], [4])]
    assert litert._delegated(chain) == set()
    assert litert._delegated([*chain, node(4, "DELEGATE", [1, 9], [3])]) == {1, 2}


# OpenVINO's devices


class _Core:
    def __init__(self, *devices: str) -> None:
        self.available_devices = list(devices)


@pytest.mark.parametrize(
    ("device", "name", "members"),
    [
        ("cpu", "CPU", ("CPU",)),
        ("gpu", "GPU", ("GPU",)),
        ("GPU.1", "GPU.1", ("GPU.1",)),
        ("npu", "NPU", ("NPU",)),
        ("auto", "AUTO", ()),
        ("hetero:gpu,cpu", "HETERO:GPU,CPU", ("GPU", "CPU")),
        ("AUTO:-CPU,GPU", "AUTO:-CPU,GPU", ("-CPU", "GPU")),
    ],
)
def test_device_means_one_of_openvinos(device: str, name: str, members: tuple[str, ...]) -> None:
    assert ov._device(Execution(device=device), _Core("CPU", "GPU.0", "GPU.1", "NPU")) == (name, members)


@pytest.mark.parametrize("device", ["gpu", "npu", "edgetpu", "GPU.3", "HETERO:GPU,CPU", "AUTO:NPU,CPU", "quantum"])
def test_device_that_openvino_does_not_find(device: str, pristine_bundle: Path) -> None:
    with pytest.raises(EngineError, match="OpenVINO finds CPU"):
        load(pristine_bundle, variant="openvino.fp32", device=device)


@pytest.mark.parametrize("device", ["auto", "HETERO:CPU", "AUTO:CPU", "MULTI:CPU"])
def test_openvinos_combined_devices_answer_like_its_cpu(device: str, pristine_bundle: Path) -> None:
    golden = open_bundle(pristine_bundle).golden()
    assert golden is not None
    with (
        load(pristine_bundle, variant="openvino.fp32") as plain,
        load(pristine_bundle, variant="openvino.fp32", device=device, strict=True) as classifier,
    ):
        np.testing.assert_allclose(classifier.logits(golden.tensors[0]), plain.logits(golden.tensors[0]), rtol=1e-4)
        assert classifier.session.device == device
        assert classifier.placement().counts == plain.placement().counts


# All three alike


@pytest.mark.parametrize("variant", VARIANTS)
def test_placement_reads_the_same_for_every_engine(variant: str, pristine_bundle: Path) -> None:
    with load(pristine_bundle, variant=variant) as classifier:
        placement = classifier.placement()
    assert placement.asked == "cpu"
    assert sum(placement.counts.values()) == len(placement.operators) >= 3
    assert set(placement.counts) <= {"CPU", XNNPACK}
    assert not placement.fallen_back
    with pytest.raises(EngineError, match="closed"):
        classifier.placement()


def test_placement_for_people_names_the_first_that_fell_back() -> None:
    operators = [OperatorPlace(f"node{i}", "Resize", "CPU") for i in range(10)] + [OperatorPlace("", "Conv", "CUDA")]
    text = str(Placement("onnxruntime", "gpu", tuple(operators), ("CUDA",)))
    assert "of 11 operators 10 on CPU, 1 on CUDA; fallen back: Resize node0, " in text
    assert text.endswith("and 2 more")
