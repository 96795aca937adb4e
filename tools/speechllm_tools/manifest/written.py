"""Asks a frozen LLM in writing, in batches: its prompts have transcripts in the place of the speech."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch

from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.answering import answer
from speechllm_plugin.llms.api import LLMS, Llm
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.llms.encoder_decoder import MODEL_TYPES
from speechllm_plugin.llms.positions import check_positions
from speechllm_plugin.llms.texts_as_speech import embed_texts
from speechllm_plugin.models.speech_llm.archs import LLM_ARCHS
from speechllm_plugin.pretrained import Source, config_values, freeze
from speechllm_plugin.pretrained.identity import identity_of
from speechllm_plugin.prompts import PromptConfig, PromptRenderer, RenderedPrompt
from speechllm_plugin.tasks.answer import ANSWER
from speechllm_plugin.tasks.row_prompt import NOTHING, RowPrompt
from speechllm_plugin.tensors.precision import machine_precision
from speechllm_tools.shards.api import shards_of


@dataclass(frozen=True)
class Request:
    """A request to the LLM. Equal requests are answered once."""

    text: str
    """The transcript."""
    src_lang: str
    tgt_lang: str
    asks: RowPrompt = NOTHING
    """The rest of the prompt; without an instruction the transcript is the instruction."""

    @property
    def key(self) -> str:
        """A name for the request, the same in every manifest; samples follow from it and the seed."""
        values = json.dumps(asdict(self), sort_keys=True).encode(errors="surrogatepass")
        return hashlib.sha256(values).hexdigest()[:24]


@dataclass(frozen=True)
class Written:
    text: str
    cut: bool
    """Whether the length limit ended it."""


@dataclass(frozen=True)
class _Rendered:
    key: str
    where: str
    prompt: RenderedPrompt
    ids: list[int]


def load_llm(name: str, options: Mapping[str, object], device: torch.device) -> Llm:
    """
    :param name: name of a published LLM (`smollm2_135m`), a hub id, or a local directory.
    :param options: keys of the part's configuration, such as `dtype`.
    :raises UserError: there is no such checkpoint, or no such key.
    """
    if name in LLM_ARCHS:
        part, path, known = LLM_ARCHS[name].part, LLM_ARCHS[name].path, LLM_ARCHS[name].options
    else:
        encodes = config_values(Source(name, "--llm"))["model_type"] in MODEL_TYPES
        part, path, known = "encoder_decoder" if encodes else "causal", name, {}
    config = LLMS.config(part, {"path": path, **known, **options})
    if getattr(config, "dtype", None) == "auto":
        config.dtype = machine_precision(device).auto
    with device:
        llm = LLMS.get(part).build(config)
    return freeze(llm)


class WritingLlm:
    """Answers requests, each the same alone and in any batch."""

    def __init__(self, llm: Llm, prompt: PromptConfig, decoding: DecodingConfig) -> None:
        """
        :param decoding: only its `extra_tokens` limit an answer, since there is no audio.
        :raises UserError: the prompt or the decoding cannot be used.
        """
        decoding.check("decoding")
        self._llm = llm
        self._decoding = decoding
        self._prompts: dict[RenderedPrompt, RenderedPrompt] = {}
        self._renderer = PromptRenderer(llm.tokenizer, prompt, chat=llm.chat)

    def identity(self) -> dict[str, Any]:
        """The identity of the LLM: its configuration, and the hash of its weights."""
        return {**self._llm.identity(), "weights": identity_of(self._llm)}

    def check(self, requests: Mapping[str, Request]) -> None:
        """
        :param requests: requests by a name for messages, such as a row's place.
        :raises UserError: a request and its answer have no room in the LLM.
        """
        rendered = [self._render(where, request) for where, request in requests.items()]
        limit = self._decoding.limit(0.0)
        check_positions(
            self._llm, [one.where for one in rendered], [one.prompt for one in rendered],
            torch.tensor([len(one.ids) for one in rendered]), [limit] * len(rendered),
        )  # fmt: skip

    def answer(self, requests: Sequence[Request]) -> dict[str, Written]:
        """
        :returns: the answers of a batch, by the requests' keys.
        """
        batch = [self._render("", request) for request in requests]
        texts, generated = answer(
            self._llm,
            self._renderer,
            [one.prompt for one in batch],
            *embed_texts(self._llm, [one.ids for one in batch]),
            keys=[one.key for one in batch],
            seconds=[0.0] * len(batch),
            waveforms=[None] * len(batch),
            config=self._decoding,
        )
        return {
            one.key: Written(text, row.cut) for one, text, row in zip(batch, texts, generated, strict=True)
        }

    def _render(self, where: str, request: Request) -> _Rendered:
        prompt, ids = self._renderer.render_text(
            request.src_lang, request.tgt_lang, request.text, ANSWER, request.asks
        )
        # Equal prompts share one object: a million rows have few different ones.
        return _Rendered(request.key, where, self._prompts.setdefault(prompt, prompt), ids)


@dataclass(frozen=True)
class LlmChoice:
    """The choice of a `WritingLlm`, for processes that load their own."""

    name: str
    options: str
    """Keys of the LLM's configuration, as JSON."""
    device: str | None
    """None = a GPU where there is one."""
    system: str | None
    decoding: str
    """The configuration of decoding, as JSON."""


@lru_cache(maxsize=1)
def open_llm(choice: LlmChoice) -> WritingLlm:
    """
    :raises UserError: there is no such checkpoint or device, or a value cannot be used.
    """
    prompt = PromptConfig(system=choice.system)
    prompt.check()
    try:
        device = torch.device(choice.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise UserError(f"--device: found {choice.device!r}, expected cpu, cuda or cuda:N") from None
    llm = load_llm(choice.name, json.loads(choice.options), device)
    return WritingLlm(llm, prompt, DecodingConfig(**json.loads(choice.decoding)))


def identify(task: tuple[LlmChoice, Mapping[str, Request]]) -> dict[str, Any]:
    """The LLM's identity, after a check that all requests have room in it.

    :raises UserError: a request has no room.
    """
    choice, requests = task
    llm = open_llm(choice)
    llm.check(requests)
    return llm.identity()


def answer_batch(task: tuple[LlmChoice, Sequence[Request]]) -> dict[str, Written]:
    choice, requests = task
    return open_llm(choice).answer(requests)


def batches_of(requests: Iterable[Request], size: int) -> list[list[Request]]:
    """Batches of requests of similar length, in random order, so that the remaining time is known early."""
    batches = list(shards_of(sorted(requests, key=lambda request: len(request.text)), size))
    random.Random(0).shuffle(batches)
    return batches
