"""The settings of decoding, and a hypothesis. Imports no torch, so that a command refuses a wrong value at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace

from speechllm_plugin.configuration.checked import Checked
from speechllm_plugin.configuration.structure import structure

TOKENS_PER_SECOND = 12.0
"""Default rate of the length limit: fast English has about 5 words a second, some 8 tokens."""


@dataclass(kw_only=True)
class DecodingConfig(Checked):
    beam_size: int = 1
    """Hypotheses that are kept at each step. 1 = greedy."""
    tokens_per_second: float | None = None
    """Length limit of a hypothesis, in tokens per second of audio, beside `extra_tokens`. None = derived from the
    training references and saved with the run, since tokenizers differ: SmolLM2's needs about 4 tokens for a second of
    English and 40 for one of Burmese (`speechllm_plugin.llms.limits`)."""
    extra_tokens: int = 16
    """Length limit of a hypothesis, in tokens, beside `tokens_per_second`."""
    length_penalty: float = 1.0
    """For beams: a hypothesis is scored by the sum of its log probabilities divided by `length ** length_penalty`.
    Above 1 favours long hypotheses, below 1 short ones."""
    temperature: float = 0.0
    """0 = always the likeliest token. Above 0 tokens are sampled, with logits divided by this temperature. The samples
    of a clip depend on its id and on `seed`, never on its batch."""
    top_k: int = 0
    """For sampling: only this many of the likeliest tokens. 0 = all."""
    top_p: float = 1.0
    """For sampling: only the likeliest tokens that together have this probability (arXiv 1904.09751). 1 = all."""
    seed: int = 0
    """Seed of the sampling."""
    repetition_penalty: float = 1.0
    """Above 1 discourages tokens that the hypothesis already has (arXiv 1909.05858). 1 = off."""
    no_repeat_ngram_size: int = 0
    """No n-gram of this many tokens occurs twice in a hypothesis. 0 = off."""
    max_compression_ratio: float | None = None
    """A hypothesis whose text zlib compresses by more than this factor is a loop: it is counted and decoded again with
    `no_repeat_ngram_size` 3. 2.4 suits speech (arXiv 2212.04356, section 4.5). None = loops are kept."""

    no_speech_level: float | None = None
    """A clip whose loudest 0.1 s is below this level, in dB relative to full scale, counts as silence: its text is
    empty. -60 catches digital silence and a quiet room with a good microphone. None = off."""
    no_speech_probability: float | None = None
    """A text counts as made up, and becomes empty, if the geometric mean of its tokens' probabilities is below this.
    arXiv 2212.04356, section 4.5, uses 0.37 together with a measure of silence of its own. It costs one more forward
    pass over each text. None = off."""
    no_speech_blank_share: float | None = None
    """A clip counts as having no speech if the CTC head labels at least this share of its frames as blank. 1 = all of
    them. Needs an adapter with a CTC head on its frames. None = off."""

    def problems(self) -> Iterator[str]:
        # The upper ends keep a score finite in float32 and a length an integer of 64 bits.
        limits: tuple[tuple[str, float, float], ...] = (
            ("beam_size", 1, 1000), ("tokens_per_second", 0, 1000), ("extra_tokens", 1, 1_000_000),
            ("length_penalty", -10, 10), ("temperature", 0, 1000), ("top_k", 0, math.inf),
            ("repetition_penalty", 0.01, 100), ("no_repeat_ngram_size", 0, math.inf),
            ("no_speech_level", -200, 0), ("no_speech_probability", 0, 1),
            ("no_speech_blank_share", 0, 1),
        )  # fmt: skip
        for name, least, most in limits:
            if (value := getattr(self, name)) is not None and not least <= value <= most:
                bounds = f"at least {least}" + ("" if math.isinf(most) else f" and at most {most}")
                yield f"{name}: found {value}, expected {bounds}"
        if 0 < self.temperature < 1e-4:
            yield f"temperature: found {self.temperature}, expected 0 or at least 0.0001"
        if not 0 < self.top_p <= 1:
            yield f"top_p: found {self.top_p}, expected above 0 and at most 1"
        if self.max_compression_ratio is not None and not self.max_compression_ratio > 1:
            yield f"max_compression_ratio: found {self.max_compression_ratio}, expected above 1"
        if self.temperature > 0 and self.beam_size > 1:
            yield f"beam_size: found {self.beam_size} with a temperature above 0, expected 1: a beam is not sampled"
        if self.temperature == 0 and self.top_k > 0:
            yield f"top_k: found {self.top_k} with a temperature of 0, expected 0, or a temperature above 0"
        if self.temperature == 0 and self.top_p < 1:
            yield f"top_p: found {self.top_p} with a temperature of 0, expected 1, or a temperature above 0"

    @property
    def rate(self) -> float:
        """`tokens_per_second`, or its default where the training has set none."""
        return TOKENS_PER_SECOND if self.tokens_per_second is None else self.tokens_per_second

    def limit(self, seconds: float) -> int:
        """The most tokens that the hypothesis of a clip may have."""
        return int(self.extra_tokens + self.rate * seconds)

    def changed(self, values: object) -> DecodingConfig:
        """This configuration with other values for some of its keys, checked.

        :param values: a mapping of keys, or None. A `tokens_per_second` of None changes nothing.
        :raises UserError: a key is unknown, or a value is of another type or outside its range.
        """
        if isinstance(values, dict):
            given = {key: value for key, value in values.items() if (key, value) != ("tokens_per_second", None)}
            values = {**asdict(self), **given}
        changed: DecodingConfig = self if values is None else structure(DecodingConfig, values, "decoding")
        changed.check("decoding")
        return changed

    def described(self, run: DecodingConfig | None = None) -> str:
        """Every key with its value, for a log.

        :param run: the training run's configuration, if the text should name the keys that differ from it.
        """
        values = asdict(self)
        text = ", ".join(f"{name}={value}" for name, value in values.items())
        if run is None:
            return text
        changes = [f"{name}={value}" for name, value in values.items() if value != getattr(run, name)]
        return f"as in the training run{', but for ' if changes else ''}{', '.join(changes)} ({text})"


@dataclass(frozen=True)
class Generated:
    """One hypothesis."""

    tokens: list[int]
    """Tokens without the end of the turn."""
    cut: bool
    """Whether the length limit ended it."""
    speech_vectors: int = 0
    """Embeddings that the audio became."""
    decoded_again: bool = False
    """Whether it replaces a hypothesis that repeated itself; see `DecodingConfig.max_compression_ratio`."""
    log_probability: float | None = field(default=None, compare=False)
    """Log-probability of the tokens by the LLM's own logits, in nats, where the search computed it for each row
    alone."""
    no_speech: str = ""
    """Why the guard against silence empties its text; empty = it does not."""


def without_guards(config: DecodingConfig) -> DecodingConfig:
    """The configuration without the guards against texts for silence, which judge transcripts and not answers."""
    return replace(config, no_speech_level=None, no_speech_probability=None, no_speech_blank_share=None)
