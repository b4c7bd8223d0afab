"""The picture tower of an encoder on OpenVINO, in fp32, bfloat16 or int8: for processors.

The words stay with torch: a sentence is encoded once an episode. Needs the extra `int8` (openvino, nncf).

Shape letters: B batch, N patches, D joint width, S side of the picture in pixels.
"""

import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fovea.encoders.base import Encoder
from fovea.errors import FoveaError
from fovea.tokens import Tokens

BACKENDS = ("torch", "openvino-fp32", "openvino-bf16", "openvino-int8")
_PRECISION = {"openvino-bf16": "bf16"}  # the others compute what is not int8 in f32


def check_backend(backend: str) -> str:
    """Return `backend`, or say which there are."""
    if backend not in BACKENDS:
        raise FoveaError(f"expected an encoder backend among {', '.join(BACKENDS)}, got {backend!r}")
    return backend


def require_openvino(backend: str) -> None:
    """Refuse an OpenVINO backend where its packages are missing."""
    wanted = ["openvino", *["nncf"] * (backend == "openvino-int8")]
    if missing := [name for name in wanted if importlib.util.find_spec(name) is None]:
        raise FoveaError(
            f"the encoder backend {backend} needs {' and '.join(missing)}: install the extra int8 "
            "(pip install 'lerobot_policy_fovea[int8]'), or use encoder_backend=torch"
        )


class OpenVINOEncoder(Encoder):
    """An encoder whose pictures go through a compiled copy of its picture tower; drop-in for the original.

    Its `identity` is its own, since its numbers differ (by rounding in fp32, visibly in bfloat16 and int8): cached
    features never mix. `stands_for` is the identity of the original, by which a policy recognises the features it was
    trained on.

    Args:
        source: the original: it preprocesses pictures, encodes words and describes itself.
        model: picture.xml that `export` wrote from it, with its .bin beside it.
        backend: openvino-fp32, openvino-bf16 (fp32 where the processor cannot) or openvino-int8.
        threads: threads of the processor; None takes as many as torch uses.

    Raises:
        FoveaError: OpenVINO is missing, or the file is not the picture tower of that encoder.
    """

    def __init__(self, source: Encoder, model: Path, backend: str, threads: int | None = None) -> None:
        super().__init__()
        require_openvino(check_backend(backend))
        import openvino

        self.source = source
        self.name, self.tap, self.backend = source.name, source.tap, backend
        self.image_size, self.grid, self.width = source.image_size, source.grid, source.width
        self.max_words, self.temperature = source.max_words, source.temperature
        settings = {
            "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": _PRECISION.get(backend, "f32"),
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            self._compiled = openvino.Core().compile_model(str(model), "CPU", settings)
        except RuntimeError as error:
            raise FoveaError(f"OpenVINO cannot load {model}: {error}; delete its folder") from error
        found = self._compiled.output(0).partial_shape
        if str(found[1]) != str(self.grid[0] * self.grid[1]) or str(found[2]) != str(self.width):
            raise FoveaError(f"expected the picture tower of {source.name} in {model}, its output is {found}")
        self._files = [_digest(path) for path in (model, model.with_suffix(".bin"))]
        self._requests = threading.local()  # a request serves one thread at a time

    def __deepcopy__(self, memo: dict[int, Any]) -> "OpenVINOEncoder":
        """Itself: nothing in it changes, and what OpenVINO compiled cannot be copied."""
        return self

    @property
    def stands_for(self) -> str:
        """Identity of the original."""
        return self.source.identity

    def preprocess(self, images: Tensor) -> Tensor:
        """The original's."""
        return self.source.preprocess(images)

    def encode_image(self, images: Tensor) -> Tokens:
        """uint8 (B, 3, H, W), upright RGB -> patches, values (B, N, D), L2-normalised, on the device of `images`."""
        values = self.patches(self.preprocess(images)).to(images.device)
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=images.device))

    def patches(self, pixels: Tensor) -> Tensor:
        """Preprocessed pixels (B, 3, S, S) -> (B, N, D), L2-normalised, on the CPU."""
        if not hasattr(self._requests, "one"):
            self._requests.one = self._compiled.create_infer_request()
        found = self._requests.one.infer([pixels.detach().cpu().contiguous().numpy()])
        return torch.from_numpy(next(iter(found.values())).copy())

    def encode_text(self, sentences: Sequence[str]) -> Tokens:
        """The original's."""
        return self.source.encode_text(sentences)

    def embed_text(self, sentences: Sequence[str]) -> Tensor:
        """The original's."""
        return self.source.embed_text(sentences)

    def describe(self) -> dict[str, Any]:
        """The original's identity, the backend, and the contents of the exported files."""
        return {"source": self.source.identity, "backend": self.backend, "files": self._files}

    @property
    def identity(self) -> str:
        """sha256 over tap and description: unlike the original's, and unlike another calibration's."""
        return hashlib.sha256(json.dumps([self.tap, self.describe()], sort_keys=True).encode()).hexdigest()


def stands_for(encoder: Encoder) -> str:
    """Identity of the encoder whose features this one gives, exactly or nearly."""
    return encoder.stands_for if isinstance(encoder, OpenVINOEncoder) else encoder.identity


def export(encoder: Encoder, backend: str, model: Path, pictures: Tensor | None = None) -> None:
    """Write the picture tower of an encoder for OpenVINO.

    Args:
        encoder: one with `patches(pixels)`, as all dual encoders here have it.
        backend: openvino-int8 quantises; the others keep the weights as they are.
        model: the .xml to write; the weights go into the .bin beside it.
        pictures: uint8 (K, 3, H, W) to calibrate int8 on: what the robot's cameras show. Not used by the others.

    Raises:
        FoveaError: packages or pictures are missing, or the encoder cannot be exported.
    """
    require_openvino(check_backend(backend))
    if backend == "torch" or not hasattr(encoder, "patches"):
        raise FoveaError(
            f"expected an OpenVINO backend and an encoder with `patches`, got {backend}, {encoder.name}"
        )
    if backend == "openvino-int8" and (pictures is None or not len(pictures)):
        raise FoveaError(
            "openvino-int8 is calibrated on pictures, uint8 (K, 3, H, W), and got none; some dozens of the robot's own "
            "cameras are enough"
        )
    with _nothing_reported(), contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's tracer, about shapes that are fixed here
        import openvino

        size = encoder.image_size
        example = torch.zeros(2, 3, size, size)
        with torch.no_grad():
            converted = openvino.convert_model(
                _PictureTower(encoder), example_input=example, input=[-1, 3, size, size]
            )
        if backend == "openvino-int8":
            converted = _quantise(converted, encoder, pictures)
        openvino.save_model(converted, str(model), compress_to_fp16=False)


class _PictureTower(nn.Module):
    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encoder.patches(pixels)


def _quantise(model: Any, encoder: Encoder, pictures: Tensor | None) -> Any:
    """Weights and activations to int8, their ranges seen on the pictures (nncf, post-training)."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    assert pictures is not None
    with torch.no_grad():
        pixels = [encoder.preprocess(one[None]).numpy() for one in pictures]
    return nncf.quantize(
        model,
        nncf.Dataset(pixels),
        subset_size=len(pixels),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
    )


@contextlib.contextmanager
def _nothing_reported() -> Iterator[None]:
    """OpenVINO's converter and nncf send usage figures to their maker unless they run in CI: here they always do."""
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
