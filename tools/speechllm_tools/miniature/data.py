"""Speech and manifests of the miniature: every sentence in every language, as a transcript and as a translation."""

from __future__ import annotations

import random
from pathlib import Path

from speechllm_plugin.datasets.manifest import ManifestRow
from speechllm_tools.miniature.config import MiniatureConfig
from speechllm_tools.miniature.sentences import LANGUAGES, Meaning, make_meanings, say
from speechllm_tools.speech.folder import spoken_frames, summarise, write_spoken
from speechllm_tools.speech.synthesis import Clip, draw_clip
from speechllm_tools.speech.voices import voices_of

DIRECTIONS = (*((language, language) for language in LANGUAGES), ("en", "de"),
              *((language, "en") for language in LANGUAGES if language != "en"))  # fmt: skip
"""Languages of speech and text, as in Table III of arXiv 2409.17044."""


def plan_clips(config: MiniatureConfig) -> dict[str, list[tuple[str, Meaning, Clip]]]:
    """The clips of each split, each with its language and meaning, which depend only on the configuration."""
    # The tests come first, so that they stay the same when training grows.
    counts = {split: getattr(config, split) for split in ("test", "dev", "train")}
    plan: dict[str, list[tuple[str, Meaning, Clip]]] = {}
    for split, meanings in make_meanings(config.seed, counts).items():
        plan[split] = []
        for index, meaning in enumerate(meanings):
            for language in LANGUAGES:
                generator = random.Random(f"{config.seed} {split} {index} {language}")
                voice = generator.choice(voices_of(language))
                file = f"audio/{split}/{language}/{split}_{index:04d}_{language}.flac"
                plan[split].append((language, meaning, draw_clip(file, say(meaning, language), voice, generator)))
    return plan


def manifest_names() -> list[str]:
    return ["train", "dev", *(f"test_{_direction(*pair)}" for pair in DIRECTIONS)]


def write_data(folder: Path, config: MiniatureConfig, *, num_processes: int = 2) -> None:
    """Write the audio and the manifests: ``train.tsv`` and ``dev.tsv`` with all directions in them,
    ``test_de.tsv`` for recognition and ``test_de-en.tsv`` for translation. What exists is used again.

    :raises UserError: if ``folder`` holds other files, or the sentences cannot be made.
    """
    plan = plan_clips(config)
    clips = {split: [clip for _, _, clip in planned] for split, planned in plan.items()}
    write_spoken(folder, clips, lambda: _manifests(folder, plan), num_processes=num_processes)


def summarise_data(folder: Path) -> dict[str, tuple[int, float, int]]:
    """Number of rows, hours and number of voices of each manifest."""
    return summarise(folder, manifest_names())


def _manifests(folder: Path, plan: dict[str, list[tuple[str, Meaning, Clip]]]) -> dict[str, list[ManifestRow]]:
    manifests: dict[str, list[ManifestRow]] = {name: [] for name in manifest_names()}
    for split, planned in plan.items():
        for language, meaning, clip in planned:
            frames = spoken_frames(folder, clip)
            for source, target in DIRECTIONS:
                if source == language:
                    direction = _direction(source, target)
                    name = f"test_{direction}" if split == "test" else split
                    manifests[name].append(_row(clip, frames, meaning, source, target))
    return manifests


def _row(clip: Clip, frames: int, meaning: Meaning, source: str, target: str) -> ManifestRow:
    stem = Path(clip.file).stem
    return ManifestRow(
        id=stem if source == target else f"{stem}-{target}",
        audio=clip.file,
        n_frames=frames,
        tgt_text=say(meaning, target),
        src_text=clip.text,
        speaker=clip.voice,
        src_lang=source,
        tgt_lang=target,
        line=0,
    )


def _direction(source: str, target: str) -> str:
    return source if source == target else f"{source}-{target}"
