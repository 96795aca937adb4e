"""The reproduction card: what an appendix has to state about each run."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence

from speechllm_tools.report.runs import Run


def card(runs: Sequence[Run]) -> str:
    """Markdown with versions, commits, hashes, configuration, hours, commands, and hardware if it was recorded."""
    lines = ["# Reproduction card", "", f"    {shlex.join(['speechllm', *sys.argv[1:]])}", ""]
    for run in runs:
        lines += [f"## {run.name}", ""]
        if run.minutes is not None:
            lines.append(f"- training: {run.lines[-1]['Step']:,} steps, {run.minutes / 60:.2f} h wall time")
        else:
            lines.append("- training: no metrics recorded here")
        if not run.scores:
            lines.append("- evaluation: no score file")
        for number, (name, entry) in enumerate(run.scores.items()):
            made = entry.get("provenance", {})
            if number == 0:
                versions = ", ".join(f"{key} {value}" for key, value in made.get("versions", {}).items() if value)
                git = made.get("git") or {}
                changed = ", with changes" if git.get("dirty") else ""
                lines += [f"- versions: {versions}", f"- commit: {git.get('commit', 'not recorded')}{changed}"]
                for key in ("precision", "arithmetic", "encoder", "llm"):
                    if key in made:
                        lines.append(f"- {key}: {json.dumps(made[key], ensure_ascii=False)}")
                for file, digest in ((made.get("checkpoint") or {}).get("sha256") or {}).items():
                    lines.append(f"- checkpoint {file}: SHA-256 {digest}")
            for manifest in made.get("manifests", []):
                lines.append(f"- {name}: {manifest['path']}, SHA-256 {manifest['sha256']}")
        file = run.folder / "config.yaml"
        if file.is_file():
            lines += ["", "```yaml", file.read_text(encoding="utf-8").rstrip(), "```"]
        lines.append("")
    lines.append("Energy is not recorded: neither PyTorch nor fairseq2 reads it.")
    return "\n".join(lines) + "\n"
