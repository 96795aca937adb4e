"""A run whose manifests and audio are on a server that fails now and then."""

from __future__ import annotations

from pathlib import Path

from tests.commands import Commands, System, metrics
from tests.web_server import serving


def test_a_run_over_urls_is_the_run_over_files(commands: Commands, system: System, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    with serving(system.corpus) as site:
        # As a server does that is overloaded.
        site.fails_each = 7
        manifests = {split: f"{site.url}/{split}.tsv" for split in ("train", "dev")}
        config = system.write(tmp_path / "there.yaml", dataset__config_overrides={"manifests": manifests})
        result = commands.recipe("train", there, "--config-file", config).ok()
        assert site.requests > 7 * 3
    assert "503" in result.output and "asked again in " in result.output
    commands.recipe("train", here, "--config-file", system.write(tmp_path / "here.yaml")).ok()
    for name in ("train", "valid/dev"):
        assert metrics(here, name) == metrics(there, name)


def test_what_is_not_there_is_told_before_the_first_step(commands: Commands, system: System, tmp_path: Path) -> None:
    with serving(system.corpus) as site:
        manifests = {"train": f"{site.url}/none.tsv", "dev": f"{site.url}/dev.tsv"}
        config = system.write(tmp_path / "config.yaml", dataset__config_overrides={"manifests": manifests})
        line = commands.recipe("train", tmp_path / "run", "--config-file", config).user_error()
    assert line == f"{site.url}/none.tsv: found no such file, expected a TSV file"
