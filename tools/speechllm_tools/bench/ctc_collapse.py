"""The benchmark of CTC collapse: the argmax pass, the collapse itself, and both together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

import torch
from speechllm_kernels.ctc_collapse import ctc_collapse, ops
from torch import Tensor

from speechllm_tools.bench.framework import Benchmark, Case, Implementation, Inputs, Operation, Outputs, only_on

BLANK = 0
# The head of a small sentencepiece model, beside which the collapse takes the largest share of the time.
SMALL_VOCABULARY = 1024


def make_labels(case: Case) -> tuple[Tensor, Tensor]:
    """Frame labels [B, T] as a CTC head gives them (short peaks between runs of blanks) and lengths, on the CPU."""
    batch, frames, _, vocabulary = case.shape
    generator = torch.Generator().manual_seed(case.seed)
    lengths = torch.full((batch,), frames)
    if case.variant in ("ragged", "poisoned"):
        lengths = torch.randint(frames // 2, frames + 1, (batch,), generator=generator)
        lengths[0] = frames
    rows = []
    for _ in range(batch):
        peaks = torch.randint(1, vocabulary, (frames,), generator=generator) if vocabulary > 1 else torch.zeros(frames)
        labels = torch.stack([torch.zeros(frames), peaks], dim=1).reshape(-1).long()
        sizes = torch.stack([torch.randint(low, 5 - low, (frames,), generator=generator) for low in (0, 1)], dim=1)
        rows.append(labels.repeat_interleave(sizes.reshape(-1))[:frames])
    labels = torch.stack(rows)
    if case.variant == "silence":
        labels[0] = BLANK
    return labels, lengths


def count_runs(labels: Tensor, lengths: Tensor, keep_blank: bool) -> int:
    """The most runs that a row has."""
    begins = torch.nn.functional.pad(labels[:, 1:] != labels[:, :-1], (1, 0), value=True)
    begins &= torch.arange(labels.shape[1]) < lengths.unsqueeze(1)
    if not keep_blank:
        begins &= labels != BLANK
    return max(1, int(begins.sum(dim=1).max()))


def make_inputs(case: Case, *, logits: bool, keep_blank: bool = True, capped: bool = True) -> dict[str, Any]:
    """The inputs of a case. `slots` is the true number of slots; `cap` is the same, or None to let the operation find
    it."""
    batch, frames, channels, vocabulary = case.shape
    labels, lengths = make_labels(case)
    generator = torch.Generator(case.device).manual_seed(case.seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=case.device, dtype=case.dtype)

    inputs: dict[str, Any] = {"h": noise(batch, frames, channels), "lengths": lengths.to(case.device)}
    if logits:
        inputs["logits"] = noise(batch, frames, vocabulary)
        if case.variant == "ties":
            inputs["logits"].round_()
            labels = inputs["logits"].argmax(dim=2).cpu()
        else:
            peak = torch.full((batch, frames, 1), 8.0, dtype=case.dtype, device=case.device)
            inputs["logits"].scatter_(2, labels.to(case.device).unsqueeze(2), peak)
    else:
        inputs["labels"] = labels.to(case.device)
    runs = count_runs(labels, lengths, keep_blank)
    inputs["slots"] = max(1, runs // 2) if case.variant == "merged" and capped else runs
    inputs["cap"] = inputs["slots"] if capped else None
    if case.variant == "poisoned":
        padding = torch.arange(frames, device=case.device) >= inputs["lengths"].unsqueeze(1)
        for name in ("h", "logits"):
            if name in inputs:
                inputs[name].masked_fill_(padding.unsqueeze(2), float("nan"))
    return inputs


def collapse(backend: Any, weighting: Any, *, keep_blank: bool = True) -> Callable[[Inputs], Outputs]:
    def run(inputs: Inputs) -> Outputs:
        output = ctc_collapse(
            inputs["h"],
            inputs["lengths"],
            logits=inputs.get("logits"),
            labels=inputs.get("labels"),
            blank=BLANK,
            keep_blank=keep_blank,
            weighting=weighting,
            max_output_length=inputs["cap"],
            backend=backend,
        )
        return {name: value for name, value in output._asdict().items() if name != "host_lengths"}

    return run


def label_frames(backend: str, probabilities: bool) -> Callable[[Inputs], Outputs]:
    def run(inputs: Inputs) -> Outputs:
        labels, probability, _, sums = ops.label_frames(inputs["logits"], inputs["lengths"], probabilities, backend)
        return {"labels": labels, "probability": probability, "sums": sums} if probabilities else {"labels": labels}

    return run


def label_frames_reference(inputs: Inputs) -> Outputs:
    logits, lengths = inputs["logits"], inputs["lengths"]
    padding = torch.arange(logits.shape[1], device=logits.device) >= lengths.unsqueeze(1)
    sums = logits.logsumexp(dim=2)
    top, labels = logits.max(dim=2)[0], logits.argmax(dim=2)
    return {
        "labels": labels.masked_fill(padding, -1),
        "probability": (top - sums).exp().masked_fill(padding, 0.0),
        "sums": sums.masked_fill(padding, 0.0),
    }


def groupby_product(inputs: Inputs) -> Outputs:
    """The peers' way: Python's groupby over lists of labels, and a dense product with a [B, T, U] matrix."""
    h, labels = inputs["h"], inputs["labels"].tolist()
    rows = [
        [len(list(members)) for _, members in groupby(row[:n])]
        for row, n in zip(labels, inputs["lengths"].tolist(), strict=True)
    ]
    weights = torch.zeros((h.shape[0], h.shape[1], max(map(len, rows))), dtype=h.dtype)
    for b, sizes in enumerate(rows):
        start = 0
        for slot, size in enumerate(sizes):
            weights[b, start : start + size, slot] = 1.0 / size
            start += size
    return {"seqs": weights.to(h.device).transpose(1, 2) @ h}


def index_add(inputs: Inputs) -> Outputs:
    """The shortest vectorised version: numbers the runs by a prefix sum and adds frames up by index."""
    h, labels, width = inputs["h"], inputs["labels"], inputs["cap"]
    batch, frames, channels = h.shape
    inside = torch.arange(frames, device=h.device) < inputs["lengths"].unsqueeze(1)
    changes = torch.nn.functional.pad(labels[:, 1:] != labels[:, :-1], (1, 0)) & inside
    slot = changes.cumsum(dim=1).clamp(max=width - 1) + torch.arange(batch, device=h.device).unsqueeze(1) * width
    target = h.new_zeros((batch * width, channels), dtype=torch.float32)
    frames_inside = h.float() * inside.unsqueeze(2)
    sums = target.index_add(0, slot.reshape(-1), frames_inside.reshape(-1, channels))
    counts = target.new_zeros(batch * width).index_add(0, slot.reshape(-1), inside.reshape(-1).float())
    return {"seqs": (sums / counts.clamp(min=1).unsqueeze(1)).view(batch, width, channels).to(h.dtype)}


def logits_bytes(inputs: Inputs) -> int:
    logits = inputs["logits"]
    return int(inputs["lengths"].sum()) * logits.shape[2] * logits.element_size()


def collapse_bytes(inputs: Inputs) -> tuple[int, int]:
    """Forward reads the frames and writes the vectors; backward reads their gradients and writes those of all
    frames."""
    h = inputs["h"]
    vector = h.shape[2] * h.element_size()
    read = int(inputs["lengths"].sum()) * vector
    slots = h.shape[0] * inputs["slots"] * vector
    return read + slots, slots + h.numel() * h.element_size()


def collapse_bytes_without_blanks(inputs: Inputs) -> tuple[int, int]:
    """`collapse_bytes` without reading the frames of blanks."""
    forward, backward = collapse_bytes(inputs)
    padding = torch.arange(inputs["h"].shape[1], device=inputs["h"].device) >= inputs["lengths"].unsqueeze(1)
    blanks = int(((inputs["labels"] == BLANK) & ~padding).sum())
    return forward - blanks * inputs["h"].shape[2] * inputs["h"].element_size(), backward


def kernel_bytes(inputs: Inputs, *, weighted: bool = False) -> Mapping[str, int]:
    forward, backward = collapse_bytes(inputs)
    read = int(inputs["lengths"].sum()) * inputs["h"].shape[2] * inputs["h"].element_size()
    floors = {"ctc_pool_kernel": forward, "ctc_pool_backward_kernel": backward + (read if weighted else 0)}
    if "logits" in inputs:
        floors["ctc_label_frames_kernel"] = logits_bytes(inputs)
        floors["ctc_label_frames_backward_kernel"] = logits_bytes(inputs) + inputs["logits"].nbytes
    return floors


def whole_bytes(inputs: Inputs, *, weighted: bool) -> tuple[int, int]:
    """Bytes from logits on. Weights by probability read frames and logits once more, and write the logits' gradient."""
    forward, backward = collapse_bytes(inputs)
    forward += logits_bytes(inputs)
    if weighted:
        floors = kernel_bytes(inputs, weighted=True)
        backward = floors["ctc_pool_backward_kernel"] + floors["ctc_label_frames_backward_kernel"]
    return forward, backward


def ours(make: Callable[[str], Callable[[Inputs], Outputs]]) -> list[Implementation]:
    return [
        Implementation(name="triton", run=make("triton"), absent=only_on("cuda")),
        Implementation(name="torch", run=make("torch")),
    ]


def is_large(case: Case) -> bool:
    """Whether reading the logits is most of the work."""
    return case.shape[3] > SMALL_VOCABULARY


def is_small(case: Case) -> bool:
    return not is_large(case)


def default_cases(device: str) -> list[Case]:
    fp32, bf16 = torch.float32, torch.bfloat16
    if device == "cpu":
        shapes = [((1, 1500, 768, 32768), fp32, "full"), ((16, 1500, 768, SMALL_VOCABULARY), fp32, "ragged")]
    else:
        small = SMALL_VOCABULARY
        shapes = [
            ((32, 1500, 1280, small), bf16, "full"),
            ((32, 1500, 1280, small), bf16, "ragged"),
            ((32, 1500, 1280, small), bf16, "silence"),
            ((16, 1500, 768, small), fp32, "full"),
            ((8, 6000, 1024, small), bf16, "full"),
            ((64, 500, 512, small), bf16, "full"),
            *(((batch, 1500, 1280, v), bf16, "full") for v in (32768, 128256) for batch in (1, 8)),
        ]
    return [Case(shape=shape, dtype=dtype, device=device, variant=variant) for shape, dtype, variant in shapes]


def gate_cases(device: str) -> list[Case]:
    shapes = [
        ((3, 37, 20, 11), "full"),
        ((2, 1, 1, 3), "full"),  # one frame, one channel
        ((2, 2500, 17, 5), "silence"),  # a run across the blocks of the plan; channels that no vector divides
        ((4, 300, 300, 700), "poisoned"),  # NaN in the padding; a vocabulary that no block divides
        ((2, 64, 1280, 4500), "merged"),  # twice as many runs as slots
        ((2, 50, 33, 300), "ties"),
        ((1, 9, 40, 128256), "full"),  # the vocabulary of Llama 3
    ]
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    return [
        Case(shape=shape, dtype=dtype, device=device, variant=variant) for shape, variant in shapes for dtype in dtypes
    ]


BENCHMARK = Benchmark(
    dimensions=("B", "T", "C", "V"),
    last_dimension=lambda shape: 32768,
    variants={
        "full": "every row has T frames",
        "ragged": "rows of T/2 to T frames",
        "silence": "the first row is one run",
        "merged": "half as many slots as runs",
        "ties": "logits rounded to whole numbers",
        "poisoned": "ragged, with NaN in the padding",
    },
    cases=default_cases,
    gate_cases=gate_cases,
    operations=[
        Operation(
            name="labels",
            make_inputs=lambda case: make_inputs(case, logits=True),
            reference=lambda inputs: {"labels": label_frames_reference(inputs)["labels"]},
            implementations=[
                *ours(lambda backend: label_frames(backend, False)),
                Implementation(
                    name="torch.argmax", run=lambda inputs: {"labels": inputs["logits"].argmax(dim=2)}, baseline=True
                ),
            ],
            floor_bytes=lambda inputs: (logits_bytes(inputs), 0),
            kernel_floor_bytes=kernel_bytes,
            output=None,
            by_default=is_large,
        ),
        Operation(
            name="labels and probabilities",
            make_inputs=lambda case: make_inputs(case, logits=True),
            reference=label_frames_reference,
            implementations=[
                *ours(lambda backend: label_frames(backend, True)),
                Implementation(
                    name="torch.softmax",
                    run=lambda inputs: dict(
                        zip(("probability", "labels"), inputs["logits"].softmax(dim=2).max(dim=2), strict=True)
                    ),
                    baseline=True,
                ),
            ],
            floor_bytes=lambda inputs: (logits_bytes(inputs), 0),
            kernel_floor_bytes=kernel_bytes,
            output=None,
            by_default=is_large,
        ),
        Operation(
            name="collapse from labels",
            make_inputs=lambda case: make_inputs(case, logits=False),
            reference=collapse("reference", "mean"),
            by_default=lambda case: case.shape[3] <= 32768,
            implementations=[
                *ours(lambda backend: collapse(backend, "mean")),
                Implementation(name="index_add", run=index_add, baseline=True),
                Implementation(name="index_add, compiled", run=index_add, baseline=True, compiled=True),
                Implementation(name="groupby, dense product", run=groupby_product, baseline=True),
            ],
            floor_bytes=collapse_bytes,
            kernel_floor_bytes=kernel_bytes,
        ),
        Operation(
            name="collapse from labels, no cap",
            make_inputs=lambda case: make_inputs(case, logits=False, capped=False),
            reference=collapse("reference", "mean"),
            by_default=is_small,
            implementations=ours(lambda backend: collapse(backend, "mean")),
            floor_bytes=collapse_bytes,
        ),
        Operation(
            name="collapse from labels without blanks",
            make_inputs=lambda case: make_inputs(case, logits=False, keep_blank=False),
            reference=collapse("reference", "mean", keep_blank=False),
            by_default=is_small,
            implementations=ours(lambda backend: collapse(backend, "mean", keep_blank=False)),
            floor_bytes=collapse_bytes_without_blanks,
        ),
        Operation(
            name="collapse from logits, mean",
            make_inputs=lambda case: make_inputs(case, logits=True),
            reference=collapse("reference", "mean"),
            by_default=is_large,
            implementations=ours(lambda backend: collapse(backend, "mean")),
            floor_bytes=lambda inputs: whole_bytes(inputs, weighted=False),
            kernel_floor_bytes=kernel_bytes,
        ),
        Operation(
            name="collapse from logits, prob",
            make_inputs=lambda case: make_inputs(case, logits=True),
            reference=collapse("reference", "prob"),
            by_default=is_large,
            implementations=ours(lambda backend: collapse(backend, "prob")),
            floor_bytes=lambda inputs: whole_bytes(inputs, weighted=True),
            kernel_floor_bytes=lambda inputs: kernel_bytes(inputs, weighted=True),
            differentiate=("h", "logits"),
        ),
    ],
)
