"""The causal LLM: transformers' own loss, and hypotheses that no neighbour changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CohereConfig,
    Gemma2Config,
    Gemma3nConfig,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    GPT2Config,
    GptOssConfig,
    GraniteConfig,
    JambaConfig,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MptConfig,
    PretrainedConfig,
    Qwen3Config,
    RecurrentGemmaConfig,
)

import speechllm_plugin.tensors.logits
from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.causal import create_causal_llm
from speechllm_plugin.llms.causal_llm import CausalLlm, CausalLlmConfig
from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.llms.generation import stop_tokens
from speechllm_plugin.llms.packing import MULTIPLE
from speechllm_plugin.pretrained import freeze
from speechllm_plugin.prompts import PromptConfig, PromptRenderer, RenderedPrompt
from tests.plugin.llm_families import own_loss
from tests.plugin.llms.rows import decode_rows

SIZES: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.3, "bos_token_id": 0,
    "eos_token_id": 0, "pad_token_id": 0,
}
ARCHITECTURES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    # Untied from the hidden size, and normalised queries and keys.
    "qwen3": Qwen3Config(**{**SIZES, "head_dim": 16}),
    # A window shorter than the prompt.
    "mistral": MistralConfig(**{**SIZES, "sliding_window": 12}),
    # Embeddings scaled inside the model, and logits with a soft cap.
    "gemma2": Gemma2Config(**{**SIZES, "head_dim": 8, "sliding_window": 12, "final_logit_softcapping": 3.0}),
    # Embeddings scaled by the embedding module; window and whole attention in turn.
    "gemma3": Gemma3TextConfig(**{**SIZES, "head_dim": 8, "sliding_window": 12, "sliding_window_pattern": 2}),
    # Learnt positions, and another name for the layers.
    "gpt2": GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=512, initializer_range=0.3),
    # Logits multiplied after the head, and divided; embeddings and residuals multiplied.
    "cohere": CohereConfig(**{**SIZES, "logit_scale": 0.25}),
    "granite": GraniteConfig(**{**SIZES, "logits_scaling": 4.0, "embedding_multiplier": 3.0}),
    # Neither has sdpa: a sink in each softmax; distances in place of positions.
    "gpt_oss": GptOssConfig(**{
        **SIZES, "head_dim": 8, "sliding_window": 12, "num_local_experts": 2, "num_experts_per_tok": 1,
    }),
    "mpt": MptConfig(vocab_size=320, d_model=32, n_layers=2, n_heads=4, initializer_range=0.3),
}
KEYS_AND_VALUES = "keeps keys and values alone"
LANGUAGES = [
    ("en", "en"), ("en", "de"), ("de", "en"), ("fr", "fr"), ("en", "en"), ("es", "es"), ("en", "it"), ("de", "de"),
]
TEXTS = ["turn the light on", "play", "how long is the drive", "", "again <|im_end|>", "music", "ten minutes", "what"]
LENGTHS = torch.tensor([1, 13, 7, 30, 2, 9, 21, 5])


@pytest.fixture(scope="module")
def llm(tiny_llm: Path) -> CausalLlm:
    llm = freeze(create_causal_llm(CausalLlmConfig(path=str(tiny_llm), dtype="float32")))
    llm.prepare_training()
    return llm


@pytest.fixture
def renderer(llm: CausalLlm) -> PromptRenderer:
    return PromptRenderer(llm.tokenizer, PromptConfig(order="instruction_first"))


def load(name: str, tiny_llm: Path, folder: Path, attention: str = "sdpa") -> CausalLlm:
    """A small LLM of another architecture with the same tokenizer."""
    torch.manual_seed(2)
    AutoModelForCausalLM.from_config(ARCHITECTURES[name]).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_llm).save_pretrained(folder)
    config = CausalLlmConfig(path=str(folder), dtype="float32", attention=attention)  # type: ignore[arg-type]
    llm = freeze(create_causal_llm(config))
    llm.prepare_training()
    return llm


def speech_of(llm: CausalLlm, seed: int = 0) -> Tensor:
    """`[8, 30, C]` at the scale of the embeddings, NaN beyond the lengths."""
    generator = torch.Generator().manual_seed(seed)
    rms = llm.embedding_table.pow(2).mean().sqrt()
    speech = rms * torch.randn(8, 30, llm.dim, generator=generator)
    beyond = torch.arange(30) >= LENGTHS.unsqueeze(1)
    return speech.masked_fill(beyond.unsqueeze(-1), torch.nan).requires_grad_()


def assert_loss_is_transformers(llm: CausalLlm, renderer: PromptRenderer) -> None:
    prompts = [renderer.render(*pair) for pair in LANGUAGES]
    targets = [renderer.encode_target(text) for text in TEXTS]
    assert len({len(prompt.before) for prompt in prompts}) > 1, "prefixes of one length would not test their mask"
    speech = speech_of(llm)
    losses = llm.loss(prompts, speech, LENGTHS, targets)
    rows = [
        own_loss(llm.model, prompts[i], speech[i, : int(LENGTHS[i])], targets[i]) for i in range(len(targets))
    ]
    torch.testing.assert_close(losses, torch.stack(rows), atol=1e-3, rtol=1e-5)
    (found,) = torch.autograd.grad(losses.sum(), speech)
    (expected,) = torch.autograd.grad(torch.stack(rows).sum(), speech)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert all(found[i, : int(length)].any() for i, length in enumerate(LENGTHS))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_loss_is_transformers_own(name: str, attention: str, tiny_llm: Path, tmp_path: Path) -> None:
    llm = load(name, tiny_llm, tmp_path, attention)
    renderer = PromptRenderer(llm.tokenizer, PromptConfig(order="instruction_first"))
    assert llm.packs == (name != "mpt")  # its decoder takes no arguments for the attention
    assert_loss_is_transformers(llm, renderer)
    llm.packs = False  # the rows of a batch, padded
    assert_loss_is_transformers(llm, renderer)


def test_packed_rows_are_not_padded(llm: CausalLlm, renderer: PromptRenderer) -> None:
    prompts = [renderer.render(*pair) for pair in LANGUAGES]
    targets = [renderer.encode_target(text) for text in TEXTS]
    needed = sum(map(int, LENGTHS)) + sum(len(p.after) + len(t) - 1 for p, t in zip(prompts, targets, strict=True))
    taken = []
    handle = llm.decoder.register_forward_pre_hook(
        lambda _, args, values: taken.append(values["inputs_embeds"].shape[:2])  # type: ignore[arg-type]
        if "packed_rows" in values else None,
        with_kwargs=True,
    )  # fmt: skip
    llm.loss(prompts, speech_of(llm), LENGTHS, targets)
    handle.remove()
    ((rows, positions),) = taken
    assert rows == 1 and needed <= positions < needed + MULTIPLE


def test_packing_is_a_choice(tiny_llm: Path) -> None:
    llm = create_causal_llm(CausalLlmConfig(path=str(tiny_llm), dtype="float32", packed=False))
    llm.prepare_training()
    assert not llm.packs


def test_the_loss_without_a_prefix(llm: CausalLlm) -> None:
    """The speech first, as in a template that opens no turn."""
    prompt = RenderedPrompt(before=(), after=(7, 8))
    speech = speech_of(llm)
    losses = llm.loss([prompt] * 8, speech, LENGTHS, [[9, 10]] * 8)
    rows = [own_loss(llm.model, prompt, speech[i, : int(LENGTHS[i])], [9, 10]) for i in range(8)]
    torch.testing.assert_close(losses, torch.stack(rows), atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_the_loss_in_chunks_is_the_loss(
    chunk: int, llm: CausalLlm, renderer: PromptRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [renderer.render(*pair) for pair in LANGUAGES]
    targets = [renderer.encode_target(text) for text in TEXTS]
    speech = speech_of(llm)
    whole = llm.loss(prompts, speech, LENGTHS, targets)
    (whole_gradient,) = torch.autograd.grad(whole.sum(), speech)

    sizes: list[int] = []
    monkeypatch.setattr(speechllm_plugin.tensors.logits, "LOGITS_AT_A_TIME", chunk * 320)
    hook = llm.head.register_forward_hook(lambda module, inputs, logits: sizes.append(len(logits)))
    losses = llm.loss(prompts, speech, LENGTHS, targets)
    hook.remove()
    assert sum(sizes) == sum(map(len, targets)), "logits of other positions were computed"
    assert max(sizes) <= chunk, "the logits of more positions existed at once"
    (gradient,) = torch.autograd.grad(losses.sum(), speech)
    torch.testing.assert_close(losses, whole)
    torch.testing.assert_close(gradient, whole_gradient, atol=1e-5, rtol=1e-4)


def test_the_loss_trains_nothing_of_the_llm(llm: CausalLlm, renderer: PromptRenderer) -> None:
    speech = speech_of(llm)
    prompts = [renderer.render(*pair) for pair in LANGUAGES]
    llm.loss(prompts, speech, LENGTHS, [renderer.encode_target(text) for text in TEXTS]).sum().backward()
    assert all(parameter.grad is None for parameter in llm.parameters())


def test_the_loss_ignores_autocast(llm: CausalLlm, renderer: PromptRenderer) -> None:
    prompts = [renderer.render(*pair) for pair in LANGUAGES]
    targets = [renderer.encode_target(text) for text in TEXTS]
    plain = llm.loss(prompts, speech_of(llm), LENGTHS, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = llm.loss(prompts, speech_of(llm), LENGTHS, targets)
    assert torch.equal(plain, under_autocast)


def decode(
    llm: CausalLlm, renderer: PromptRenderer, rows: list[int], limits: list[int], config: DecodingConfig
) -> list[Generated]:
    return decode_rows(
        llm, renderer, rows, config, languages=LANGUAGES, speech=speech_of(llm), lengths=LENGTHS, limits=limits
    )


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(DecodingConfig(), id="greedy"),
        pytest.param(DecodingConfig(beam_size=4), id="beam"),
        pytest.param(DecodingConfig(repetition_penalty=1.3, no_repeat_ngram_size=2), id="greedy with penalties"),
        pytest.param(DecodingConfig(beam_size=4, no_repeat_ngram_size=2), id="beam with penalties"),
    ],
)
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_batch_decodes_to_the_same_tokens_as_one_by_one(
    config: DecodingConfig, name: str, tiny_llm: Path, tmp_path: Path
) -> None:
    llm = load(name, tiny_llm, tmp_path)
    renderer = PromptRenderer(llm.tokenizer, PromptConfig(order="instruction_first"))
    limits = [20, 3, 11, 1, 25, 8, 17, 30]
    together = decode(llm, renderer, list(range(8)), limits, config)
    alone = [decode(llm, renderer, [row], limits, config)[0] for row in range(8)]
    assert together == alone
    assert len({tuple(row.tokens) for row in together}) == 8, "equal hypotheses would not show a mixed-up row"


def test_greedy_decoding_is_the_argmax_of_the_loss(llm: CausalLlm, renderer: PromptRenderer) -> None:
    """Training and decoding see the same sequence: each token is the best one of a whole pass over what precedes."""
    embed = llm.model.get_input_embeddings()
    assert isinstance(embed, torch.nn.Module)
    for row, found in enumerate(decode(llm, renderer, list(range(8)), [12] * 8, DecodingConfig())):
        prompt = renderer.render(*LANGUAGES[row])
        inputs = torch.cat([
            embed(torch.tensor(prompt.before)), speech_of(llm)[row, : int(LENGTHS[row])],
            embed(torch.tensor([*prompt.after, *found.tokens])),
        ])
        best = llm.model(inputs_embeds=inputs.unsqueeze(0)).logits[0, -len(found.tokens) - 1 :].argmax(-1).tolist()
        assert best[:-1] == found.tokens
        if not found.cut:
            assert best[-1] in stop_tokens(llm.model.generation_config, llm.tokenizer, renderer.end_of_turn)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_every_row_has_its_own_limit(beam_size: int, llm: CausalLlm, renderer: PromptRenderer) -> None:
    config = DecodingConfig(beam_size=beam_size)
    long = decode(llm, renderer, list(range(8)), [40] * 8, config)
    assert all(len(row.tokens) <= 40 for row in long)
    limits = [0, 1, 2, 3, 4, 5, 6, 40]
    cut = decode(llm, renderer, list(range(8)), limits, config)
    for row, (found, limit) in enumerate(zip(cut, limits, strict=True)):
        assert len(found.tokens) <= limit
        assert found.cut == (len(found.tokens) >= limit)
        if beam_size == 1:
            assert found.tokens == long[row].tokens[:limit]
    assert any(row.cut for row in cut)
    # Its neighbours' limits change nothing for the last row.
    assert cut[-1] == long[-1]


def test_a_hypothesis_ends_at_the_end_of_turn(llm: CausalLlm, renderer: PromptRenderer) -> None:
    config = DecodingConfig()
    first = decode(llm, renderer, [0], [8], config)[0].tokens
    # The same LLM, told that its fourth token ends a turn.
    stop_at = first[3]
    found = llm.generate(
        [renderer.render(*LANGUAGES[0])], speech_of(llm)[:1, :1], LENGTHS[:1], keys=["clip"], limits=[8],
        end_of_turn=stop_at, config=config,
    )[0]
    assert found == Generated(first[: first.index(stop_at)], cut=False)


def test_bfloat16_weights_take_float32_speech(tiny_llm: Path) -> None:
    llm = freeze(create_causal_llm(CausalLlmConfig(path=str(tiny_llm), dtype="bfloat16")))
    renderer = PromptRenderer(llm.tokenizer, PromptConfig(order="instruction_first"))
    prompts = [renderer.render(*pair) for pair in LANGUAGES]
    speech = speech_of(llm).detach().float().requires_grad_()
    targets = [renderer.encode_target(text) for text in TEXTS]
    loss = llm.loss(prompts, speech, LENGTHS, targets).sum()
    assert loss.dtype == torch.float32
    (gradient,) = torch.autograd.grad(loss, speech)
    assert gradient.dtype == torch.float32 and gradient.isfinite().all()
    exact = freeze(create_causal_llm(CausalLlmConfig(path=str(tiny_llm), dtype="float32")))
    expected = exact.loss(prompts, speech_of(exact), LENGTHS, targets).sum()
    assert abs(loss.item() - expected.item()) / sum(map(len, targets)) < 0.1


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_embedding_table_is_what_the_llm_reads(name: str, tiny_llm: Path, tmp_path: Path) -> None:
    """It sets the scale at which the speech starts."""
    llm = load(name, tiny_llm, tmp_path)
    embed = llm.model.get_input_embeddings()
    assert isinstance(embed, torch.nn.Module)
    assert torch.equal(llm.embedding_table, embed(torch.arange(320)))


def test_identity_names_the_weights(llm: CausalLlm, tiny_llm: Path) -> None:
    assert llm.identity()["path"] == str(tiny_llm)
    assert [name for name, *_ in llm.identity()["source"]["files"]] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("config", "found", "expected"),
    [
        pytest.param(
            Lfm2Config(**SIZES, layer_types=["conv", "full_attention"]),
            "Lfm2ForCausalLM: found layers of the types conv, full_attention",
            KEYS_AND_VALUES, id="convolutions",
        ),
        pytest.param(
            MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=1),
            "MambaForCausalLM: found layers ", KEYS_AND_VALUES, id="states alone",
        ),
        pytest.param(
            JambaConfig(**SIZES, num_experts=2, attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False),
            "JambaForCausalLM: found layers of the types ", KEYS_AND_VALUES,
            id="states and attention",
        ),
        pytest.param(
            RecurrentGemmaConfig(
                vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            ),
            "RecurrentGemmaForCausalLM: found layers of the types ", KEYS_AND_VALUES,
            id="recurrences",
        ),
        pytest.param(
            Gemma3nTextConfig(), "Gemma3nForCausalLM: found an embedding of each token for each layer",
            "reads embeddings alone", id="embeddings of each layer",
        ),
        pytest.param(
            Gemma3nConfig(), "Gemma3nForConditionalGeneration: found an embedding of each token for each layer",
            "reads embeddings alone", id="embeddings of each layer inside",
        ),
    ],
)
def test_llms_that_take_no_speech(
    config: PretrainedConfig, found: str, expected: str, tiny_llm: Path, tmp_path: Path
) -> None:
    """Refused before the weights, which are not even here, are read."""
    config.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_llm).save_pretrained(tmp_path)
    with pytest.raises(UserError) as caught:
        create_causal_llm(CausalLlmConfig(path=str(tmp_path)))
    # The names of the types, before the comma, are those of a version of transformers.
    assert str(caught.value).startswith(f"llm.config.path: {tmp_path} is a {found}")
    assert str(caught.value).endswith(
        f", expected an LLM that {expected}, such as Llama, Mistral, Qwen 3 or Gemma 3"
    )


def test_windows_of_attention_are_keys_and_values(tiny_llm: Path, tmp_path: Path) -> None:
    assert set(load("gemma3", tiny_llm, tmp_path).model.config.layer_types) == {"full_attention", "sliding_attention"}


def test_the_head_takes_the_last_places_of_all_rows_in_one_product(tiny_llm: Path) -> None:
    llm = freeze(create_causal_llm(CausalLlmConfig(path=str(tiny_llm), dtype="float32")))
    hidden = torch.randn(3, 7, llm.dim)
    with torch.no_grad(), torch.profiler.profile() as profile:
        llm.head(hidden[:, -1:])
    names = {event.key for event in profile.key_averages()}
    assert "aten::mm" in names and "aten::bmm" not in names
