"""The request that `serve` offers to try: the first sample, numbers and strings alike."""

import dataclasses
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from pipeline.artifacts import File, ServingImage, Tensor
from pipeline.deploy import first_request
from tests.unit import values


def test_the_first_request_is_the_first_sample(tmp_path: Path) -> None:
    archive = values.archive(tmp_path)
    inputs = (Tensor(name="x", datatype="FP32", shape=(-1, 2)), Tensor(name="text", datatype="BYTES", shape=(-1,)))
    spec = dataclasses.replace(archive.trained.spec, inputs=inputs)
    archive.samples.path.write_bytes(
        save(
            {
                "0/input/x": np.array([[1, 2.5]], np.float32),
                "0/input/text": np.frombuffer(b"\4\0\0\0a \xc3\xa9\0\0\0\0", np.uint8),
                "1/input/x": np.zeros((1, 2), np.float32),
            }
        )
    )
    image = ServingImage(
        tag="tiny:1.0.0-cpu",
        digest="sha256:1",
        diff_ids=(),
        device="cpu",
        runtime="sha256:2",
        archive=dataclasses.replace(
            archive,
            samples=File.of(archive.samples.path),
            trained=dataclasses.replace(archive.trained, spec=spec),
        ),
    )
    assert first_request(image) == {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.5]},
            {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["a é", ""]},
        ]
    }
