"""The encoders and LLMs that are known by name, with their places and their shapes.

A shape is the part of a checkpoint's own `config.json` that decides the shapes of its weights. It is enough to build
the part without weights and without network, and a checkpoint is compared with it before it is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from speechllm_plugin.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class PartArch:
    """A published encoder or LLM."""

    part: str
    """The registered part that loads it."""
    path: str
    """Its hub id."""
    shape: Mapping[str, object]
    """Values of its `config.json`."""
    options: Mapping[str, object] = field(default_factory=dict)
    """Keys of the part's own configuration that differ from its defaults."""

    def hf_config(self) -> PretrainedConfig:
        """transformers' configuration of a model of this shape."""
        from transformers import AutoConfig  # imported only when needed: it takes seconds, and the names need none

        values: dict[str, Any] = dict(self.shape)
        return AutoConfig.for_model(**values)


def _whisper(path: str, dim: int, layers: int, heads: int, mels: int, **options: object) -> PartArch:
    shape = {
        "model_type": "whisper",
        "num_mel_bins": mels,
        "d_model": dim,
        "encoder_layers": layers,
        "encoder_attention_heads": heads,
        "encoder_ffn_dim": 4 * dim,
        "max_source_positions": 1500,
    }
    return PartArch("whisper", path, shape, options)


def _wav2vec2_large(model_type: str, path: str, *, conv_bias: bool, **shape: object) -> PartArch:
    """A large model of the family: 24 layers with the norm before each, 50 vectors a second."""
    sizes = {
        "model_type": model_type,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "conv_bias": conv_bias,
    }
    return PartArch("wav2vec2", path, {**sizes, **shape})


_CONFORMER = {"conv_depthwise_kernel_size": 31, "position_embeddings_type": "relative_key"}

ENCODER_ARCHS: dict[str, PartArch] = {
    "whisper_large_v3": _whisper("openai/whisper-large-v3", 1280, 32, 20, mels=128),
    # The encoder of large-v3, fine-tuned with a decoder of 4 layers.
    "whisper_large_v3_turbo": _whisper("openai/whisper-large-v3-turbo", 1280, 32, 20, mels=128),
    "whisper_base": _whisper("openai/whisper-base", 512, 6, 8, mels=80, dtype="float32"),
    "whisper_tiny_en": _whisper("openai/whisper-tiny.en", 384, 4, 6, mels=80, dtype="float32"),
    "seamless_m4t_v2": PartArch(
        "seamless_m4t_v2",
        "facebook/seamless-m4t-v2-large",
        {
            "model_type": "seamless_m4t_v2",
            "hidden_size": 1024,
            "speech_encoder_layers": 24,
            "speech_encoder_attention_heads": 16,
            "speech_encoder_intermediate_size": 4096,
            "feature_projection_input_dim": 160,
            "add_adapter": True,
            "num_adapter_layers": 1,
            "adaptor_kernel_size": 8,
            "adaptor_stride": 8,
            **_CONFORMER,
        },
    ),
    "w2v_bert": PartArch(
        "w2v_bert",
        "facebook/w2v-bert-2.0",
        {
            "model_type": "wav2vec2-bert",
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "feature_projection_input_dim": 160,
            "add_adapter": False,
            **_CONFORMER,
        },
    ),
    # Pretrained on Libri-Light; the path is its version that was fine-tuned on Librispeech.
    "wav2vec2_large_lv60": _wav2vec2_large("wav2vec2", "facebook/wav2vec2-large-960h-lv60-self", conv_bias=True),
    "hubert_large_ll60k": _wav2vec2_large("hubert", "facebook/hubert-large-ll60k", conv_bias=True),
    "wavlm_large": _wav2vec2_large(
        "wavlm", "microsoft/wavlm-large", conv_bias=False, num_buckets=320, max_bucket_distance=800
    ),
}
"""Speech encoders."""


def _causal(
    model_type: str,
    path: str,
    *,
    vocabulary: int,
    dim: int,
    layers: int,
    heads: int,
    kv_heads: int,
    ffn_dim: int,
    tied: bool,
    head_dim: int | None = None,
) -> PartArch:
    """:param head_dim: width of a head where it is not `dim / heads`; few configurations state it."""
    shape: dict[str, object] = {
        "model_type": model_type,
        "vocab_size": vocabulary,
        "hidden_size": dim,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ffn_dim,
        "tie_word_embeddings": tied,
    }
    if head_dim is not None:
        shape["head_dim"] = head_dim
    return PartArch("causal", path, shape)


def _mt5(path: str, *, dim: int, layers: int, heads: int, ffn_dim: int) -> PartArch:
    shape = {
        "model_type": "mt5",
        "vocab_size": 250112,
        "d_model": dim,
        "num_layers": layers,
        "num_decoder_layers": layers,
        "num_heads": heads,
        "d_kv": 64,
        "d_ff": ffn_dim,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }
    return PartArch("encoder_decoder", path, shape)


LLM_ARCHS: dict[str, PartArch] = {
    "mistral_7b": _causal(
        "mistral", "mistralai/Mistral-7B-Instruct-v0.3", vocabulary=32768, dim=4096, layers=32, heads=32, kv_heads=8,
        ffn_dim=14336, tied=False,
    ),
    "llama31_8b": _causal(
        "llama", "meta-llama/Llama-3.1-8B-Instruct", vocabulary=128256, dim=4096, layers=32, heads=32, kv_heads=8,
        ffn_dim=14336, tied=False,
    ),
    "llama32_1b": _causal(
        "llama", "meta-llama/Llama-3.2-1B-Instruct", vocabulary=128256, dim=2048, layers=16, heads=32, kv_heads=8,
        ffn_dim=8192, tied=True,
    ),
    "llama32_3b": _causal(
        "llama", "meta-llama/Llama-3.2-3B-Instruct", vocabulary=128256, dim=3072, layers=28, heads=24, kv_heads=8,
        ffn_dim=8192, tied=True,
    ),
    "qwen25_7b": _causal(
        "qwen2", "Qwen/Qwen2.5-7B-Instruct", vocabulary=152064, dim=3584, layers=28, heads=28, kv_heads=4,
        ffn_dim=18944, tied=False,
    ),
    "qwen3_06b": _causal(
        "qwen3", "Qwen/Qwen3-0.6B", vocabulary=151936, dim=1024, layers=28, heads=16, kv_heads=8, head_dim=128,
        ffn_dim=3072, tied=True,
    ),
    "qwen3_8b": _causal(
        "qwen3", "Qwen/Qwen3-8B", vocabulary=151936, dim=4096, layers=36, heads=32, kv_heads=8,
        ffn_dim=12288, tied=False,
    ),
    "gemma2_9b": _causal(
        "gemma2", "google/gemma-2-9b-it", vocabulary=256000, dim=3584, layers=42, heads=16, kv_heads=8, head_dim=256,
        ffn_dim=14336, tied=True,
    ),
    "gemma3_1b": _causal(
        "gemma3_text", "google/gemma-3-1b-it", vocabulary=262144, dim=1152, layers=26, heads=4, kv_heads=1,
        head_dim=256, ffn_dim=6912, tied=True,
    ),
    "smollm2_135m": _causal(
        "llama", "HuggingFaceTB/SmolLM2-135M-Instruct", vocabulary=49152, dim=576, layers=30, heads=9, kv_heads=3,
        ffn_dim=1536, tied=True,
    ),
    "mt0_small": _mt5("bigscience/mt0-small", dim=512, layers=8, heads=6, ffn_dim=1024),
    "mt0_xl": _mt5("bigscience/mt0-xl", dim=2048, layers=24, heads=32, ffn_dim=5120),
    "mt0_xxl_mt": _mt5("bigscience/mt0-xxl-mt", dim=4096, layers=24, heads=64, ffn_dim=10240),
}
"""LLMs."""

ADAPTER_ARCHS: dict[str, tuple[str, dict[str, object]]] = {
    # Two layers of mT0-XXL's width, which have 156 M parameters in SLM. Their feed-forward width is not published: with
    # 1024, and the projection from w2v-BERT's or Whisper's width, they have 155.3 M and 156.4 M.
    "slm": ("subsample", {"dim": 4096, "num_heads": 64, "ffn_dim": 1024, "output_projection": False}),
    # Settings of the code of the authors of arXiv 2409.17044 (github.com/Meetween/speechlmm, commit 1cec8b1).
    "cif_authors": ("cif", {"kernel": 3, "scale_eps": 1e-4}),
    "ctc_authors": ("ctc", {"detach": True}),
    # A window holds 17 of Whisper's frames, or 2 of SeamlessM4T's.
    "wlq_former_authors": ("wlq_former", {"window_seconds": 0.34, "input_projection": False, "output_norm": False}),
}
"""Named settings of adapters other than their defaults: the adapter, and those settings."""

PART_ARCHS: dict[str, dict[str, PartArch]] = {"encoder": ENCODER_ARCHS, "llm": LLM_ARCHS}
"""Architectures by kind of part."""


def find_part_arch(kind: str, name: str) -> PartArch:
    """
    :param kind: "encoder" or "llm".
    :raises UserError: no architecture has that name.
    """
    archs = PART_ARCHS[kind]
    if name not in archs:
        raise UserError(f"{kind}.arch: found {name!r}, expected null or one of {', '.join(archs)}")
    return archs[name]


def check_part_arch(kind: str, arch: str, part: str, config: object) -> None:
    """Compares a checkpoint's own `config.json` with the architecture that it should have; reads no weight.

    :param kind: "encoder" or "llm".
    :param part: name of the registered part that loads it.
    :param config: the part's own configuration, which names the checkpoint.
    :raises UserError: the checkpoint is of another model.
    """
    from speechllm_plugin.pretrained import Source, config_values

    known = find_part_arch(kind, arch)
    advice = f"set {kind}.arch to null if another model is meant"
    if part != known.part:
        raise UserError(f"{kind}.name: found {part!r}, expected {known.part!r} as {kind}.arch is {arch}; {advice}")
    source = Source.of(kind, str(vars(config)["path"]))
    expected = known.hf_config()
    values = config_values(source)
    # A config.json may leave out values that are transformers' defaults.
    defaults = type(expected)()
    for key, value in known.shape.items():
        here = values[key] if key in values else getattr(defaults, key)
        if here != value:
            raise UserError(
                f"{source} has {key} = {here!r}, expected {value!r} as {kind}.arch is {arch}; {advice}"
            )
