"""The demo's data: ordinary manifests and FLAC files of sentences that espeak-ng speaks in many voices."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechllm_plugin.datasets.manifest import ManifestRow
from speechllm_tools.demo.sentences import make_sentences
from speechllm_tools.speech import voices
from speechllm_tools.speech.folder import spoken_frames, summarise, write_spoken
from speechllm_tools.speech.synthesis import Clip, draw_clip

VOICES = {"test_seen": voices.SEEN, "test_unseen": voices.UNSEEN, "dev": voices.SEEN, "train": voices.SEEN}
"""The voices of each split. The test splits come first, so that they stay the same when training grows."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Size and randomness of the data."""

    train: int = 4000
    """Clips to train on, about 2.8 s each: 3 h."""

    dev: int = 64
    """Clips to watch the training with."""

    test_seen: int = 150
    """Clips of new sentences, by voices of the training."""

    test_unseen: int = 150
    """Clips of new sentences, by voices that training has not heard."""

    seed: int = 2
    """Seed of everything random: sentences, voices, speeds, pitches."""

    @property
    def num_clips(self) -> int:
        return self.train + self.dev + self.test_seen + self.test_unseen


def plan_clips(config: DataConfig) -> dict[str, list[Clip]]:
    """The clips of each split, which depend only on the configuration."""
    splits = make_sentences(config.seed, {split: getattr(config, split) for split in VOICES})
    return {split: plan_split(split, sentences, VOICES[split], config.seed) for split, sentences in splits.items()}


def plan_split(split: str, sentences: Sequence[str], voices: Sequence[str], seed: int) -> list[Clip]:
    clips = []
    for index, text in enumerate(sentences):
        # Text seeds are hashed by SHA-512, so that a clip's random numbers do not depend on the size of its split.
        generator = random.Random(f"{seed} {split} {index}")
        voice = voices[index % len(voices)]
        clips.append(draw_clip(f"audio/{split}/{split}_{index:05d}.flac", text, voice, generator))
    return clips


def write_data(folder: Path, config: DataConfig, *, num_processes: int = 2) -> None:
    """
    :raises UserError: as `write_clips`, or the sentences cannot be made.
    """
    write_clips(folder, plan_clips(config), num_processes=num_processes)


def write_clips(folder: Path, plan: Mapping[str, Sequence[Clip]], *, num_processes: int) -> None:
    """Write ``folder/{split}.tsv`` and the audio that they name. The files of an interrupted call are used again, and a
    complete folder is not changed.

    :raises UserError: if ``folder`` holds other files.
    """
    write_spoken(
        folder, plan,
        lambda: {split: [_manifest_row(folder, clip) for clip in clips] for split, clips in plan.items()},
        num_processes=num_processes,
    )  # fmt: skip


def summarise_data(folder: Path) -> dict[str, tuple[int, float, int]]:
    """Number of clips, hours and number of voices of each split, by its manifest."""
    return summarise(folder, list(VOICES))


def _manifest_row(folder: Path, clip: Clip) -> ManifestRow:
    return ManifestRow(
        id=Path(clip.file).stem,
        audio=clip.file,
        n_frames=spoken_frames(folder, clip),
        tgt_text=clip.text,
        src_text="",
        speaker=clip.voice,
        src_lang="en",
        tgt_lang="en",
        line=0,
    )
