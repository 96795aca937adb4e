"""Parts of pretrained checkpoints: what is read, and what is said when they cannot be."""

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
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    LlamaConfig,
    LlamaForCausalLM,
    MT5Config,
    MT5ForConditionalGeneration,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from speechllm_plugin import pretrained
from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained import (
    freeze,
    load_config,
    load_model,
    load_preprocessor,
    load_submodule,
    load_tokenizer,
    source_identity,
)

ROOT = Path(__file__).parents[2]
KEY = "encoder.config.path"
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n"


def load_encoder(path: Path, dtype: torch.dtype = torch.float32) -> WhisperEncoder:
    config = load_config(str(path), WhisperConfig, KEY)
    return load_submodule(WhisperEncoder, config, str(path), prefix="model.encoder.", dtype=dtype, key=KEY)


def error_of(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_encoder(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{KEY}: ")
    return message


@pytest.fixture
def copy(tiny_whisper: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may damage."""
    return Path(shutil.copytree(tiny_whisper, tmp_path / "whisper"))


def shard(path: Path, name: str) -> None:
    """Rewrites a checkpoint's weights as three shards and an index; `name` is the unsharded file's."""
    weights = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    stem, suffix = name.rsplit(".", 1)
    files = {}
    for number in range(3):
        part = {key: weights[key] for key in sorted(weights)[number::3]}
        file = f"{stem}-{number + 1:05}-of-00003.{suffix}"
        save_file(part, path / file) if suffix == "safetensors" else torch.save(part, path / file)
        files.update(dict.fromkeys(part, file))
    (path / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def unshard_as_bin(path: Path, legacy: bool = False) -> None:
    weights = load_file(path / "model.safetensors")
    torch.save(weights, path / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    (path / "model.safetensors").unlink()


@pytest.mark.parametrize(
    "rewrite",
    [
        pytest.param(lambda path: None, id="safetensors"),
        pytest.param(lambda path: shard(path, "model.safetensors"), id="safetensors in shards"),
        pytest.param(unshard_as_bin, id="bin"),
        pytest.param(lambda path: unshard_as_bin(path, legacy=True), id="bin of before PyTorch 1.6"),
        pytest.param(lambda path: shard(path, "pytorch_model.bin"), id="bin in shards"),
    ],
)
def test_every_layout_of_files_gives_the_same_weights(copy: Path, rewrite) -> None:  # type: ignore[no-untyped-def]
    prefix = "model.encoder."
    expected = {
        key.removeprefix(prefix): weight
        for key, weight in load_file(copy / "model.safetensors").items()
        if key.startswith(prefix)
    }
    rewrite(copy)
    found = load_encoder(copy).state_dict()
    assert found.keys() == expected.keys()
    for key, weight in expected.items():
        assert torch.equal(found[key], weight), key


def test_names_of_a_model_inside(copy: Path, tiny_whisper: Path) -> None:
    """Saved as the part itself, as the model that holds it, or as one that holds that."""
    expected = load_encoder(copy).state_dict()
    for prefix in ("model.", "model.encoder."):
        weights = {name.removeprefix(prefix): weight for name, weight in load_file(
            tiny_whisper / "model.safetensors").items() if name.startswith(prefix)}
        save_file(weights, copy / "model.safetensors", {"format": "pt"})
        found = load_submodule(
            WhisperEncoder, load_config(str(copy), WhisperConfig, KEY), str(copy), prefix="model.encoder.",
            optional_prefix=True, dtype=torch.float32, key=KEY,
        ).state_dict()
        assert all(torch.equal(found[name], weight) for name, weight in expected.items())
        with pytest.raises(UserError, match="lacks 37 weights of WhisperEncoder"):
            load_encoder(copy)


def test_weights_take_the_dtype_asked_for(tiny_whisper: Path) -> None:
    model = load_encoder(tiny_whisper, torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_freeze(tiny_whisper: Path) -> None:
    model = load_encoder(tiny_whisper).train()
    assert freeze(model) is model
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "nothing"
    expected = f"{KEY}: no directory {missing}; expected a local checkpoint directory or a hub id"
    assert error_of(missing) == expected


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    message = error_of(tmp_path)
    assert str(tmp_path) in message
    assert "config.json" in message
    # It is there: advice about the hub would only mislead.
    assert "hub" not in message.split("config.json")[0]
    assert "hf auth" not in message


def test_a_model_of_another_type(tiny_llm: Path) -> None:
    assert error_of(tiny_llm) == f"{KEY}: {tiny_llm} holds a model of type 'llama', expected 'whisper'"


def test_a_config_that_is_not_json(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    assert "config.json" in error_of(copy)


def test_no_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    assert error_of(copy) == f"{KEY}: cannot load {copy}: found neither model.safetensors nor pytorch_model.bin"


def test_a_missing_weight(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["model.encoder.layers.1.fc1.bias"]
    save_file(weights, copy / "model.safetensors")
    assert error_of(copy) == f"{KEY}: {copy} lacks 1 weights of WhisperEncoder, the first is 'layers.1.fc1.bias'"


def test_a_weight_too_many(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["model.encoder.layers.2.fc1.bias"] = torch.zeros(64)
    save_file(weights, copy / "model.safetensors")
    message = error_of(copy)
    assert "1 weights that WhisperEncoder does not know" in message
    assert "'layers.2.fc1.bias'" in message


def test_a_weight_of_another_shape(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["model.encoder.layers.1.fc1.bias"] = torch.zeros(63)
    save_file(weights, copy / "model.safetensors")
    message = error_of(copy)
    assert message.endswith(
        "does not fit its config.json: layers.1.fc1.bias has the shape [63], expected [64]"
    )


def test_damaged_weights(copy: Path) -> None:
    """Neither format's own exception reaches the user."""
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert str(copy) in error_of(copy)
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"not a checkpoint")
    assert str(copy) in error_of(copy)


def test_a_shard_that_is_not_there(copy: Path) -> None:
    shard(copy, "model.safetensors")
    (copy / "model-00002-of-00003.safetensors").unlink()
    assert error_of(copy) == (
        f"{KEY}: cannot load {copy}: found no model-00002-of-00003.safetensors, which its index names; download it "
        "again"
    )


def test_a_shard_that_is_not_whole(copy: Path) -> None:
    shard(copy, "model.safetensors")
    file = copy / "model-00002-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    message = error_of(copy)
    assert f"{file} is not a whole checkpoint file (" in message
    assert message.endswith("; download it again")


def test_a_shard_of_another_download(copy: Path) -> None:
    """The index and the shards do not belong together."""
    shard(copy, "model.safetensors")
    save_file({"other": torch.zeros(1)}, copy / "model-00002-of-00003.safetensors")
    assert "model-00002-of-00003.safetensors lacks " in error_of(copy)


def test_a_model_that_this_transformers_does_not_know(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "later", "transformers_version": "9.1"}))
    assert error_of(copy) == (
        f"{KEY}: {copy} holds a model of type 'later', written by transformers 9.1, which transformers "
        f"{transformers.__version__} does not know; install a version of transformers that does, or choose another "
        "model"
    )
    del config["model_type"]
    (copy / "config.json").write_text(json.dumps(config))
    assert error_of(copy) == f"{KEY}: the config.json of {copy} has no model_type; expected a model of transformers"


def test_an_index_of_no_weights(copy: Path) -> None:
    (copy / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(UserError, match="lacks 37 weights of WhisperEncoder"):
        load_submodule(
            WhisperEncoder, load_config(str(copy), WhisperConfig, KEY), str(copy), prefix="model.encoder.",
            optional_prefix=True, dtype=torch.float32, key=KEY,
        )


def test_a_preprocessor_that_is_no_object(copy: Path) -> None:
    (copy / "preprocessor_config.json").write_text("[]")
    with pytest.raises(UserError, match="preprocessor_config.json holds a list, expected a JSON object$"):
        load_preprocessor(str(copy), KEY)


def test_shards_without_the_module_are_not_needed(copy: Path) -> None:
    """Of a large model only the encoder's files are read, and so downloaded."""
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    encoder = {key: weight for key, weight in weights.items() if key.startswith("model.encoder.")}
    save_file(encoder, copy / "encoder.safetensors")
    files = {key: "encoder.safetensors" if key in encoder else "decoder.safetensors" for key in weights}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    assert len(load_encoder(copy).state_dict()) == len(encoder) < len(weights)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, which cannot be reached."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
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
        load_preprocessor("org/name", KEY)
    assert str(caught.value) == partial_download(folder, "preprocessor_config.json")


def test_a_download_without_a_shard(hub_cache: Path, copy: Path) -> None:
    shard(copy, "model.safetensors")
    names = [file.name for file in copy.iterdir() if "00002" not in file.name]
    folder = put_in_cache(hub_cache, copy, "abc", *names)
    assert error_of(Path("org/name")) == partial_download(folder, "model-00002-of-00003.safetensors")


def test_a_download_without_a_tokenizer(hub_cache: Path, tiny_llm: Path) -> None:
    folder = put_in_cache(hub_cache, tiny_llm, "abc", "config.json", "model.safetensors")
    with pytest.raises(UserError) as caught:
        load_tokenizer("org/name", KEY)
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


def hub_error(tmp_path: Path, name: str, **environment: str) -> str:
    """The last line of a process that asks the hub for a model: its client reads its settings when imported."""
    code = (
        "import torch\n"
        "from transformers import AutoModelForCausalLM\n"
        "from speechllm_plugin.pretrained import load_model\n"
        f"load_model(AutoModelForCausalLM, {name!r}, dtype=torch.float32, key={KEY!r})\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_CACHE": str(tmp_path), **environment},
        capture_output=True, text=True, timeout=120,
    )
    last = result.stderr.strip().splitlines()[-1]
    start = f"speechllm_plugin.errors.UserError: {KEY}: cannot load {name}: "
    assert last.startswith(start)
    return last.removeprefix(start)


def test_the_hub_out_of_reach(tmp_path: Path) -> None:
    assert hub_error(tmp_path, "openai/no-such-whisper", HF_HUB_OFFLINE="1") == (
        "the hub cannot be reached and the model was not downloaded before (and there is no directory "
        "openai/no-such-whisper); fetch it where there is access with `hf download openai/no-such-whisper --local-dir "
        "DIRECTORY` and give that directory"
    )


@pytest.mark.parametrize(
    ("code", "status", "advice"),
    [
        pytest.param("GatedRepo", 401, "the model is gated; accept its terms at https://huggingface.co/org/name and "
                     "log in with `hf auth login` (or set HF_TOKEN) as the account that was granted "
                     "access", id="gated"),
        pytest.param("RepoNotFound", 404, "the hub has no such model, or it is private (and there is no directory "
                     "org/name); check the name, or log in with `hf auth login` as an account that may read it",
                     id="unknown"),
    ],
)
def test_a_model_that_the_hub_refuses(code: str, status: int, advice: str, tiny_llm: Path, tmp_path: Path) -> None:
    """The hub's own client against a server that answers as the hub does; what it did give before does not help."""
    put_in_cache(tmp_path, tiny_llm, "abc", "config.json")

    class Refusal(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        found = hub_error(tmp_path, "org/name", HF_ENDPOINT=address, NO_PROXY="127.0.0.1", HF_HUB_OFFLINE="0")
        server.shutdown()
    assert found == advice


def test_whole_models_and_tokenizers(tiny_llm: Path, tmp_path: Path) -> None:
    model = load_model(AutoModelForCausalLM, str(tiny_llm), dtype=torch.float32, key="llm.config.path")
    assert isinstance(model.config, LlamaConfig)
    assert load_tokenizer(str(tiny_llm), "llm.config.path").is_fast
    with pytest.raises(UserError, match="^llm.config.path: cannot load "):
        load_tokenizer(str(tmp_path), "llm.config.path")
    with pytest.raises(UserError, match="^llm.config.path: .* has no config.json"):
        load_model(AutoModelForCausalLM, str(tmp_path), dtype=torch.float32, key="llm.config.path")


def test_a_whole_model_is_that_of_transformers(tiny_llm: Path, tmp_path: Path) -> None:
    """Weights, tied ones, buffers that no checkpoint holds, generation settings and attention alike."""
    expected = AutoModelForCausalLM.from_pretrained(
        tiny_llm, dtype=torch.bfloat16, attn_implementation="eager"
    )
    expected.generation_config.eos_token_id = [1, 2, 3]
    expected.tie_weights()
    expected.save_pretrained(tmp_path, max_shard_size="20KB")
    found = load_model(
        AutoModelForCausalLM, str(tmp_path), dtype=torch.bfloat16, key="llm.config.path", attn_implementation="eager"
    )
    assert type(found) is type(expected)
    assert found.config._attn_implementation == "eager"
    assert found.generation_config.eos_token_id == [1, 2, 3]
    assert found.state_dict().keys() == expected.state_dict().keys()
    for name, weight in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight), name
    ids = torch.arange(12).unsqueeze(0)
    assert torch.equal(found(ids).logits, expected(ids).logits)


def test_a_whole_model_is_never_completed_with_random_weights(tiny_llm: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_llm, tmp_path / "llm"))
    weights = load_file(path / "model.safetensors")
    lost = weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, path / "model.safetensors")
    with pytest.raises(UserError, match="lacks 1 weights of LlamaForCausalLM, the first is 'model.layers.1.mlp.up_pr"):
        load_model(AutoModelForCausalLM, str(path), dtype=torch.float32, key="llm.config.path")
    save_file({**weights, "model.layers.1.mlp.up_proj.weight": lost[1:]}, path / "model.safetensors")
    with pytest.raises(UserError, match=r"up_proj.weight has the shape \[63, 32\], expected \[64, 32\]$"):
        load_model(AutoModelForCausalLM, str(path), dtype=torch.float32, key="llm.config.path")


def test_a_table_with_several_names_is_read_once(tmp_path: Path) -> None:
    """PyTorch files hold T5's shared table under each of its names; only the first one's shard is here."""
    torch.manual_seed(0)
    model = tiny_t5()
    model.config.save_pretrained(tmp_path)
    again = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    weights = model.state_dict()
    assert again < weights.keys()
    torch.save({name: weight for name, weight in weights.items() if name not in again}, tmp_path / "first.bin")
    files = {name: "second.bin" if name in again else "first.bin" for name in weights}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    found = load_model(AutoModelForSeq2SeqLM, str(tmp_path), dtype=torch.float32, key="llm.config.path")
    assert found.state_dict().keys() == weights.keys()
    assert all(torch.equal(found.state_dict()[name], weight) for name, weight in weights.items())
    assert found.encoder.embed_tokens.weight is found.shared.weight is found.decoder.embed_tokens.weight


def test_a_table_saved_once_has_all_its_names(tmp_path: Path) -> None:
    """As `save_pretrained` leaves the others out of safetensors; the head of mT5 is another table."""
    torch.manual_seed(0)
    model = tiny_t5()
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert "shared.weight" in saved and "encoder.embed_tokens.weight" not in saved
    found = load_model(AutoModelForSeq2SeqLM, str(tmp_path), dtype=torch.float32, key="llm.config.path")
    assert found.encoder.embed_tokens.weight is found.shared.weight is found.decoder.embed_tokens.weight
    assert torch.equal(found.shared.weight, model.shared.weight)
    assert torch.equal(found.lm_head.weight, model.lm_head.weight)
    assert not torch.equal(found.lm_head.weight, found.shared.weight)


def test_weights_of_other_names_are_left_to_transformers(tiny_llm: Path, tmp_path: Path) -> None:
    """A tied LLM saved from its model without the head."""
    config = LlamaConfig.from_pretrained(tiny_llm, tie_word_embeddings=True)
    model = LlamaForCausalLM(config)
    model.model.save_pretrained(tmp_path)
    assert "embed_tokens.weight" in load_file(tmp_path / "model.safetensors")
    found = load_model(AutoModelForCausalLM, str(tmp_path), dtype=torch.float32, key="llm.config.path")
    assert all(torch.equal(found.state_dict()[name], weight) for name, weight in model.state_dict().items())


def llm_error(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_model(AutoModelForCausalLM, str(path), dtype=torch.float32, key="llm.config.path")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("llm.config.path: ")
    return message


@pytest.fixture
def llm_copy(tiny_llm: Path, tmp_path: Path) -> Path:
    """An LLM's checkpoint that a test may damage."""
    return Path(shutil.copytree(tiny_llm, tmp_path / "llm"))


def add_weights(path: Path, **more: torch.Tensor) -> None:
    save_file({**load_file(path / "model.safetensors"), **more}, path / "model.safetensors")


def set_config(path: Path, **values: object) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **values}))


def test_an_llm_of_more_layers_than_its_config(llm_copy: Path) -> None:
    set_config(llm_copy, num_hidden_layers=1)
    assert llm_error(llm_copy) == (
        f"llm.config.path: {llm_copy} holds 9 weights that LlamaForCausalLM does not know, the first is "
        "'model.layers.1.input_layernorm.weight'; expected the architecture of its config.json"
    )


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_norm.weight", "model.layers.1.mlp.up_proj.bias",
                                  "lm_head.bias"])
def test_an_llm_of_another_architecture_than_its_config(name: str, llm_copy: Path) -> None:
    add_weights(llm_copy, **{name: torch.zeros(8)})
    assert f"holds 1 weights that LlamaForCausalLM does not know, the first is {name!r}" in llm_error(llm_copy)


def test_parts_beside_an_llm_are_named(llm_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(pretrained.log, "warning", lambda text, *values: warnings.append(text.format(*values)))
    # What older versions of transformers saved is no part.
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4),
           "model.layers.1.self_attn.masked_bias": torch.zeros(1), "model.layers.1.attn.bias": torch.zeros(1)}
    add_weights(llm_copy, **old)
    load_model(AutoModelForCausalLM, str(llm_copy), dtype=torch.float32, key="llm.config.path")
    assert warnings == []
    add_weights(llm_copy, **{"v_head.0.weight": torch.zeros(1), "vision.patches.weight": torch.zeros(1)})
    load_model(AutoModelForCausalLM, str(llm_copy), dtype=torch.float32, key="llm.config.path")
    assert warnings == [
        f"llm.config.path: {llm_copy} holds 2 weights that LlamaForCausalLM does not use, the first is v_head.0.weight."
    ]


def test_a_head_saved_although_it_is_tied(tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(pretrained.log, "warning", lambda text, *values: warnings.append(text.format(*values)))
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_llm, tie_word_embeddings=True))
    model.save_pretrained(tmp_path)
    add_weights(tmp_path, **{"lm_head.weight": model.lm_head.weight.detach().clone()})
    found = load_model(AutoModelForCausalLM, str(tmp_path), dtype=torch.float32, key="llm.config.path")
    assert all(torch.equal(found.state_dict()[name], weight) for name, weight in model.state_dict().items())
    assert warnings == []


def test_a_renamed_weight_of_another_shape(tiny_llm: Path, tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_llm, tie_word_embeddings=True)).model.save_pretrained(tmp_path)
    add_weights(tmp_path, **{"layers.1.mlp.up_proj.weight": torch.zeros(63, 32)})
    assert llm_error(tmp_path).endswith(
        "does not fit its config.json: model.layers.1.mlp.up_proj.weight has another shape, expected [64, 32]"
    )


@pytest.mark.parametrize(
    ("text", "expected"), [("{", "is not whole ("), ("[]", "holds a list, expected a JSON object")]
)
def test_a_damaged_generation_config(text: str, expected: str, llm_copy: Path) -> None:
    (llm_copy / "generation_config.json").write_text(text)
    assert f"cannot load {llm_copy}: {llm_copy / 'generation_config.json'} {expected}" in llm_error(llm_copy)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({"model_type": ["llama"]}, "holds a model of type ['llama'], written by", id="type"),
        pytest.param({"hidden_act": "no"}, "its config.json cannot be used (KeyError: 'no')", id="activation"),
        pytest.param({"rope_scaling": {"rope_type": "no", "factor": 2.0}},
                     "its config.json cannot be used (KeyError: 'no')", id="rope"),
        pytest.param({"num_attention_heads": 0}, "its config.json cannot be used (ZeroDivisionError: ", id="heads"),
        pytest.param({"hidden_size": "x"}, "its config.json cannot be used (TypeError: ", id="size"),
        pytest.param({"hidden_size": -8}, "cannot load ", id="negative size"),
    ],
)
def test_a_config_with_a_bad_value(values: dict[str, object], expected: str, llm_copy: Path) -> None:
    set_config(llm_copy, **values)
    assert expected in llm_error(llm_copy)


def test_an_encoders_config_with_a_bad_value(copy: Path) -> None:
    set_config(copy, activation_function="no")
    assert error_of(copy) == f"{KEY}: cannot load {copy}: its config.json cannot be used (KeyError: 'no')"


def test_a_config_that_is_a_list(llm_copy: Path) -> None:
    (llm_copy / "config.json").write_text("[]")
    assert f"cannot load {llm_copy}: its config.json cannot be used (TypeError: " in llm_error(llm_copy)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("{}", " has no weight_map, ", id="empty"),
        pytest.param('{"weight_map": {"lm_head.weight": 1}}', " has no weight_map, ", id="no files"),
        pytest.param("[]", " holds a list, expected a JSON object", id="list"),
        pytest.param(LFS_POINTER, " is not whole (", id="pointer"),
    ],
)
def test_a_damaged_index(text: str, expected: str, llm_copy: Path) -> None:
    index = llm_copy / "model.safetensors.index.json"
    index.write_text(text)
    assert f"{index}{expected}" in llm_error(llm_copy)


def test_pytorch_files_of_something_else(llm_copy: Path) -> None:
    weights = load_file(llm_copy / "model.safetensors")
    (llm_copy / "model.safetensors").unlink()
    file = llm_copy / "pytorch_model.bin"
    for content in ({"state_dict": weights}, [1]):
        torch.save(content, file)
        assert f"{file} holds no weights by name" in llm_error(llm_copy)
    torch.save(weights, file)
    file.write_bytes(file.read_bytes()[:-5000])
    assert f"{file} is not a whole checkpoint file (" in llm_error(llm_copy)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        pytest.param("tokenizer.json", LFS_POINTER, " is not whole (", id="pointer"),
        pytest.param("tokenizer.json", '{"version": "1.0", "trunc', " is not whole (", id="truncated"),
        pytest.param("tokenizer.json", "", " is not whole (", id="empty"),
        pytest.param("tokenizer.json", "{}", " can be made of {}", id="of something else"),
        pytest.param("tokenizer.model", LFS_POINTER, " is not whole; download it again", id="pointer to SentencePiece"),
        pytest.param("tokenizer_config.json", "[]", " holds a list, expected a JSON object", id="list"),
        pytest.param(None, "", "found neither tokenizer.json nor tokenizer.model nor ", id="none"),
    ],
)
def test_a_damaged_tokenizer(name: str | None, text: str, expected: str, llm_copy: Path) -> None:
    if name != "tokenizer_config.json":
        (llm_copy / "tokenizer.json").unlink()
    if name is not None:
        (llm_copy / name).write_text(text)
        file = str(llm_copy / name)
        expected = f"no tokenizer{expected.format(file)}" if "{}" in expected else f"{file}{expected}"
    with pytest.raises(UserError) as caught:
        load_tokenizer(str(llm_copy), "llm.config.path")
    assert str(caught.value).startswith(f"llm.config.path: cannot load {llm_copy}: {expected}")
    assert "\n" not in str(caught.value)


def test_a_model_of_the_wrong_kind(tiny_llm: Path) -> None:
    with pytest.raises(UserError, match="holds a model of type 'llama', which AutoModelForSeq2SeqLM does not load$"):
        load_model(AutoModelForSeq2SeqLM, str(tiny_llm), dtype=torch.float32, key="llm.config.path")


def tiny_t5() -> MT5ForConditionalGeneration:
    return MT5ForConditionalGeneration(MT5Config(
        vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0,
    ))


def test_parts_that_must_stay_in_float32_do(tmp_path: Path) -> None:
    """T5 in float16 overflows in one layer, which transformers leaves in float32: bit for bit."""
    model = tiny_t5()
    model.save_pretrained(tmp_path)
    found = load_model(AutoModelForSeq2SeqLM, str(tmp_path), dtype=torch.float16, key="llm.config.path")
    name = "encoder.block.0.layer.1.DenseReluDense.wo.weight"
    assert torch.equal(found.get_parameter(name), model.get_parameter(name))
    assert found.get_parameter(name.replace("wo", "wi_0")).dtype == torch.float16


def test_identity_follows_the_weights(copy: Path) -> None:
    before = source_identity(str(copy))
    assert source_identity(str(copy)) == before
    weights = load_file(copy / "model.safetensors")
    os.utime(copy / "model.safetensors", ns=(0, 0))
    assert source_identity(str(copy)) != before
    save_file({**weights, "more": torch.zeros(1)}, copy / "model.safetensors")
    os.utime(copy / "model.safetensors", ns=(0, 0))
    assert source_identity(str(copy)) != source_identity("openai/whisper-tiny")
    assert source_identity("openai/whisper-tiny") == {"path": "openai/whisper-tiny"}


def test_an_llm_keeps_its_dtype_where_fairseq2_creates_models(tiny_llm: Path) -> None:
    """fairseq2 builds a model under a mode that gives every new tensor the dtype of the trained part."""
    pytest.importorskip("fairseq2")
    from fairseq2 import init_fairseq2
    from fairseq2.data_type import set_dtype
    from fairseq2.runtime import dependency

    if dependency._resolver is None:
        init_fairseq2()
    with torch.device("cpu"), set_dtype(torch.float32):
        model = load_model(AutoModelForCausalLM, str(tiny_llm), dtype=torch.bfloat16, key="llm.config.path")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
