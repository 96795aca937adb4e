#!/usr/bin/env bash
# transformers 4.57.6 and 5.24.0: a model with `rope_type: dynamic` answers by what it has read before. A text beyond
# `max_position_embeddings` changes the frequencies of its rotary positions, and they stay as the longest text so far
# had them: a text of 40 tokens has other logits after one of 200 than before it, in a call of its own. A text shorter
# than `max_position_embeddings` sets them back, and the same 40 tokens have their first logits again. So does each row
# of a batch depend on the longest one beside it (`longrope` of Phi 3, too, which remembers nothing).
#
# Makes a small Llama with random weights, reads texts in turn, and fails if that changes.
# Seen with Python 3.11 on Linux, torch 2.9.1 and 2.13.0:
#   dynamic: 40 tokens first and after 200 tokens: other logits; after 10 tokens: the first ones
#   longrope: 40 tokens after 200 tokens: the first ones
#   10 tokens in a batch beside 200: other logits (dynamic), other logits (longrope)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" \
    "torch==${TORCH:-2.9.1}" "transformers==${TRANSFORMERS:-4.57.6}" numpy
PYTHONPATH="$folder" TRANSFORMERS_VERBOSITY=critical python3 - <<'PYTHON'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

SCALED = {
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "longrope": {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 16,
                 "short_factor": [1.0] * 8, "long_factor": [4.0] * 8},
}


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-6)


texts = torch.randint(0, 50, (200,), generator=torch.Generator().manual_seed(1))
remembered, beside = {}, {}
for name, options in SCALED.items():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=16, rope_scaling=options, initializer_range=0.5,
    )).eval()

    @torch.no_grad()
    def read(count: int) -> torch.Tensor:
        return model(texts[None, :count]).logits

    first = read(40)
    read(200)
    after_long = read(40)
    short = read(10)
    remembered[name] = not near(first, after_long)
    assert near(first, read(40)), "a short text does not set them back"
    batch = texts.expand(2, -1)
    mask = torch.ones_like(batch)
    mask[0, 10:] = 0
    with torch.no_grad():
        beside[name] = not near(model(batch, attention_mask=mask).logits[:1, :10], short)
    print(f"{name}: other logits after a longer text: {remembered[name]}, beside one: {beside[name]}")
assert remembered == {"dynamic": True, "longrope": False}, "the behaviour has changed"
assert beside == {"dynamic": True, "longrope": True}, "the behaviour has changed"
print("as found: dynamic positions remember the longest text")
PYTHON
