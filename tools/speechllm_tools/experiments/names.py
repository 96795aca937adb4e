"""Requests with rare names, which are invented so that no model has ever read or heard them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_tools.demo.data import plan_split, write_clips
from speechllm_tools.demo.launch import num_processes
from speechllm_tools.demo.sentences import PHRASES, TOPICS, make_sentences
from speechllm_tools.speech import voices

TRAIN, TEST = "train", "test"
_NAMES = {TRAIN: 600, TEST: 100}
"""Names invented for each split; no name is in both."""
_SLOTS = ("artist", "city", "contact")
"""Slots of the demo's grammar that the names fill."""
_SEED = 2

# espeak-ng pronounces these spellings in only one way.
_ONSETS = ("b", "br", "d", "dr", "f", "g", "k", "kr", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "z")
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("", "", "l", "m", "n", "r", "s")


def write_names(folder: Path, counts: dict[str, int]) -> dict[str, Path]:
    """Speaks requests into ``folder/{split}.tsv`` with voices that the demo was trained on.

    :param counts: number of requests of each split.
    :returns: the file of each split's names, one name a line.
    """
    every = make_names(sum(_NAMES.values()))
    names = {TEST: every[: _NAMES[TEST]], TRAIN: every[_NAMES[TEST] :]}
    topics = {
        topic: kept
        for topic, templates in TOPICS.items()
        if (kept := [template for template in templates if any(f"{{{slot}}}" in template for slot in _SLOTS)])
    }
    plan = {}
    for split, count in counts.items():
        phrases = {**PHRASES, **dict.fromkeys(_SLOTS, names[split])}
        sentences = make_sentences(_SEED, {split: count}, topics, phrases)[split]
        plan[split] = plan_split(split, sentences, voices.SEEN, _SEED)
    write_clips(folder, plan, num_processes=num_processes())
    files = {split: folder / f"{split}.names.txt" for split in counts}
    for split, file in files.items():
        write_text_atomically(file, "".join(f"{name}\n" for name in names[split]))
    return files


def make_names(count: int) -> Sequence[str]:
    """The first `count` names of one fixed sequence."""
    generator = random.Random(_SEED)
    names: dict[str, None] = {}
    while len(names) < count:
        syllables = [generator.choice(_ONSETS) + generator.choice(_VOWELS) for _ in range(generator.choice((2, 3)))]
        names["".join(syllables) + generator.choice(_CODAS)] = None
    return list(names)
