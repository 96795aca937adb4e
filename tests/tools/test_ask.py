"""`speechllm ask`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from speechllm_plugin.scoring.report import read_hypotheses
from tests.commands import Commands, System


def test_anything_can_be_asked(commands: Commands, system: System, trained: Path, tmp_path: Path) -> None:
    audio = sorted(system.corpus.glob("*.wav"))[:4]
    ask = ("ask", "--checkpoint", trained, "--max-tokens", 4, "--instruction")
    question = (*ask, "Which room? <speech>", "--context", "kitchen", *audio)
    answers = commands.speechllm(*question, "--batch-size", 1).ok().stdout
    assert [line.split("\t")[0] for line in answers.splitlines()] == [str(file) for file in audio]
    assert commands.speechllm(*question, "--batch-size", 3).ok().stdout == answers
    (tmp_path / "turns.json").write_text('[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]')
    assert commands.speechllm(*question, "--history", tmp_path / "turns.json").ok().stdout != answers
    # A turn in speech, whose file lies beside the turns; in a manifest the same.
    turns = [{"role": "user", "audio": "before.wav"}, {"role": "assistant", "content": "b"}]
    shutil.copy(system.corpus / "train_9.flac", tmp_path / "before.wav")
    (tmp_path / "turns.json").write_text(json.dumps(turns))
    heard = commands.speechllm(*question, "--history", tmp_path / "turns.json").ok().stdout
    assert heard != answers
    rows = [f"{number}\t{file}\tWhich room? <speech>\tkitchen\t{json.dumps(turns)}\tanswer"
            for number, file in enumerate(audio)]  # fmt: skip
    (tmp_path / "rows.tsv").write_text("\n".join(["id\taudio\tinstruction\tcontext\thistory\ttask", *rows]) + "\n")
    commands.recipe(
        "generate", tmp_path / "out", "--checkpoint", trained, "--config", "dataset.split=test",
        f"dataset.config_overrides.manifests.test={tmp_path / 'rows.tsv'}", "decoding.tokens_per_second=0",
        "decoding.extra_tokens=4",
    ).ok()  # fmt: skip
    written = [" ".join(row.hypothesis.split()) for row in read_hypotheses(tmp_path / "out/hypotheses.tsv")]
    assert written == [line.split("\t")[1] for line in heard.splitlines()]
    (tmp_path / "before.wav").unlink()
    lost = commands.speechllm(*question, "--history", tmp_path / "turns.json").user_error()
    assert lost.startswith(f"--history: {tmp_path / 'before.wav'}: found no such file")
    assert commands.speechllm(*question, "--system", "Answer in one word of your own.").ok().stdout != answers
    some = commands.speechllm(*ask, "Which room?", audio[0], tmp_path / "lost.wav")
    assert some.status == 2 and some.stdout.startswith(f"{audio[0]}\t")
    assert f"error: {tmp_path / 'lost.wav'}: found no such file" in some.stderr
    (tmp_path / "turns.json").write_text("[]x")
    for options, message in (
        (("<speech> <speech>", audio[0]), "--instruction: expected one place for the speech"),
        (("a", "--history", tmp_path / "turns.json", audio[0]), "--history: expected [{"),
        (("a", "--system", "<speech>", audio[0]), "--system: expected text without <speech>"),
        (("a", "--context", "@lost.txt", audio[0]), "--context: cannot read lost.txt"),
        (("a", "--max-tokens", 0, audio[0]), "--max-tokens: found 0, expected at least 1"),
    ):
        assert commands.speechllm(*ask, *options).user_error().startswith(message)
