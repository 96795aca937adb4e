"""`--engine vllm`: rows go to a server as embeddings, and its tokens are those of our own decoding."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechllm_plugin.errors import ClipError, ServiceError, UserError
from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.batch import Batch
from speechllm_plugin.llms.causal_llm import CausalLlmConfig
from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.llms.vllm.llm import ServedLlm, load_served_llm
from speechllm_plugin.llms.vllm.server import NAME, ServedModel, VllmServer
from speechllm_plugin.pretrained import freeze
from speechllm_plugin.pretrained.identity import identity_of
from speechllm_plugin.prompts import PromptConfig, PromptRenderer, RenderedPrompt
from tests.plugin.llm_families import load_family, save_family
from tests.vllm_stand_in import StandIn, serving
from tests.waiting import wait_until

LANGUAGES = [("en", "en"), ("en", "de"), ("de", "de"), ("de", "en"), ("en", "en"), ("en", "de")]
LENGTHS = [1, 9, 17, 4, 12, 2]
LIMITS = [30, 4, 14, 22, 9, 25]
PLAIN = DecodingConfig()
ONE = [0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family("llama", tmp_path_factory.mktemp("families") / "llama")


@pytest.fixture(scope="module")
def ours(folder: Path) -> Llm:
    return load_family("llama", folder)


@pytest.fixture
def stand_in(folder: Path, ours: Llm) -> StandIn:
    return StandIn(folder, "llama", NAME.format(identity_of(ours)))


@pytest.fixture
def url(stand_in: StandIn) -> Iterator[str]:
    with serving(stand_in) as url:
        yield url


@pytest.fixture
def served(url: str, folder: Path, stand_in: StandIn) -> ServedLlm:
    llm = load(folder, url)
    stand_in.requests.clear()
    return llm


def load(folder: Path, url: str, dtype: Any = "float32") -> ServedLlm:
    return freeze(load_served_llm(CausalLlmConfig(path=str(folder), dtype=dtype), VllmServer(url)))


def prompts(llm: Llm) -> tuple[PromptRenderer, list[RenderedPrompt], Tensor]:
    """With the speech of each row, `[B, T, C]`."""
    renderer = PromptRenderer(llm.tokenizer, PromptConfig(order="instruction_first"), chat=llm.chat)
    scale = llm.embedding_table.float().pow(2).mean().sqrt()
    speech = scale * torch.randn(len(LENGTHS), max(LENGTHS), llm.dim, generator=torch.Generator().manual_seed(5))
    return renderer, [renderer.render(*languages) for languages in LANGUAGES], speech


def begun(llm: Llm, end: int | None = None) -> Batch:
    return llm.running_batch(prompts(llm)[0].end_of_turn if end is None else end)


def add(batch: Batch, llm: Llm, rows: list[int], config: DecodingConfig = PLAIN) -> list[int]:
    _, rendered, speech = prompts(llm)
    asked = llm.prompt_rows([rendered[row] for row in rows], speech[rows], torch.tensor([LENGTHS[row] for row in rows]))
    keys, limits = [f"clip {row}" for row in rows], [LIMITS[row] for row in rows]
    return batch.add(asked, keys=keys, limits=limits, config=config)


def decode(
    llm: Llm, config: DecodingConfig = PLAIN, rows: list[int] | None = None, end: int | None = None
) -> list[Generated]:
    """:param end: the end of the turn; None = the template's."""
    batch = begun(llm, end)
    numbers = add(batch, llm, list(range(len(LENGTHS))) if rows is None else rows, config)
    found = batch.finish()
    return [found[number] for number in numbers]


@pytest.mark.parametrize(
    "config",
    [
        PLAIN,
        DecodingConfig(no_repeat_ngram_size=2),
        DecodingConfig(repetition_penalty=1.7),
        DecodingConfig(repetition_penalty=1.2, no_repeat_ngram_size=1),
    ],
    ids=["plain", "n-grams", "penalty", "both"],
)
def test_greedy_tokens_are_ours(ours: Llm, served: ServedLlm, config: DecodingConfig) -> None:
    expected = decode(ours, config)
    assert decode(served, config) == expected
    assert [decode(served, config, [row])[0] for row in range(len(LENGTHS))] == expected
    assert len({tuple(row.tokens) for row in expected}) == len(LENGTHS), "equal texts would not show a mixed-up row"
    # Texts that another token ends.
    end = expected[2].tokens[5]
    ended = decode(ours, config, end=end)
    assert decode(served, config, end=end) == ended
    assert not ended[2].cut and len(ended[2].tokens) <= 5 and any(row.cut for row in ended)


def test_the_layers_are_not_here(ours: Llm, served: ServedLlm, folder: Path) -> None:
    assert sum(weight.numel() for weight in served.parameters()) == served.vocabulary_size * served.dim
    assert torch.equal(served.embedding_table, ours.embedding_table)
    assert identity_of(served) == identity_of(ours)
    assert served.positions == ours.positions
    half = load(folder, served.server.url, "bfloat16")
    assert half.embedding_table.dtype == torch.bfloat16


def test_every_setting_is_sent(served: ServedLlm, stand_in: StandIn) -> None:
    decode(served, replace(PLAIN, temperature=0.8, top_k=7, top_p=0.9, seed=3), [2])
    (body,) = stand_in.requests
    # What is left out vLLM takes from the LLM's generation_config.json.
    assert {name: body[name] for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")} == {
        "temperature": 0.8, "top_k": 7, "top_p": 0.9, "min_p": 0.0, "repetition_penalty": 1.0,
    }  # fmt: skip
    assert (body["presence_penalty"], body["frequency_penalty"], body["max_tokens"]) == (0, 0, LIMITS[2])


def test_samples_follow_from_key_and_seed(served: ServedLlm) -> None:
    samples = replace(PLAIN, temperature=1.0)
    first, again, other = decode(served, samples), decode(served, samples), decode(served, replace(samples, seed=1))
    assert first == again and first != other and first != decode(served)
    # Rows of one prompt, which have keys of their own.
    batch = begun(served)
    _, rendered, speech = prompts(served)
    rows = served.prompt_rows([rendered[0]] * 2, speech[:1].expand(2, -1, -1), torch.tensor([17, 17]))
    batch.add(rows, keys=["one", "two"], limits=[20, 20], config=samples)
    one, two = batch.finish().values()
    assert one != two


def test_probabilities_are_the_llms_own(ours: Llm, served: ServedLlm) -> None:
    config = DecodingConfig(no_speech_probability=0.5, no_repeat_ngram_size=2)
    _, rendered, speech = prompts(ours)
    for row, found in enumerate(decode(served, config)):
        length = torch.tensor([LENGTHS[row]])
        expected = -float(ours.loss([rendered[row]], speech[row : row + 1], length, [found.tokens]))
        assert found.log_probability == pytest.approx(expected, abs=1e-3)
    assert decode(served)[0].log_probability is None


def test_rows_come_and_leave(served: ServedLlm, ours: Llm, stand_in: StandIn) -> None:
    expected = decode(ours)
    stand_in.writes.clear()
    batch = begun(served)
    first = add(batch, served, [0, 2])
    assert batch.joins and batch.step() == {} and len(batch) == 2
    batch.drop(first[0])
    later = add(batch, served, [1])
    assert len(batch) == 2
    stand_in.writes.set()
    assert batch.finish() == {first[1]: expected[2], later[0]: expected[1]}
    assert len(batch) == 0 and batch.step() == {} and batch.step(patient=True) == {}
    wait_until(lambda: stand_in.left == 1, "the server sees that the client of the row that was dropped has left")


def test_what_the_server_has_no_room_for(folder: Path, ours: Llm) -> None:
    stand_in = StandIn(folder, "llama", positions=90)
    with serving(stand_in) as url:
        llm = load(folder, url)
        stand_in.requests.clear()
        batch = begun(llm)
        with pytest.raises(ClipError, match=r"clip 0: found a prompt of \d+ rows and at most 30 tokens of text, exp"):
            add(batch, llm, [1, 0])
        assert len(batch) == 0 and not stand_in.requests, "a row was sent although another has no room"


def test_settings_that_a_server_lacks(folder: Path, served: ServedLlm) -> None:
    with pytest.raises(UserError, match="decoding.beam_size: found 4, expected 1: vLLM searches no beams"):
        add(begun(served), served, ONE, DecodingConfig(beam_size=4))
    with serving(StandIn(folder, "another name")) as url:
        llm = load(folder, url)  # by its path
        assert decode(llm, rows=ONE) == decode(served, rows=ONE)
        for key, value, off in (
            ("no_repeat_ngram_size", 3, "0"), ("repetition_penalty", 1.5, "1"),
            ("max_compression_ratio", 2.4, r"off \(null\)"),
        ):  # fmt: skip
            with pytest.raises(UserError, match=f"decoding.{key}: found {value}, expected {off}, or a server that"):
                add(begun(llm), llm, ONE, replace(PLAIN, **{key: value}))


def no_embeddings(stand_in: StandIn) -> None:
    stand_in.takes_embeddings = False


def needs_a_key(stand_in: StandIn) -> None:
    stand_in.key = "secret"


def other_names(stand_in: StandIn) -> None:
    stand_in.names, stand_in.root = ("llama", NAME.format("0" * 16)), "somebody/else"


def other_scale(stand_in: StandIn) -> None:
    stand_in.scale = 3.0


def other_weights(stand_in: StandIn) -> None:
    """Under our path."""
    stand_in.names = ("llama",)
    torch.nn.init.normal_(stand_in.model.get_input_embeddings().weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_embeddings, "takes no prompt of embeddings (vLLM: found status 400 (You must set `--enable-prompt-"),
        (needs_a_key, "found status 401 .*, expected its key in the variable VLLM_API_KEY"),
        (other_names, "found the LLM somebody/else at .*, expected .*/llama, as `speechllm vllm serve --checkpoint"),
        (other_scale, "found that .*/llama at .* goes on otherwise from tokens than from our embeddings"),
        (other_weights, "found that .*/llama at .* goes on otherwise from tokens than from our embeddings"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_servers_of_another_kind(
    folder: Path, stand_in: StandIn, url: str, change: Callable[[StandIn], None], message: str
) -> None:
    change(stand_in)
    with pytest.raises(UserError, match=message.replace("(", r"\(")) as error:
        load(folder, url)
    assert "\n" not in str(error.value)


def test_a_key_is_sent(folder: Path, stand_in: StandIn, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in.key = "secret"
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    load(folder, url)


def test_no_server_at_all(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UserError, match=f"engine_url: vLLM at {url}: found no answer .*, expected one that `speechllm"):
        load(folder, url)
    for wrong in ("127.0.0.1:8001", "ftp://127.0.0.1", "http://", "http://a:b"):
        with pytest.raises(UserError, match="engine_url: found .*, expected an address such as http://127.0.0.1:8001"):
            VllmServer(wrong)


def test_an_address_as_openais_clients_take_it(folder: Path, stand_in: StandIn, url: str) -> None:
    assert VllmServer(f"{url}/v1").models() == VllmServer(f"{url}/").models() == VllmServer(url).models()


def test_rules_are_those_of_servers_that_we_start() -> None:
    names = ("speechllm-0123456789abcdef", "speechllm-llama", "speechllm-", "llama")
    assert [ServedModel(name, "models/llama", 512).has_rules for name in names] == [True, False, False, False]


def test_embeddings_that_transformers_scales_later(tmp_path: Path) -> None:
    """vLLM takes Gemma 2's embeddings scaled, transformers before they are."""
    folder = save_family("gemma2", tmp_path / "gemma2")
    ours = load_family("gemma2", folder)
    stand_in = StandIn(folder, "gemma2")
    stand_in.scale = ours.dim**0.5
    with serving(stand_in) as url:
        assert decode(load(folder, url)) == decode(ours)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("drop", "found no answer"), (500, "found status 500 (the engine is dead)"), (404, "found status 404"),
        (401, "found status 401 (the engine is dead), expected its key in the variable VLLM_API_KEY"),
        ("short", "found a text of 29 tokens that ends by 'length', expected whole"),
    ],
)  # fmt: skip
def test_a_server_that_fails_in_the_middle(
    served: ServedLlm, stand_in: StandIn, failure: Any, message: str, ours: Llm
) -> None:
    long = next(row for row, found in enumerate(decode(ours)) if found.cut)
    stand_in.failures.append(failure)
    batch = begun(served)
    add(batch, served, [long])
    with pytest.raises(ServiceError) as error:
        batch.finish()
    assert message in str(error.value) and "\n" not in str(error.value)
    assert len(batch) == 0


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_row_that_the_server_refuses(served: ServedLlm, stand_in: StandIn, status: int) -> None:
    stand_in.failures.append(status)
    batch = begun(served)
    add(batch, served, [3])
    with pytest.raises(ClipError, match=rf"^clip 3: vLLM: found status {status} \(the engine is dead\)"):
        batch.finish()


def test_after_a_failure_no_row_is_decoded(served: ServedLlm, stand_in: StandIn) -> None:
    stand_in.writes.clear()
    batch = begun(served)
    add(batch, served, [0, 2])
    wait_until(lambda: len(stand_in.requests) == 2, "both requests have come")
    stand_in.failures.append("drop")
    add(batch, served, [1])
    with pytest.raises(ServiceError):
        batch.finish()
    stand_in.writes.set()
    wait_until(lambda: stand_in.left == 2, "the server sees that both other clients have left")


def test_input_embeddings_are_found_or_refused(folder: Path, tmp_path: Path, url: str) -> None:
    copy = tmp_path / "llama"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    (name,) = (name for name in weights if "embed_tokens" in name)
    save_file({**weights, name: weights[name][:-1].clone()}, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"does not fit its config.json: {name} has the shape"):
        load(copy, url)


