"""Every family of LLMs in its real format: loading, the loss, and decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from speechllm_plugin.configuration.structure import structure
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.yaml_text import parse_yaml
from speechllm_plugin.inference.reading import batch_of_files
from speechllm_plugin.llms.api import LLMS, Llm
from speechllm_plugin.llms.causal_llm import CausalLlm
from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.llms.encoder_decoder import EncoderDecoderLlm, EncoderDecoderLlmConfig, create_encoder_decoder_llm
from speechllm_plugin.llms.generation import stop_tokens
from speechllm_plugin.models.speech_llm.archs import LLM_ARCHS
from speechllm_plugin.models.speech_llm.config import CtcConfig, PartSection, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.prompts import PromptConfig, PromptRenderer
from tests.plugin.llm_families import FAMILIES, load_family, own_loss, save_family
from tests.plugin.llms.rows import decode_rows

Folders = Callable[..., Path]
AXES = Path(__file__).parents[3] / "recipes/speechllm_recipes/configs/axes/llm"
LANGUAGES = [("en", "en"), ("en", "de"), ("de", "de"), ("de", "en")]
TEXTS = ["turn the light on", "</s> spielen", "", "how long is the drive to Köln"]
LENGTHS = torch.tensor([1, 9, 17, 4])
LIMITS = [9, 4, 14, 12]
DECODINGS = {
    "greedy": DecodingConfig(),
    "beam": DecodingConfig(beam_size=3, length_penalty=0.5),
    "samples": DecodingConfig(temperature=0.8, top_k=50, top_p=0.95, seed=1),
    "samples with penalties": DecodingConfig(temperature=1.3, repetition_penalty=1.2, no_repeat_ngram_size=2),
}


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    saved: dict[tuple[str, bool], Path] = {}

    def folder(name: str, *, sharded: bool = False) -> Path:
        if (name, sharded) not in saved:
            saved[name, sharded] = save_family(name, tmp_path_factory.mktemp(name) / "llm", sharded=sharded)
        return saved[name, sharded]

    return folder


@pytest.fixture(scope="session")
def llm_of(folder_of: Folders) -> Callable[[str], Llm]:
    """In float32."""
    return cache(lambda name: load_family(name, folder_of(name)))


def renderer_of(llm: Llm) -> PromptRenderer:
    return PromptRenderer(llm.tokenizer, PromptConfig(order="instruction_first"), chat=llm.chat)


def speech_of(llm: Llm) -> Tensor:
    """`[4, 17, C]` at the scale of the embeddings, NaN beyond the lengths."""
    scale = llm.embedding_table.float().pow(2).mean().sqrt()
    speech = scale * torch.randn(4, 17, llm.dim, generator=torch.Generator().manual_seed(5))
    return speech.masked_fill((torch.arange(17) >= LENGTHS.unsqueeze(1)).unsqueeze(-1), torch.nan).requires_grad_()


def reference_of(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The checkpoint as transformers loads it, with the attention that all models define themselves by."""
    kls = AutoModelForCausalLM if FAMILIES[name].chat else AutoModelForSeq2SeqLM
    return kls.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval().requires_grad_(False)


def decode(llm: Llm, rows: list[int], config: DecodingConfig, limits: Sequence[int] = LIMITS) -> list[Generated]:
    return decode_rows(
        llm, renderer_of(llm), rows, config, languages=LANGUAGES, speech=speech_of(llm), lengths=LENGTHS, limits=limits
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_shards_and_one_file_are_the_same_model(name: str, folder_of: Folders) -> None:
    whole, sharded = (
        load_family(name, folder_of(name, sharded=sharded), "bfloat16").state_dict() for sharded in (False, True)
    )
    assert whole.keys() == sharded.keys()
    saved = reference_of(name, folder_of(name), torch.bfloat16).state_dict()
    for key, weight in whole.items():
        assert weight.dtype == torch.bfloat16, key
        assert torch.equal(weight, sharded[key]), key
        assert torch.equal(weight, saved[key.removeprefix("model.")]), key


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_is_that_of_the_familys_own_model(name: str, llm_of: Callable[[str], Llm], folder_of: Folders) -> None:
    llm, model = llm_of(name), reference_of(name, folder_of(name))
    renderer = renderer_of(llm)
    prompts = [renderer.render(*pair) for pair in LANGUAGES]
    targets = [renderer.encode_target(text) for text in TEXTS]
    speech = speech_of(llm)
    losses = llm.loss(prompts, speech, LENGTHS, targets)
    rows = [own_loss(model, prompts[i], speech[i, :length], targets[i]) for i, length in enumerate(LENGTHS.tolist())]
    torch.testing.assert_close(losses, torch.stack(rows), atol=1e-3, rtol=1e-5)
    (found,) = torch.autograd.grad(losses.sum(), speech)
    (expected,) = torch.autograd.grad(torch.stack(rows).sum(), speech)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)
    assert all(found[i, :length].any() for i, length in enumerate(LENGTHS.tolist()))
    assert all(weight.grad is None and not weight.requires_grad for weight in llm.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_in_bfloat16(name: str, folder_of: Folders) -> None:
    llm = load_family(name, folder_of(name), "bfloat16")
    model = reference_of(name, folder_of(name), torch.bfloat16)
    renderer = renderer_of(llm)
    prompts = [renderer.render(*pair) for pair in LANGUAGES]
    targets = [renderer.encode_target(text) for text in TEXTS]
    speech = speech_of(llm)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = llm.loss(prompts, speech, LENGTHS, targets).sum()
    rows = [own_loss(model, prompts[i], speech[i, :length], targets[i]) for i, length in enumerate(LENGTHS.tolist())]
    assert loss.dtype == torch.float32
    assert abs(loss.item() - torch.stack(rows).sum().item()) / sum(map(len, targets)) < 0.1
    (gradient,) = torch.autograd.grad(loss, speech)
    assert gradient.dtype == torch.float32 and gradient.isfinite().all()


@pytest.mark.parametrize("decoding", DECODINGS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_decodes_alone_as_in_a_batch(name: str, decoding: str, llm_of: Callable[[str], Llm]) -> None:
    llm = llm_of(name)
    together = decode(llm, [0, 1, 2, 3], DECODINGS[decoding])
    # In another order, too.
    assert decode(llm, [2, 0], DECODINGS[decoding]) == [together[2], together[0]]
    assert [decode(llm, [row], DECODINGS[decoding])[0] for row in range(4)] == together
    assert len({tuple(row.tokens) for row in together}) == 4, "equal hypotheses would not show a mixed-up row"
    for row, limit in zip(together, LIMITS, strict=True):
        assert len(row.tokens) <= limit and row.cut == (len(row.tokens) >= limit)


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_decoding_takes_the_best_token(name: str, llm_of: Callable[[str], Llm], folder_of: Folders) -> None:
    """Whatever the checkpoint's generation_config.json says about sampling and penalties."""
    llm, model = llm_of(name), reference_of(name, folder_of(name))
    renderer = renderer_of(llm)
    stops = set(stop_tokens(llm.model.generation_config, llm.tokenizer, renderer.end_of_turn))  # type: ignore[arg-type]
    embed = model.get_input_embeddings()  # type: ignore[operator]
    for row, found in enumerate(decode(llm, [0, 1, 2, 3], DecodingConfig())):
        prompt = renderer.render(*LANGUAGES[row])
        inputs = [embed(torch.tensor(prompt.before)), speech_of(llm)[row, : LENGTHS[row]]]
        if FAMILIES[name].chat:
            inputs.append(embed(torch.tensor([*prompt.after, *found.tokens])))
            logits = model(inputs_embeds=torch.cat(inputs).unsqueeze(0)).logits[0, -len(found.tokens) - 1 :]
        else:
            inputs.append(embed(torch.tensor(prompt.after)))
            logits = model(
                inputs_embeds=torch.cat(inputs).unsqueeze(0), decoder_input_ids=torch.tensor([[0, *found.tokens]])
            ).logits[0]
        best = logits.argmax(-1).tolist()
        assert best[:-1] == found.tokens
        assert found.cut or best[-1] in stops


@pytest.mark.parametrize("name", ["llama", "mt5"])
def test_a_limit_cuts_what_would_have_gone_on(name: str, llm_of: Callable[[str], Llm]) -> None:
    long = decode(llm_of(name), [0, 1, 2, 3], DecodingConfig(), limits=[20, 20, 20, 20])
    cut = decode(llm_of(name), [0, 1, 2, 3], DecodingConfig())
    assert [row.tokens for row in cut] == [row.tokens[:limit] for row, limit in zip(long, LIMITS, strict=True)]
    assert any(row.cut for row in cut)


@pytest.mark.parametrize("name", ["llama", "mt5"])
def test_a_hypothesis_ends_at_any_of_the_ends(name: str, folder_of: Folders) -> None:
    llm = load_family(name, folder_of(name))
    assert isinstance(llm, (CausalLlm, EncoderDecoderLlm)) and llm.model.generation_config is not None
    found = decode(llm, [0, 1, 2, 3], DecodingConfig())
    row = max(range(4), key=lambda row: len(found[row].tokens))
    other = found[row].tokens[3]
    llm.model.generation_config.eos_token_id = [*llm.model.generation_config.eos_token_id, other]
    expected = Generated(found[row].tokens[: found[row].tokens.index(other)], cut=False)
    assert decode(llm, [row], DecodingConfig()) == [expected]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_ends_are_those_of_template_tokenizer_and_checkpoint(name: str, llm_of: Callable[[str], Llm]) -> None:
    llm = llm_of(name)
    assert isinstance(llm, (CausalLlm, EncoderDecoderLlm))
    end_of_turn = renderer_of(llm).end_of_turn
    assert llm.tokenizer.convert_ids_to_tokens(end_of_turn) == FAMILIES[name].end_of_turn
    expected = {*FAMILIES[name].stops, FAMILIES[name].end_of_turn, llm.tokenizer.eos_token}
    stops = stop_tokens(llm.model.generation_config, llm.tokenizer, end_of_turn)
    assert set(llm.tokenizer.convert_ids_to_tokens(stops)) == expected


def test_a_soft_cap_on_attention_is_not_left_out(llm_of: Callable[[str], Llm]) -> None:
    llm = llm_of("gemma2")
    assert isinstance(llm, CausalLlm)
    assert llm.config.attention == llm.identity()["attention"] == "eager"
    other = llm_of("gemma3")
    assert isinstance(other, CausalLlm)
    assert other.config.attention == "sdpa"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_trains_an_adapter(
    name: str, folder_of: Folders, tiny_whisper: Path, tiny_manifest: Path
) -> None:
    """Five steps lower the loss; the weights and the configuration give the trained system back."""
    part = "causal" if FAMILIES[name].chat else "encoder_decoder"
    whisper = {"path": str(tiny_whisper), "dtype": "float32", "pad_to_30s": False}
    config = SpeechLlmConfig(
        encoder=PartSection(name="whisper", config=whisper),
        adapter=PartSection(name="mlp", config={"stack": 5, "hidden_dim": 48}),
        llm=PartSection(name=part, config={"path": str(folder_of(name, sharded=True)), "dtype": "float32"}),
        ctc=CtcConfig(weight=0.1),
    )
    torch.manual_seed(0)
    model = create_speech_llm(config).train()
    batch = batch_of_files([tiny_manifest / f"train_{i}.{('wav', 'flac')[i % 2]}" for i in range(4)], "en", None)
    for clip, text in zip(batch, TEXTS, strict=True):
        clip.text = clip.transcript = text
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss = model(batch)
        optimizer.zero_grad()
        loss.total.div(loss.num_targets).backward()
        optimizer.step()
        losses.append(loss.total.item())
    assert losses[-1] < losses[0]
    trained = model.eval().generate(batch, DecodingConfig(extra_tokens=4, tokens_per_second=2.0))
    other = create_speech_llm(model.config).eval()
    other.load_state_dict(model.state_dict())
    assert other.generate(batch, DecodingConfig(extra_tokens=4, tokens_per_second=2.0)) == trained


def test_an_encoder_decoder_of_another_family(folder_of: Folders) -> None:
    folder = folder_of("llama")
    with pytest.raises(UserError) as caught:
        create_encoder_decoder_llm(EncoderDecoderLlmConfig(path=str(folder)))
    assert str(caught.value) == (
        f"llm.config.path: {folder} holds a model of type 'llama', expected one of mt5, t5, umt5"
    )


def test_each_published_llm_has_a_file_of_its_settings() -> None:
    files = {file.stem: parse_yaml(file.read_text()) for file in AXES.glob("*.yaml")}
    assert files.keys() == LLM_ARCHS.keys()
    for name, values in files.items():
        assert values.keys() == {"model"} and values["model"].keys() == {"config_overrides"}
        overrides = structure(SpeechLlmConfig, values["model"]["config_overrides"], "model")
        assert overrides.llm.arch == name
        assert overrides.llm.name == LLM_ARCHS[name].part
        assert LLMS.config(overrides.llm.name, overrides.llm.config).path == LLM_ARCHS[name].path
