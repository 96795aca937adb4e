"""A clip has its task: from its row to its score."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch

from speechllm_plugin.datasets.manifest import read_manifest, write_manifest
from speechllm_plugin.datasets.plan import BatchLimits
from speechllm_plugin.datasets.reader import ReadOptions, SpeechTextReader
from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from speechllm_plugin.datasets.utterances import Utterances
from speechllm_plugin.errors import UserError
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.prompts import PromptConfig
from speechllm_plugin.scoring.report import Hypothesis, read_hypotheses, score, write_hypotheses
from speechllm_plugin.tasks import api
from speechllm_plugin.tasks.api import Task, register, task_names, task_of_row
from tests.commands import environment
from tests.waiting import LONGEST

HEADER = "id\taudio\ttgt_text\tsrc_text\tsrc_lang\ttgt_lang\ttask\n"
ROWS = (
    "asr\tx.wav\tone two\t\ten\ten\t\n"
    "st\tx.wav\teins zwei\tone two\ten\tde\t\n"
    "heard\tx.wav\teins zwei\tone two\ten\tde\ttranscribe\n"
    "said\tx.wav\tyes\tis it late\ten\ten\tanswer\n"
)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "x.wav", torch.randn(4000).clamp(-1, 1).numpy() * 0.1, 16000)
    (tmp_path / "rows.tsv").write_text(HEADER + ROWS)
    return tmp_path / "rows.tsv"


def read(manifest: Path) -> Utterances:
    return SpeechTextDataset(SpeechTextConfig(manifests={"test": str(manifest)})).read("test")


def test_a_row_may_state_its_task_and_else_the_languages_tell(manifest: Path) -> None:
    rows = read(manifest)
    assert [task_of_row(*row.asked).name for row in rows] == ["transcribe", "translate", "transcribe", "answer"]
    # What is to be transcribed has the transcript for its text, in the language of the speech.
    assert [(row.row.tgt_text, row.target_lang) for row in rows] == [
        ("one two", "en"), ("eins zwei", "de"), ("one two", "en"), ("yes", "en")
    ]
    # An instruction for answers is for the rows that state nothing.
    prompt = PromptConfig(answer="answer <speech>")
    assert [prompt.task_of(*row.asked).name for row in rows] == ["answer", "answer", "transcribe", "answer"]


def test_the_clips_of_a_batch_carry_it_to_their_prompts(manifest: Path, tiny_config: SpeechLlmConfig) -> None:
    model = create_speech_llm(tiny_config)
    options = ReadOptions(limits=BatchLimits(8, None), shuffle_seed=None, max_seconds=None)
    (batch,) = next(SpeechTextReader(read(manifest), options))
    prompts = dict(zip(batch.ids, model.prompts_of(batch), strict=True))
    assert prompts["asr"] == prompts["heard"] == model.prompts.render("en", "en")
    assert prompts["st"] == model.prompts.render("en", "de")
    assert len({*prompts.values()}) == 3


def test_a_manifest_keeps_its_tasks(manifest: Path, tmp_path: Path) -> None:
    rows = read_manifest(manifest)
    write_manifest(tmp_path / "again.tsv", rows)
    assert read_manifest(tmp_path / "again.tsv") == rows
    write_manifest(tmp_path / "without.tsv", [replace(row, task="") for row in rows])
    assert "task" not in (tmp_path / "without.tsv").read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("a\tx.wav\tyes\t\ten\ten\tsing", "line 2, column 'task': found 'sing', expected one of answer, transcribe"),
        ("a\tx.wav\tyes\t\ten\ten\ttranslate", "line 2, id a, column 'task': found 'translate' into the language of"),
        ("a\tx.wav\tja\t\ten\tde\ttranscribe", "line 2, id a, column 'src_text': found '', expected what is said"),
    ],
)
def test_a_task_that_cannot_be(manifest: Path, row: str, expected: str) -> None:
    manifest.write_text(f"{HEADER}{row}\n")
    with pytest.raises(UserError) as caught:
        read(manifest)
    assert expected in str(caught.value)


ANSWER = Hypothesis("a", "Yes, it is.", "yes it is", "a.wav", 1.0, "en", "en", task="answer")


def test_an_answer_is_not_scored_as_a_transcription(tmp_path: Path) -> None:
    wrong = replace(ANSWER, id="b", hypothesis="no")
    spoken = Hypothesis("c", "one two", "one too", "c.wav", 1.0, "en", "en", task="transcribe")
    scores = score([ANSWER, wrong, spoken])
    assert scores["answers"]["utterances"] == 2 and scores["answers"]["exact"] == 0.5
    assert {name: scores["answers"][name] for name in ("f1", "refusals", "words")} == {
        "f1": 0.5, "refusals": 0, "words": 2
    }
    assert scores["asr"]["utterances"] == 1 and scores["asr"]["words"] == 2
    assert score([spoken])["asr"] == scores["asr"]
    assert score([ANSWER]).keys() & {"asr", "st", "answers"} == {"answers"}
    # The file of hypotheses is all that scoring needs, today's and one from before there was the column.
    write_hypotheses(tmp_path / "h.tsv", [ANSWER, wrong, spoken])
    assert score(read_hypotheses(tmp_path / "h.tsv")) == scores
    lines = (tmp_path / "h.tsv").read_text().splitlines()
    (tmp_path / "old.tsv").write_text("".join("\t".join(line.split("\t")[:-2]) + "\n" for line in lines))
    assert [row.task for row in read_hypotheses(tmp_path / "old.tsv")] == [""] * 3
    (tmp_path / "h.tsv").write_text("\n".join(lines).replace("answer", "sing") + "\n")
    with pytest.raises(UserError, match=r"line 2, column 'task': found 'sing', expected one of"):
        read_hypotheses(tmp_path / "h.tsv")


def test_another_package_adds_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one place: prompts and checks know it by what it says of itself."""
    task_names()
    monkeypatch.setattr(api, "_tasks", dict(api._tasks))
    summarise = register(Task("summarise", "sum up in {target}", ("target",), False, "translation"))
    assert task_of_row("en", "en", "summarise") == summarise
    assert PromptConfig().instruction("en", "de", summarise) == "<speech>\nsum up in German"
    PromptConfig().check()
    register(replace(summarise, name="broken", instruction="sum up in {tongue}"))
    with pytest.raises(UserError, match=r"^prompt\.broken: found placeholder \{tongue\}, expected \{target\}"):
        PromptConfig().check()
    with pytest.raises(ValueError, match="task 'summarise' is registered twice"):
        register(replace(summarise, names=()))


TWO_THREADS = """
import importlib, threading, time
from speechllm_plugin.tasks import api
slow = importlib.import_module
def import_module(name):
    time.sleep(0.3)
    return slow(name)
api.import_module = import_module
first = threading.Thread(target=api.task_names)
first.start()
time.sleep(0.1)
print(*api.task_names())
"""


def test_a_thread_that_asks_meanwhile_waits_for_all_tasks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWO_THREADS], env=environment(), check=True, capture_output=True, text=True,
        timeout=LONGEST,
    )
    assert done.stdout.split() == ["answer", "transcribe", "translate"]
