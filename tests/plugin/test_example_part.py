"""Parts of another package: installed by their entry points they are chosen, trained and inspected like ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import PATHS, ROOT, System, environment

ARCH = "log_mel.smollm2_135m.mean_pool"
SCRIPT = """
import json, sys
from speechllm_recipes.cli import main as fairseq2
from speechllm_tools.cli import main as speechllm
work, config, clip = sys.argv[1:]
for argv in (["train", f"{work}/run", "--config-file", config], ):
    try:
        status = fairseq2(["recipe", "run", "speech_llm", *argv, "--no-rich"])
    except SystemExit as ended:
        status = ended.code
    assert not status, status
assert speechllm(["inspect", f"{work}/run", "--seconds", "1", "--json"]) == 0
assert speechllm(["transcribe", "--checkpoint", f"{work}/run", clip]) == 0
assert speechllm(["inspect", "log_mel.smollm2_135m.mean_pol"]) == 2
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where setuptools has put the example, offline and without pip's build environment."""
    target = tmp_path_factory.mktemp("site")
    source = ROOT / "docs/example_part"
    build = tmp_path_factory.mktemp("build") / "example_part"
    subprocess.run(["cp", "-r", str(source), str(build)], check=True)
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "install_lib", "--install-dir", str(target),
         "install_egg_info", "--install-dir", str(target)],
        cwd=build, check=True,
    )
    return target


def test_parts_of_another_package_are_like_ours(
    installed: Path, tiny_whisper: Path, tiny_llm: Path, tiny_manifest: Path, tmp_path: Path
) -> None:
    system = System(tiny_whisper, tiny_llm, tiny_manifest)
    values = system.config(
        model={"arch": ARCH, "config_overrides": {"llm": {"arch": None, "config": {"path": str(tiny_llm)}}}},
        dataset__valid_decode=False, regime__score_metric="nll_loss", regime__num_steps=2,
        lr_scheduler__config__num_warmup_steps=1,
    )
    (tmp_path / "config.yaml").write_text(json.dumps(values))
    clip = tiny_manifest / "test_0.wav"
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(tmp_path / "config.yaml"), str(clip)],
        env=environment(PYTHONPATH=":".join([str(installed), *PATHS]), FAIRSEQ2_EXTENSION_TRACE="1"),
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    text = result.stdout[result.stdout.index("{\n") :]
    inspected, end = json.JSONDecoder().raw_decode(text)
    # 100 frames a second, ten of them in a vector; nothing is said of the adapter but what its code does.
    assert inspected["training"]["frames"] == 100 and inspected["training"]["vectors"] == 10
    assert inspected["output"]["depends_on_content"] is False
    assert inspected["adapter"]["parameters"] == 40 * 32 + 32 + 2 * 32
    assert inspected["encoder"]["parameters"] == 0 and inspected["encoder"]["config"] == {"num_mels": 40}
    assert f"{clip}\t" in text[end:]
    assert "did you mean log_mel.smollm2_135m.mean_pool" in result.stderr


def test_an_adapter_without_frames_has_no_ctc(tiny_config: object) -> None:
    from torch import nn

    from speechllm_plugin.adapters.api import Adapter, AdapterShape
    from speechllm_plugin.errors import UserError
    from speechllm_plugin.models.speech_llm.config import CtcConfig
    from speechllm_plugin.models.speech_llm.sizes import create_ctc_head

    llm = nn.Module()
    shape = AdapterShape(4, 8, 50.0)
    assert Adapter.frame_dim is None
    assert create_ctc_head(CtcConfig(weight=0.0), None, shape, llm) is None  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^ctc\.weight: found 0\.1, expected 0: the adapter gives no frames"):
        create_ctc_head(CtcConfig(weight=0.1), None, shape, llm)  # type: ignore[arg-type]
