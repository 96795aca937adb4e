"""The adapter `wlq_former`, against transformers' Q-Former run on one window at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from speechllm_plugin.adapters.api import ADAPTERS, Adapter, AdapterShape
from speechllm_plugin.errors import UserError

LENGTHS = torch.tensor([1, 16, 17, 50])


@pytest.mark.parametrize(
    "options", [{}, {"num_queries": 3}, {"num_layers": 3, "cross_attention_every": 1}, {"window_seconds": 0.1}], ids=str
)
def test_vectors_are_those_of_transformers_q_former(
    create_adapter: Callable[..., Adapter], encoder_features: Callable[..., Tensor], options: dict[str, Any]
) -> None:
    from transformers import Blip2QFormerConfig, Blip2QFormerModel

    adapter, seqs = create_adapter("wlq_former", **options).eval(), encoder_features(LENGTHS)
    config = Blip2QFormerConfig(
        hidden_size=24,
        num_hidden_layers=options.get("num_layers", 2),
        num_attention_heads=4,
        intermediate_size=48,
        cross_attention_frequency=options.get("cross_attention_every", 2),
        encoder_hidden_size=24,
        use_qformer_text_input=False,
    )
    reference = Blip2QFormerModel(config).eval()
    reference.encoder.layer.load_state_dict(adapter.former.layers.state_dict())
    reference.layernorm.load_state_dict(adapter.former.norm.state_dict())
    output, window = adapter(seqs, LENGTHS), adapter.window
    factors = torch.randn(output.seqs.shape, generator=torch.Generator().manual_seed(1))
    loss = torch.zeros(())
    for row, length in enumerate(LENGTHS.tolist()):
        frames = adapter.project_in(seqs[row : row + 1, :length], torch.tensor([length]))
        vectors = [
            reference(
                adapter.former.queries.unsqueeze(0), encoder_hidden_states=frames[:, start : start + window]
            ).last_hidden_state
            for start in range(0, length, window)
        ]
        expected = adapter.project_out(torch.cat(vectors, dim=1))[0]
        assert output.lengths[row] == len(expected) == len(vectors) * options.get("num_queries", 1)
        torch.testing.assert_close(output.seqs[row, : len(expected)], expected, atol=1e-6, rtol=1e-4)
        loss = loss + (expected * factors[row, : len(expected)]).sum()
    loss.backward()
    (output.seqs * factors).sum().backward()
    # Parameters that both hold: each got its gradient from its own run.
    own = dict(adapter.former.layers.named_parameters())
    for name, parameter in reference.encoder.layer.named_parameters():
        torch.testing.assert_close(own[name].grad, parameter.grad, atol=1e-5, rtol=1e-3)


def test_a_vector_sees_its_window_alone(
    create_adapter: Callable[..., Adapter], encoder_features: Callable[..., Tensor]
) -> None:
    adapter, seqs = create_adapter("wlq_former", num_queries=2).eval(), encoder_features(LENGTHS)
    changed = seqs.clone()
    changed[3, 16] += 1.0  # the first frame of the second window
    before, after = adapter(seqs, LENGTHS).seqs, adapter(changed, LENGTHS).seqs
    differ = (before != after).any(-1)
    assert differ.nonzero().tolist() == [[3, 2], [3, 3]]


def test_windows_of_padding_are_not_computed(
    create_adapter: Callable[..., Adapter], encoder_features: Callable[..., Tensor]
) -> None:
    adapter = create_adapter("wlq_former").eval()
    computed: list[int] = []
    adapter.former.register_forward_hook(lambda module, inputs, output: computed.append(len(output)))
    adapter(encoder_features(LENGTHS), LENGTHS)
    assert computed == [1 + 1 + 2 + 4]


@pytest.mark.parametrize(
    ("window_seconds", "frame_rate", "frames"),
    [
        (0.33, 50.0, 16),  # Whisper: 16.5
        (0.33, 6.25, 2),  # SeamlessM4T: 2.06
        (0.29, 100.0, 29),  # 28.999999999999996 in floating point
        (0.34, 50.0, 17),
        (0.1, 6.25, 1),  # less than a frame
    ],
)
def test_windows_hold_whole_frames(window_seconds: float, frame_rate: float, frames: int) -> None:
    config = ADAPTERS.config("wlq_former", {"window_seconds": window_seconds})
    with torch.device("meta"):
        adapter = ADAPTERS.get("wlq_former").build(config, AdapterShape(32, 16, frame_rate))
    assert adapter.window == frames
    assert adapter.output_rate(frame_rate) == frame_rate / frames


@pytest.mark.parametrize("window_seconds", [1e9, 1e300])
def test_a_window_beyond_any_clip_holds_the_whole_clip(
    create_adapter: Callable[..., Adapter], encoder_features: Callable[..., Tensor], window_seconds: float
) -> None:
    """Without padding to its own end, terabytes away."""
    seqs = encoder_features(LENGTHS)
    one_second = create_adapter("wlq_former", window_seconds=1.0).eval()(seqs, LENGTHS)  # the longest clip
    found = create_adapter("wlq_former", window_seconds=window_seconds).eval()(seqs, LENGTHS)
    assert found.lengths.tolist() == [1, 1, 1, 1]
    torch.testing.assert_close(found.seqs, one_second.seqs)


@pytest.mark.parametrize("window_seconds", [math.inf, 1e308])
def test_a_window_without_an_end_is_one_line(create_adapter: Callable[..., Adapter], window_seconds: float) -> None:
    with pytest.raises(UserError) as caught:
        create_adapter("wlq_former", window_seconds=window_seconds)
    expected = "expected a finite number above 0"
    assert str(caught.value) == f"adapter.config.window_seconds: found {window_seconds!r}, {expected}"


def test_shapes_follow_from_the_lengths_alone(create_adapter: Callable[..., Adapter]) -> None:
    """Fake tensors, which hold no values, give the output's shape."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        output = create_adapter("wlq_former", num_queries=2)(torch.randn(1, 50, 24), torch.tensor([50]))
    assert output.seqs.shape == (1, 8, 20)


def test_ctc_can_score_the_final_vectors(
    create_adapter: Callable[..., Adapter], encoder_features: Callable[..., Tensor]
) -> None:
    adapter = create_adapter("wlq_former", ctc_frames="after", num_queries=2).eval()
    output = adapter(encoder_features(LENGTHS), LENGTHS, classify=lambda frames, embed: embed(frames))
    assert adapter.frame_stride == 8
    assert adapter.output_rate(50.0) == 6.25
    assert torch.equal(output.frame_lengths, output.lengths)
    for row, length in enumerate(output.lengths.tolist()):
        assert torch.equal(output.frame_logits[row, :length], output.seqs[row, :length])
    with pytest.raises(UserError) as caught:
        create_adapter("wlq_former", ctc_frames="after", num_queries=3)
    assert str(caught.value) == "adapter.config.num_queries: found 3, expected a divisor of the window, 16 frames"
