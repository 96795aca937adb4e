"""`speechllm bench whisper-padding` on a tiny random Whisper and clips made on the spot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from speechllm_tools.bench.whisper_padding import NORMALIZER, OPTIONS, PADDED, decode
from speechllm_tools.cli import main

from speechllm_plugin.cascade.recognizers.whisper import WhisperRecognizerConfig, create_whisper_recognizer
from speechllm_plugin.datasets.audio import SAMPLE_RATE, read_audio, resolve
from speechllm_plugin.datasets.manifest import read_manifest
from speechllm_plugin.encoders.whisper import WhisperConfig, create_whisper
from speechllm_plugin.pretrained import freeze
from speechllm_plugin.scoring.wer import word_errors
from tests.plugin.recognizer_checkpoints import write_whisper

CLIPS = 3


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, tiny_manifest: Path) -> Path:
    """A demo's folder as far as the benchmark needs it."""
    root = tmp_path_factory.mktemp("demo")
    shutil.copytree(tiny_manifest, root / "data")
    (root / "models" / "whisper-tiny.en").mkdir(parents=True)
    write_whisper(root / "models" / "whisper-tiny.en", multilingual=False)
    return root


def bench(root: Path, *argv: object) -> int:
    return main(["bench", "whisper-padding", "--root", str(root), "--device", "cpu", *map(str, argv)])


@pytest.fixture(scope="module")
def document(demo: Path) -> dict[str, Any]:
    assert bench(demo, "--clips", CLIPS, "--json", demo / "out.json", "--output", demo / "out.md") == 0
    found: dict[str, Any] = json.loads((demo / "out.json").read_text(encoding="utf-8"))
    return found


def waveforms(demo: Path) -> list[torch.Tensor]:
    rows = read_manifest(demo / "data" / "dev.tsv")[:CLIPS]
    return [torch.from_numpy(read_audio(resolve(row.audio, demo / "data"))) for row in rows]


def test_vectors_are_counted_per_second_of_audio(demo: Path, document: dict[str, Any]) -> None:
    samples = [len(waveform) for waveform in waveforms(demo)]
    seconds = sum(samples) / SAMPLE_RATE
    begun = sum(-(-length // 320) for length in samples) / seconds
    found = {name: result["vectors_per_second"] for name, result in document["results"].items()}
    assert found == pytest.approx({PADDED: 1500 * CLIPS / seconds, "trim: true": begun, "pad_to_30s: false": begun})


def test_time_is_a_ratio_to_the_padded_case(document: dict[str, Any]) -> None:
    assert document["results"][PADDED]["encoder_time"] == 1.0
    assert all(result["encoder_time"] > 0 < result["encoder_seconds"] for result in document["results"].values())


def test_each_options_features_are_decoded(demo: Path, document: dict[str, Any]) -> None:
    """The padded ones to what the recogniser says itself, within the limit; the others to something else."""
    model = str(demo / "models" / "whisper-tiny.en")
    recognizer = freeze(create_whisper_recognizer(WhisperRecognizerConfig(path=model, dtype="float32")))
    hypotheses = document["hypotheses"]
    assert hypotheses.keys() == OPTIONS.keys()
    expected = recognizer.recognize(waveforms(demo), ["en"] * CLIPS)
    for one, whole in zip(hypotheses[PADDED], expected, strict=True):
        assert one["text"] and whole.text.startswith(one["text"])  # as far as the limit lets it
    assert len({json.dumps(texts) for texts in hypotheses.values()}) == 3
    references = [row.tgt_text for row in read_manifest(demo / "data" / "dev.tsv")[:CLIPS]]
    for name, values in OPTIONS.items():
        encoder = freeze(create_whisper(WhisperConfig(path=model, dtype="float32", **values)))
        found = []
        for waveform in waveforms(demo):
            features, _ = encoder(waveform.unsqueeze(0), torch.tensor([len(waveform)]))
            found.append(decode(recognizer, features, len(waveform) / SAMPLE_RATE))
        assert hypotheses[name] == [{"text": one.text, "cut": one.cut} for one in found]
        scores = document["results"][name]
        assert scores["cut_hypotheses"] == sum(one.cut for one in found)
        assert scores["asr"]["wer"] == word_errors(references, [one.text for one in found], NORMALIZER).wer


def test_a_loop_ends_after_a_length_that_follows_from_the_clips(demo: Path) -> None:
    model = str(demo / "models" / "whisper-tiny.en")
    recognizer = freeze(create_whisper_recognizer(WhisperRecognizerConfig(path=model, dtype="float32")))
    recognizer.model.generation_config.suppress_tokens.append(recognizer.model.generation_config.eos_token_id)
    features = torch.randn(1, 50, 32, generator=torch.Generator().manual_seed(0))
    endless = [decode(recognizer, features, seconds) for seconds in (0.0, 0.25)]
    assert all(one.cut for one in endless)
    lengths = [len(recognizer.tokenizer.encode(one.text, add_special_tokens=False)) for one in endless]
    assert lengths[0] < lengths[1]


def test_the_page_has_the_table_and_what_made_it(demo: Path, document: dict[str, Any]) -> None:
    page = (demo / "out.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows] == [f"| `{name}`" for name in OPTIONS]
    for row, result in zip(rows, document["results"].values(), strict=True):
        assert row[1] == f"{result['vectors_per_second']:.1f}"
        assert row[3].startswith(f"{100 * result['asr']['wer']:.1f} [")
        assert row[4] == f"{result['cut_hypotheses']} of {CLIPS} |"
    assert f"    speechllm bench whisper-padding --root {demo} --clips {CLIPS} --device cpu --json " in page
    provenance = document["provenance"]
    assert f"transformers {provenance['versions']['transformers']}, commit " in page
    assert set(provenance["checkpoint"]["sha256"]) >= {"model.safetensors", "tokenizer.json"}
    assert [entry["path"] for entry in provenance["manifests"]] == [str(demo / "data" / "dev.tsv")]
    assert document["machine"]["device"] == "cpu"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--clips", "0"), ("--clips: found 0, expected at least 1",)),
        (("--root", "no/such"), ("--root: found no no/such/data/dev.tsv, expected what `speechllm demo` prepares",)),
        (("--output", "no/such/out.md"), ("--output: the folder of no/such/out.md does not exist",)),
    ],
)
def test_mistakes_are_one_line(
    demo: Path, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert bench(demo, *argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("speechllm bench: error: ") and err.count("\n") == 1
    for word in words:
        assert word in err
