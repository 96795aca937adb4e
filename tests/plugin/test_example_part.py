"""Parts of another package: installed by their entry points they are chosen, trained and inspected like ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, Commands, System
from tests.waiting import LONGEST

ARCH = "log_mel.smollm2_135m.mean_pool"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where setuptools has put the example, offline and without pip's build environment."""
    target = tmp_path_factory.mktemp("site")
    source = ROOT / "docs/example_part"
    build = tmp_path_factory.mktemp("build") / "example_part"
    subprocess.run(["cp", "-r", str(source), str(build)], check=True, timeout=60)
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "install_lib", "--install-dir", str(target),
         "install_egg_info", "--install-dir", str(target)],
        cwd=build, check=True, timeout=LONGEST,
    )
    return target


def test_parts_of_another_package_are_like_ours(
    commands: Commands, installed: Path, system: System, tmp_path: Path
) -> None:
    env = {"PYTHONPATH": str(installed)}
    llm = {"arch": None, "config": {"path": str(system.llm)}}
    file = system.write(
        tmp_path / "config.yaml",
        model={"arch": ARCH, "config_overrides": {"llm": llm, "adapter": {"config": {"pool": 5}}}},
        dataset__valid_decode=False, regime__score_metric="nll_loss", regime__num_steps=2,
        lr_scheduler__config__num_warmup_steps=1,
    )
    run, clip = tmp_path / "run", system.corpus / "test_0.wav"
    commands.recipe("train", run, "--config-file", file, env=env).ok()
    inspected = json.loads(commands.speechllm("inspect", run, "--seconds", "1", "--json", env=env).ok().stdout)
    # 100 frames a second, five of them in a vector; nothing is said of the adapter but what its code does.
    assert inspected["training"]["frames"] == 100 and inspected["training"]["vectors"] == 20
    assert inspected["output"]["depends_on_content"] is False
    assert inspected["adapter"]["parameters"] == 40 * 32 + 32 + 2 * 32
    assert inspected["encoder"]["parameters"] == 0 and inspected["encoder"]["config"] == {"num_mels": 40}
    transcribed = commands.speechllm("transcribe", "--checkpoint", run, clip, env=env).ok()
    assert transcribed.stdout.startswith(f"{clip}\t")
    line = commands.speechllm("inspect", "log_mel.smollm2_135m.mean_pol", env=env).user_error()
    assert "did you mean log_mel.smollm2_135m.mean_pool" in line
    # Without the package the names are unknown.
    assert f"found '{ARCH}'" in commands.speechllm("inspect", run).user_error()


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
