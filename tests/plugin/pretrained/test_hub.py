"""Models by hub id: the cache, partial downloads, and what the hub refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers

from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained import (
    Source,
    load_preprocessor,
    load_tokenizer,
    source_identity,
)
from speechllm_plugin.workarounds.transformers_versions import VERSION
from tests.plugin.pretrained.checkpoints import KEY, error_of, load_encoder, shard

ROOT = Path(__file__).parents[3]


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, which cannot be reached."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    if VERSION < 5:
        monkeypatch.setattr(transformers.utils.hub, "TRANSFORMERS_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put_in_cache(cache: Path, source: Path, commit: str, *names: str) -> Path:
    """A revision of `org/name` of which only some files were downloaded."""
    model = cache / "models--org--name"
    folder = model / "snapshots" / commit
    folder.mkdir(parents=True)
    for name in names:
        shutil.copy(source / name, folder / name)
    (model / "refs").mkdir(exist_ok=True)
    (model / "refs" / "main").write_text(commit)
    return folder


def partial_download(folder: Path, lacks: str) -> str:
    return (
        f"{KEY}: cannot load org/name: the hub cannot be reached and only part of the model was downloaded: {folder} "
        f"lacks {lacks}; fetch it where there is access with `hf download org/name --local-dir DIRECTORY` and give "
        "that directory"
    )


def test_a_model_in_the_cache_of_the_hub(hub_cache: Path, tiny_whisper: Path) -> None:
    put_in_cache(hub_cache, tiny_whisper, "abc", "config.json", "model.safetensors")
    expected = load_encoder(tiny_whisper).state_dict()
    found = load_encoder(Path("org/name")).state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_a_download_without_weights(hub_cache: Path, tiny_whisper: Path) -> None:
    folder = put_in_cache(hub_cache, tiny_whisper, "abc", "config.json")
    assert error_of(Path("org/name")) == partial_download(folder, "model.safetensors or pytorch_model.bin")
    with pytest.raises(UserError) as caught:
        load_preprocessor(Source("org/name", KEY))
    assert str(caught.value) == partial_download(folder, "preprocessor_config.json")


def test_a_download_without_a_shard(hub_cache: Path, copy: Path) -> None:
    shard(copy, "model.safetensors")
    names = [file.name for file in copy.iterdir() if "00002" not in file.name]
    folder = put_in_cache(hub_cache, copy, "abc", *names)
    assert error_of(Path("org/name")) == partial_download(folder, "model-00002-of-00003.safetensors")


def test_a_download_without_a_tokenizer(hub_cache: Path, tiny_llm: Path) -> None:
    folder = put_in_cache(hub_cache, tiny_llm, "abc", "config.json", "model.safetensors")
    with pytest.raises(UserError) as caught:
        load_tokenizer(Source("org/name", KEY))
    lacks = "tokenizer.json or tokenizer.model or spiece.model or vocab.json"
    assert str(caught.value) == partial_download(folder, lacks)


def test_a_downloaded_model_that_this_transformers_does_not_know(hub_cache: Path, copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "later"}))
    put_in_cache(hub_cache, copy, "abc", "config.json")
    assert f"{KEY}: org/name holds a model of type 'later', written by " in error_of(Path("org/name"))


def test_identity_follows_the_commit(hub_cache: Path, tiny_whisper: Path) -> None:
    """Two revisions of one id share no cached features."""
    assert source_identity("org/name") == {"path": "org/name"}
    identities = []
    for commit in ("abc", "def"):
        put_in_cache(hub_cache, tiny_whisper, commit, "config.json", "model.safetensors")
        identities.append(source_identity("org/name"))
    assert identities == [{"path": "org/name", "commit": commit} for commit in ("abc", "def")]


def test_the_hub_out_of_reach(hub_cache: Path) -> None:
    assert error_of(Path("openai/no-such-whisper")) == (
        f"{KEY}: cannot load openai/no-such-whisper: the hub cannot be reached and the model was not downloaded before "
        "(and there is no directory openai/no-such-whisper); fetch it where there is access with `hf download "
        "openai/no-such-whisper --local-dir DIRECTORY` and give that directory"
    )


REFUSALS = {
    "org/name": ("GatedRepo", 401, "the model is gated; accept its terms at https://huggingface.co/org/name and log in "
                 "with `hf auth login` (or set HF_TOKEN) as the account that was granted access"),
    "org/lost": ("RepoNotFound", 404, "the hub has no such model, or it is private (and there is no directory "
                 "org/lost); check the name, or log in with `hf auth login` as an account that may read it"),
}  # fmt: skip
"""Name of a model -> what the hub says of it, and what we do."""

ASK_FOR_EACH = f"""
import sys, torch
from transformers import AutoModelForCausalLM
from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained import Source, load_model
for name in sys.argv[1:]:
    try:
        load_model(AutoModelForCausalLM, Source(name, {KEY!r}), dtype=torch.float32)
    except UserError as error:
        print(error)
"""


def test_models_that_the_hub_refuses(tiny_llm: Path, tmp_path: Path) -> None:
    """The hub's own client against a server that answers as the hub does; what it did give before does not help.

    In a process of its own: the client reads its settings when it is imported.
    """
    put_in_cache(tmp_path, tiny_llm, "abc", "config.json")

    class Refusal(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            code, status, _ = next(answer for name, answer in REFUSALS.items() if name in self.path)
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "NO_PROXY": "127.0.0.1",
                    "HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": str(tmp_path), "PYTHONPATH": str(ROOT)}  # fmt: skip
        result = subprocess.run([sys.executable, "-c", ASK_FOR_EACH, *REFUSALS], env={**os.environ, **settings},
                                capture_output=True, text=True, timeout=120)  # fmt: skip
        server.shutdown()
    assert result.returncode == 0, result.stderr
    expected = [f"{KEY}: cannot load {name}: {advice}" for name, (_, _, advice) in REFUSALS.items()]
    assert result.stdout.splitlines() == expected
