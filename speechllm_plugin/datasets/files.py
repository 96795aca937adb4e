"""A batch straight from audio files, without a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from speechllm_plugin.datasets.audio import SAMPLE_RATE, audio_key, read_audio, resolve
from speechllm_plugin.datasets.batch import SpeechTextBatch


def batch_of_files(audio: Sequence[Path | str], source_lang: str, target_lang: str | None) -> SpeechTextBatch:
    """
    :raises AudioError: a file is missing, is not audio, or holds no samples.
    """
    sources = [resolve(str(name), Path()) for name in audio]
    waveforms = [torch.from_numpy(read_audio(source)) for source in sources]
    names = [str(name) for name in audio]
    return SpeechTextBatch(
        ids=names,
        rows=list(range(len(names))),
        audio=names,
        audio_keys=[audio_key(source) for source in sources],
        seconds=[len(waveform) / SAMPLE_RATE for waveform in waveforms],
        texts=[""] * len(names),
        transcripts=[""] * len(names),
        source_langs=[source_lang] * len(names),
        target_langs=[target_lang or source_lang] * len(names),
        waveforms=list(waveforms),
        features=[None] * len(names),
    )
