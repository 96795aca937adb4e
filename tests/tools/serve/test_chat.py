"""`/v1/chat/completions`: the openai package against the real server, compared with what `ask` answers."""

from __future__ import annotations

import base64
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("espeakng_loader")
pytest.importorskip("openai")
pytest.importorskip("fastapi")

from speechllm_plugin.inference.transcriber import Transcriber, load_speech_llm
from tests.tools.serve.serving import Server

TURNS = [{"role": "user", "content": "turn it on"}, {"role": "assistant", "content": "it is on"}]


@pytest.fixture(scope="module")
def model(trained: Path) -> Transcriber:
    return load_speech_llm(trained, device="cpu")


def sound(file: Path) -> dict[str, Any]:
    data = base64.b64encode(file.read_bytes()).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": file.suffix[1:]}}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def asked(server: Server, *parts: dict[str, Any], before: tuple[dict[str, Any], ...] = (), **options: Any) -> Any:
    messages = [*before, {"role": "user", "content": list(parts)}]
    return server.client().chat.completions.create(model="tiny", messages=messages, **options)


def test_an_answer_is_what_ask_answers(server: Server, model: Transcriber, clips: list[Path]) -> None:
    whole = asked(server, text("Which room?"), sound(clips[0]), max_tokens=5)
    (choice,) = whole.choices
    assert [choice.message.content] == model.ask(clips[0], "Which room? <speech>", max_tokens=5) != [""]
    assert choice.message.role == "assistant" and choice.finish_reason == "length"
    assert whole.object == "chat.completion" and whole.model == "tiny" and whole.usage.completion_tokens == 5
    assert whole.usage.prompt_tokens > whole.usage.prompt_tokens_details.audio_tokens > 0
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 5
    # Everything at once: a system turn, turns in writing, a context, texts on both sides of the speech.
    before = ({"role": "system", "content": "Be brief."}, TURNS[0], {**TURNS[1], "content": [text("it is on")]})
    parts = (text("Now"), sound(clips[1]), text("which room?"))
    other = asked(server, *parts, before=before, max_completion_tokens=7, extra_body={"context": "kitchen"})
    assert [other.choices[0].message.content] == model.ask(
        clips[1], "Now <speech>\nwhich room?", history=TURNS, system="Be brief.", context="kitchen", max_tokens=7
    )
    assert other.usage.prompt_tokens > whole.usage.prompt_tokens


def test_earlier_turns_may_be_in_speech_too(server: Server, model: Transcriber, clips: list[Path]) -> None:
    before = ({"role": "user", "content": [text("Where?"), sound(clips[2])]}, TURNS[1])
    found = asked(server, text("And"), sound(clips[0]), before=before, max_tokens=5)
    history = [{"role": "user", "content": "Where? <speech>", "audio": str(clips[2])}, TURNS[1]]
    assert [found.choices[0].message.content] == model.ask(clips[0], "And <speech>", history=history, max_tokens=5)
    alone = asked(server, text("And"), sound(clips[0]), before=tuple(TURNS), max_tokens=5)
    assert found.usage.prompt_tokens_details.audio_tokens > alone.usage.prompt_tokens_details.audio_tokens


def test_samples_repeat_with_their_seed(server: Server, clips: list[Path]) -> None:
    texts = [
        asked(server, sound(clips[0]), temperature=2, seed=seed, top_p=0.9, max_tokens=8).choices[0].message.content
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_questions_at_once_share_batches_and_change_nothing(
    server: Server, model: Transcriber, clips: list[Path]
) -> None:
    questions = [(clips[number % 8], f"{'Which word? ' * (1 + number % 3)}{number}") for number in range(16)]
    expected = [model.ask(clip, f"{words} <speech>", max_tokens=4)[0] for clip, words in questions]
    before = [server.metric(f"speechllm_batch_size_{name}") for name in ("sum", "count")]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda pair: asked(server, text(pair[1]), sound(pair[0]), max_tokens=4), questions))
    assert [answer.choices[0].message.content for answer in answers] == expected
    assert len(set(expected)) > 4
    pieces, steps = (server.metric(f"speechllm_batch_size_{name}") - old
                     for name, old in zip(("sum", "count"), before, strict=True))  # fmt: skip
    assert pieces > 2 * steps > 0
    assert server.metric("speechllm_requests_under_way ") == 0


def test_a_stream_says_what_the_answer_says(server: Server, clips: list[Path], tmp_path: Path) -> None:
    whole = asked(server, sound(clips[2]), max_tokens=6)
    chunks = list(asked(server, sound(clips[2]), max_tokens=6, stream=True, stream_options={"include_usage": True}))
    choices = [chunk.choices[0] for chunk in chunks[:-1]]
    assert choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for choice in choices) == whole.choices[0].message.content
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == [whole.choices[0].finish_reason]
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"} and len({chunk.id for chunk in chunks}) == 1
    body = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": [sound(clips[2])]}]}
    status, events = posted(server, json.dumps(body), tmp_path)
    # An untrained system ends some answers, and is cut off in others.
    end = r'"finish_reason": "(stop|length)", "logprobs": null}]}\n\ndata: \[DONE\]\n\n$'
    assert status == 200 and re.search(end, events)


def posted(server: Server, body: str, folder: Path) -> tuple[int, str]:
    (folder / "body.json").write_text(body)
    return server.curl(
        "--data-binary", f"@{folder / 'body.json'}", "-H", "Content-Type: application/json",
        path="/v1/chat/completions",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "status", "expected"),
    [
        ({"model": "gpt"}, 404, "model: found 'gpt', expected tiny or whisper-1"),
        ({"max_tokens": 0}, 400, "max_tokens: found 0, expected a whole number from 1 to"),
        ({"max_tokens": True}, 400, "max_tokens: found true"),
        ({"temperature": "hot"}, 400, 'temperature: found "hot", expected a number from 0 to 2'),
        ({"n": 2}, 400, "n: found 2, expected 1, or none"),
        ({"tools": [{"type": "function"}]}, 400, "tools: found [{"),
        ({"beams": 2}, 400, "found the field 'beams', expected"),
        ({"messages": []}, 400, "messages: found []"),
        ({"messages": ["listen"]}, 400, "messages: found [\"listen\"], expected a list of"),
        ({"messages": [{"role": "user", "content": "listen"}]}, 400, "messages[0]: found no input_audio"),
        ({"messages": [{"role": "user", "content": ["SOUND", "SOUND"]}]}, 400, "found a second input_audio"),
        ({"messages": [{"role": "tool", "content": ["SOUND"]}]}, 400, 'messages[0].role: found "tool", expected user'),
        ({"messages": [{"role": "user", "content": ["SOUND"]}, TURNS[1]]}, 400, "a last message of the user's"),
        ({"messages": [TURNS[0], {**TURNS[1], "content": ["SOUND"]}, {"role": "user", "content": ["SOUND"]}]}, 400,
         "messages[1].content[0]: found speech, expected it in messages of the user alone"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}, "SOUND"]}]}, 400, 'found "image_url"'),
        ({"messages": [{"role": "user", "content": [text("a <speech>"), "SOUND"]}]}, 400, "the speech stands where"),
        ({"messages": [{"role": "user", "content": [text("a \ud800"), "SOUND"]}]}, 400, "half of a surrogate pair"),
        ({"messages": [TURNS[0], {**TURNS[1], "content": "\ufdd0"}, {"role": "user", "content": ["SOUND"]}]}, 400,
         "history: expected text without the code points"),
        ({"data": "*"}, 400, "input_audio.data: expected base64"),
        ({"data": ""}, 400, "input_audio: found an empty file"),
        ({"data": base64.b64encode(b"no sound at all, but a text").decode()}, 415, "found no audio (text)"),
        ({"data": "TRUNCATED"}, 400, "expected a whole file"),
        ({"data": "LONG"}, 400, "input_audio: found 31 s or more, expected at most 30 s"),
        ({"data": "HUGE"}, 413, "expected at most 2 MB"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(
    server: Server, clips: list[Path], tmp_path: Path, change: dict[str, Any], status: int, expected: str
) -> None:
    change = dict(change)
    part = sound(clips[0])
    data = change.pop("data", part["input_audio"]["data"])
    if data == "LONG":
        soundfile.write(tmp_path / "long.flac", np.zeros(31 * 16000), 16000)
        data = sound(tmp_path / "long.flac")["input_audio"]["data"]
    if data == "TRUNCATED":
        data = base64.b64encode(clips[0].read_bytes()[:20_000]).decode()
    part["input_audio"]["data"] = "A" * 4_000_000 if data == "HUGE" else data
    body = {"model": "tiny", "messages": [{"role": "user", "content": ["SOUND"]}], **change}
    found, answer = posted(server, json.dumps(body).replace('"SOUND"', json.dumps(part)), tmp_path)
    assert found == status, answer
    error = json.loads(answer)["error"]
    assert expected in error["message"] and "\n" not in error["message"], error
    assert set(error) == {"message", "type", "param", "code"} and str(tmp_path) not in error["message"]


def test_all_turns_together_have_a_longest_speech(server: Server, tmp_path: Path) -> None:
    """Two minutes, of turns none of which is longer than the window."""

    def turn(seconds: float) -> dict[str, Any]:
        file = tmp_path / f"{seconds}.flac"
        soundfile.write(file, np.tile([0.0, 0.01], round(8000 * seconds)), 16000)
        return sound(file)

    def chat(*seconds: float) -> tuple[int, str]:
        messages = [{"role": "user", "content": [turn(one)]} for one in seconds]
        messages[1:] = [one for later in messages[1:] for one in (TURNS[1], later)]
        status, answer = posted(
            server, json.dumps({"model": "tiny", "messages": messages, "max_tokens": 2}), tmp_path
        )
        return status, "" if status == 200 else json.loads(answer)["error"]["message"]

    assert chat(30, 30, 30, 29.5) == chat(30, 30, 30, 30) == (200, "")
    # By the last turn, and by one before it.
    for seconds, found in (((30, 30, 30, 29.5, 0.75), "120.2 s"), ((30, 30, 30, 20, 12, 1), "122.0 s")):
        message = f"messages: found {found} of speech or more in all turns, expected at most 120 s"
        assert chat(*seconds) == (400, message)
    assert chat(30, 31) == (400, "input_audio: found 31 s or more, expected at most 30 s")


def test_a_body_that_is_no_json_is_refused(server: Server, tmp_path: Path) -> None:
    for body in ("{", "[1]", "[" * 100_000, "\udcff".encode("utf-8", "surrogatepass").decode("latin-1")):
        status, answer = posted(server, body, tmp_path)
        assert status == 400 and "found" in json.loads(answer)["error"]["message"], answer
    status, answer = server.curl("-d", "{}", path="/v1/chat/completions")
    assert status == 400 and "expected application/json" in answer
