"""Networks of other people's: 8-bit DeepLab files of google-coral/test_data (Apache-2.0), which no edgetl has made."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgetl_runtime.engines import open_session
from edgetl_runtime.engines.binding import ModelBytes, Signature
from edgetl_runtime.fake import fake_manifest
from edgetl_runtime.manifest import Preprocess, TensorSpec
from edgetl_runtime.tasks.segmentation import Segmenter

pytestmark = pytest.mark.slow

DATA = Path(os.environ.get("EDGETL_DATA", Path(__file__).parents[4] / "shared" / "data"))
SIDE = 513


def segmenter(name: str) -> Segmenter:
    """The file behind the runtime's own preprocessing and decoding; its output is the label of every pixel."""
    pytest.importorskip("ai_edge_litert", reason="needs LiteRT")
    folder = DATA / "weights" / "coral"
    if not folder.is_dir():
        pytest.skip(f"no data at {DATA}; set EDGETL_DATA")
    labels = (folder / "pascal_voc_segmentation_labels.txt").read_text().splitlines()[:21]
    spec = Preprocess(resize=0, crop=(SIDE, SIDE), mode="stretch")
    manifest = fake_manifest("segmentation", labels, spec, TensorSpec("labels", "int64", (1, SIDE, SIDE)))
    model = ModelBytes((folder / name).read_bytes(), name=name)
    session = open_session("litert", model, Signature((manifest.input,), manifest.all_outputs))
    return Segmenter(manifest, manifest.variants[0], session)


@pytest.mark.parametrize("name", ["deeplabv3_mnv2_dm05_pascal_quant.tflite", "deeplabv3_mnv2_pascal_quant.tflite"])
def test_a_cat_is_where_people_drew_it(name: str) -> None:
    photos = ["group0387_167", "group0605_055", "group0806_247"]
    alike = []
    with segmenter(name) as deeplab:
        names = [label.name for label in deeplab.manifest.labels]
        for photo in photos:
            folder = DATA / "cats" / "val"
            found = deeplab.predict(folder / "images" / f"{photo}.jpg")
            with Image.open(folder / "masks" / f"{photo}.png") as drawn:
                cat = np.asarray(drawn) == 1
            assert found.mask.shape == cat.shape
            animal = np.isin(found.mask, [names.index(label) for label in ("cat", "dog", "cow", "sheep", "horse")])
            alike.append(float((animal & cat).sum() / (animal | cat).sum()))
    assert np.mean(alike) > 0.6, alike
