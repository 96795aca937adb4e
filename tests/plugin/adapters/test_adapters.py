"""Every adapter: exact lengths, nothing leaks from the padding, gradients reach all, the scale of the LLM's embeddings.

The dimensions of each are in `conftest.py`; what one adapter does beyond the contract is in its own file.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from speechllm_plugin.adapters.api import ADAPTERS, Adapter, AdapterOutput
from speechllm_plugin.errors import UserError
from speechllm_plugin.tensors.masks import length_mask

Create = Callable[..., Adapter]
Features = Callable[..., Tensor]

# Encoder frames in each vector; None where the content decides.
COMPRESSION = {"base": 1, "cif": None, "conv": 4, "ctc": None, "mlp": 5, "subsample": 4, "wlq_former": 16}
NAMES = list(COMPRESSION)
# Adapters that can score either side of their compression, on the other side too.
CASES = [(name, {}) for name in NAMES] + [("conv", {"ctc_frames": "after"}), ("wlq_former", {"ctc_frames": "after"})]
cases = pytest.mark.parametrize(("name", "options"), CASES, ids=["-".join([name, *o.values()]) for name, o in CASES])
# One frame; around a stack, four frames and a window; long enough for several windows.
LENGTHS = torch.tensor([1, 4, 5, 6, 23, 50])
TARGETS = torch.tensor([3, 0, 1, 2, 6, 14])  # more tokens than frames, none, and what speech has


def classify(frames: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
    """Scores frames by where they lie in the LLM's space."""
    return embed(frames)


def everything(output: AdapterOutput) -> Tensor:
    """A number that depends on all that training uses, each element with its own weight."""
    parts = [output.seqs, *output.losses.values()]
    if output.frame_logits is not None:
        assert output.frame_lengths is not None
        used = length_mask(output.frame_lengths, output.frame_logits.size(1)).unsqueeze(-1)
        parts.append(output.frame_logits.masked_fill(~used, 0.0))
    total = torch.zeros((), dtype=output.seqs.dtype)
    for seed, part in enumerate(parts):
        generator = torch.Generator().manual_seed(seed)
        total = total + (part * torch.randn(part.shape, generator=generator).to(part.dtype)).sum()
    return total


def test_all_are_registered() -> None:
    assert set(NAMES) <= set(ADAPTERS.names())


@cases
def test_lengths_are_exact_and_the_padding_is_zero(
    create_adapter: Create, encoder_features: Features, name: str, options: dict[str, str]
) -> None:
    adapter, compression = create_adapter(name, **options).eval(), COMPRESSION[name]
    output = adapter(encoder_features(LENGTHS), LENGTHS, classify=classify)
    found, lengths = output.lengths.tolist(), LENGTHS.tolist()
    if compression is not None:
        assert found == [-(-length // compression) for length in lengths]
    assert all(1 <= vectors <= length for vectors, length in zip(found, lengths, strict=True))
    assert output.lengths.dtype == output.frame_lengths.dtype == torch.int64
    assert output.seqs.shape == (len(lengths), max(found), 20)
    assert not output.seqs[~length_mask(output.lengths, max(found))].any()
    stride = adapter.frame_stride
    assert output.frame_lengths.tolist() == [-(-length // stride) for length in lengths]
    assert output.frame_logits.shape == (len(lengths), -(-50 // stride), 20)


@cases
def test_the_classifier_scores_frames_of_the_announced_width(
    create_adapter: Create, encoder_features: Features, name: str, options: dict[str, str]
) -> None:
    adapter = create_adapter(name, **options).eval()
    output = adapter(encoder_features(LENGTHS), LENGTHS, classify=lambda frames, embed: frames)
    assert output.frame_logits.size(2) == adapter.frame_dim


@cases
def test_a_row_is_the_same_alone_and_in_a_batch(
    create_adapter: Create, encoder_features: Features, name: str, options: dict[str, str]
) -> None:
    adapter, seqs = create_adapter(name, dropout=0.0, **options), encoder_features(LENGTHS)
    for mode in (adapter.train, adapter.eval):
        mode()
        output = adapter(seqs, LENGTHS, TARGETS, classify)
        for row, length in enumerate(LENGTHS.tolist()):
            one = slice(row, row + 1)
            alone = adapter(seqs[one, :length], LENGTHS[one], TARGETS[one], classify)
            vectors, frames = int(alone.lengths), int(alone.frame_lengths)
            assert output.lengths[row] == vectors
            torch.testing.assert_close(output.seqs[row, :vectors], alone.seqs[0], atol=1e-6, rtol=1e-4)
            torch.testing.assert_close(output.frame_logits[row, :frames], alone.frame_logits[0], atol=1e-6, rtol=1e-4)
            for key, loss in output.losses.items():
                torch.testing.assert_close(loss[one], alone.losses[key])
            if alone.starts is not None:
                assert torch.equal(output.starts[row, :vectors], alone.starts[0])
                assert torch.equal(output.ends[row, :vectors], alone.ends[0])


@pytest.mark.parametrize("training", [False, True], ids=["decoding", "training"])
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@cases
def test_what_lies_beyond_a_length_is_not_read(
    create_adapter: Create, encoder_features: Features, name: str, options: dict[str, str], poison: float,
    training: bool,
) -> None:
    adapter, clean = create_adapter(name, dropout=0.0, **options).train(training), encoder_features(LENGTHS)
    inside = length_mask(LENGTHS, clean.size(1))
    poisoned = clean.masked_fill(~inside.unsqueeze(-1), poison).requires_grad_()
    targets = TARGETS if training else None
    expected, output = adapter(clean, LENGTHS, targets, classify), adapter(poisoned, LENGTHS, targets, classify)
    assert torch.equal(output.seqs, expected.seqs)
    everything(output).backward()
    for parameter_name, parameter in adapter.named_parameters():
        if training or parameter.grad is not None:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
    assert poisoned.grad is not None and poisoned.grad.isfinite().all()
    # `subsample` discards three of four frames.
    read = inside & (torch.arange(inside.size(1)) % (4 if name == "subsample" else 1) == 0)
    assert poisoned.grad[read].any(-1).all()
    assert not poisoned.grad[~inside].any()


@pytest.mark.parametrize("length", [1, 2, 5, 17, 1500])  # around a stack and a window, up to Whisper's 30 s
@cases
def test_gradients_are_finite(
    create_adapter: Create, encoder_features: Features, name: str, options: dict[str, str], length: int
) -> None:
    adapter, lengths = create_adapter(name, **options).train(), torch.tensor([length, 1])
    output = adapter(encoder_features(lengths), lengths, torch.tensor([-(-length // 12), 0]), classify)
    everything(output).backward()
    for parameter_name, parameter in adapter.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name


@cases
def test_training_reaches_every_parameter(
    create_adapter: Create, encoder_features: Features, name: str, options: dict[str, str]
) -> None:
    adapter = create_adapter(name, **options).train()
    everything(adapter(encoder_features(LENGTHS), LENGTHS, TARGETS, classify)).backward()
    for parameter_name, parameter in adapter.named_parameters():
        # A key's bias never changes a softmax; one query has nothing but itself to attend to.
        idle = ("key.bias", ".attention.attention.query.weight", ".attention.attention.query.bias",
                ".attention.attention.key.weight")
        if not parameter_name.endswith(idle):
            assert parameter.grad is not None and parameter.grad.any(), parameter_name


@pytest.mark.parametrize("training", [False, True], ids=["decoding", "training"])
@cases
def test_gradients_are_those_of_finite_differences(
    create_adapter: Create, encoder_features: Features, name: str, options: dict[str, str], training: bool
) -> None:
    small = {"hidden_dim": 4} if name == "mlp" else {"dim": 4, "num_heads": 2, "ffn_dim": 4}
    adapter = create_adapter(name, dropout=0.0, **small, **options).double().train(training)
    torch.nn.init.ones_(adapter.norm.weight)
    lengths = torch.tensor([9, 2])
    seqs = encoder_features(lengths).double().requires_grad_()
    targets = torch.tensor([4, 5]) if training else None
    parameters = [parameter for _, parameter in sorted(adapter.named_parameters()) if parameter.numel() < 100]

    def loss(seqs: Tensor, *parameters: Tensor) -> Tensor:
        return everything(adapter(seqs, lengths, targets, classify))

    assert torch.autograd.gradcheck(loss, (seqs, *parameters[::3]), fast_mode=True)


@cases
def test_half_precision(
    create_adapter: Create, encoder_features: Features, name: str, options: dict[str, str]
) -> None:
    adapter, seqs = create_adapter(name, dropout=0.0, **options).train(), encoder_features(LENGTHS)
    # Labels that rounding cannot change.
    logits = torch.randn(len(LENGTHS), 50, 5, generator=torch.Generator().manual_seed(1))

    def fixed(frames: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
        return logits[:, : frames.size(1)] + 0.0 * embed(frames).float().mean()

    expected = adapter(seqs, LENGTHS, TARGETS, fixed)
    with torch.autocast("cpu", torch.bfloat16):
        output = adapter(seqs, LENGTHS, TARGETS, fixed)
    assert torch.equal(output.lengths, expected.lengths)
    error = (output.seqs.float() - expected.seqs).pow(2).mean().sqrt() / 0.03
    assert error < 0.05
    everything(output).float().backward()
    for parameter_name, parameter in adapter.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize("name", NAMES)
def test_speech_starts_at_the_scale_of_the_embeddings(
    create_adapter: Create, encoder_features: Features, name: str
) -> None:
    output = create_adapter(name).eval()(10 * encoder_features(LENGTHS), LENGTHS, classify=classify)
    rms = output.seqs[length_mask(output.lengths, output.seqs.size(1))].pow(2).mean().sqrt().item()
    assert rms == pytest.approx(0.03, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_dropout_is_off_in_evaluation_only(create_adapter: Create, encoder_features: Features, name: str) -> None:
    adapter, seqs = create_adapter(name, dropout=0.5), encoder_features(LENGTHS)

    def run(mode: Callable[[], Adapter]) -> Tensor:
        return mode()(seqs, LENGTHS, TARGETS, classify).seqs

    assert torch.equal(run(adapter.eval), run(adapter.eval))
    first, second = run(adapter.train), run(adapter.train)
    assert first.shape != second.shape or not torch.equal(first, second)


@pytest.mark.parametrize("name", NAMES)
def test_the_output_rate_is_the_one_announced(
    create_adapter: Create, encoder_features: Features, name: str
) -> None:
    adapter, lengths = create_adapter(name).eval(), torch.tensor([400])
    rate, compression = adapter.output_rate(50.0), COMPRESSION[name]
    if compression is None:
        assert rate is None
        return
    output = adapter(encoder_features(lengths), lengths)
    assert int(output.lengths) / (400 / 50.0) == rate == 50.0 / compression


@pytest.mark.parametrize("name", ["cif", "ctc"])
def test_spans_tell_which_frames_a_vector_stands_for(
    create_adapter: Create, encoder_features: Features, name: str
) -> None:
    adapter, seqs = create_adapter(name).eval(), encoder_features(LENGTHS)
    output = adapter(seqs, LENGTHS, classify=classify)
    assert output.starts.shape == output.ends.shape == output.seqs.shape[:2]
    assert output.starts.dtype == output.ends.dtype == torch.int64
    unused = ~length_mask(output.lengths, output.seqs.size(1))
    assert not output.starts[unused].any() and not output.ends[unused].any()
    for row, length in enumerate(LENGTHS.tolist()):
        starts = output.starts[row, : output.lengths[row]].tolist()
        ends = output.ends[row, : output.lengths[row]].tolist()
        assert starts[0] == 0 and ends[-1] <= length
        assert all(start < end for start, end in zip(starts, ends, strict=True))
        # Without a gap; cif's neighbours share the frame that was divided between them.
        shared = 1 if name == "cif" else 0
        assert starts[1:] == [end - shared for end in ends[:-1]]


@pytest.mark.parametrize("name", NAMES)
def test_layers_can_be_taken_one_by_one(create_adapter: Create, name: str) -> None:
    adapter = create_adapter(name)
    layers = [layer for layers in adapter.layer_lists() for layer in layers]
    assert len(layers) == {"base": 2, "cif": 2, "conv": 4, "ctc": 2, "mlp": 0, "subsample": 1, "wlq_former": 2}[name]


@pytest.mark.parametrize(
    ("name", "key", "value", "expected"),
    [
        ("base", "dim", 0, "a number of at least 1"),
        ("base", "num_heads", 7, "a divisor of dim, 24"),
        ("base", "num_layers", -1, "a number of at least 0"),
        ("base", "dropout", 1.0, "a number from 0 to below 1"),
        ("cif", "kernel", 4, "an odd number of at least 1"),
        ("cif", "quantity_weight", math.nan, "a number of at least 0"),
        ("conv", "kernel", -1, "an odd number of at least 1"),
        ("conv", "stride", 0, "a number of at least 1"),
        ("ctc", "layers_after", -1, "a number of at least 0"),
        ("mlp", "stack", 0, "a number of at least 1"),
        ("mlp", "dropout", -0.1, "a number from 0 to below 1"),
        ("subsample", "ratio", 0, "a number of at least 1"),
        ("wlq_former", "window_seconds", 0.0, "a number above 0"),
        ("wlq_former", "num_queries", 0, "a number of at least 1"),
    ],
)
def test_settings_that_cannot_be_are_one_line(
    create_adapter: Create, name: str, key: str, value: float, expected: str
) -> None:
    with pytest.raises(UserError) as caught:
        create_adapter(name, **{key: value})
    assert str(caught.value) == f"adapter.config.{key}: found {value!r}, expected {expected}"
