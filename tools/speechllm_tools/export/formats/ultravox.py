"""`ultravox`: always refused, with the reason for each adapter.

Ultravox (github.com/fixie-ai/ultravox) has one projector: frames joined, RMSNorm, linear layer, SwiGLU, linear layer,
with an RMSNorm after the first or the second, and no biases. Its processor counts a clip's vectors by its length.
"""

from __future__ import annotations

from pathlib import Path

from speechllm_plugin.errors import UserError
from speechllm_tools.export.api import Format

_LAYERS = "its Transformer layers, which Ultravox's projector (two linear layers) has no place for"
_CONTENT = "as many vectors as the speech makes, where Ultravox counts them by the clip's length"
REASONS = {
    "base": _LAYERS,
    "cif": _CONTENT,
    "conv": _LAYERS,
    "ctc": _CONTENT,
    "mlp": "linear layers with biases, no RMSNorm before them and a LayerNorm at the end, where Ultravox's have an "
    "RMSNorm before them and no biases",
    "subsample": _LAYERS,
    "wlq_former": "a Q-Former, which Ultravox's projector (two linear layers) has no place for",
}


class UltravoxFormat(Format):
    summary = "refused with the reason: no adapter here has the shape of Ultravox's projector"

    def check(self) -> None:
        name = self.export.checkpoint.config(self.export.overrides).adapter.name
        reason = REASONS.get(name, "another shape than Ultravox's projector, as far as is known here")
        raise UserError(f"--format: found 'ultravox' for the adapter {name!r}, which has {reason}; expected hf or onnx")

    def write(self, folder: Path) -> str:
        raise AssertionError("`check` refuses every adapter")


FORMAT = UltravoxFormat
