"""`hf`: a folder that `transformers.AutoModel` loads beside `speechllm_plugin.hf`."""

from __future__ import annotations

from pathlib import Path

from speechllm_tools.export.api import Format


class HfFormat(Format):
    summary = "a folder for transformers, with what was trained"
    flags = {
        "with-frozen": "copy encoder and LLM, too (default: name their paths or hub ids and the identity of their "
        "weights)",
        "merge-lora": "add what was trained of the LLM to its weights, and write them to OUT/llm, a plain checkpoint "
        "of transformers",
    }

    def check(self) -> None:
        if "merge-lora" in self.export.flags:
            from speechllm_plugin.models.speech_llm.merging import check_mergeable

            config = self.export.checkpoint.config(self.export.overrides)
            config.resolve()
            check_mergeable(config)

    def write(self, folder: Path) -> str:
        from speechllm_tools.light_imports import import_transformers

        import_transformers()

        from speechllm_plugin.hf.folder import write_folder
        from speechllm_plugin.models.speech_llm.preflight import check_before_loading

        checkpoint, overrides, flags = self.export.checkpoint, self.export.overrides, self.export.flags
        copied = ("encoder", "llm") if "with-frozen" in flags else ()
        if "merge-lora" in flags:
            return self._write_merged(folder, tuple(part for part in copied if part != "llm"))
        config = checkpoint.config(overrides)
        check_before_loading(config)
        weights = checkpoint.weights()
        write_folder(
            folder, config, checkpoint.decoding(), weights, longest_clip=checkpoint.longest_clip(), copied=copied
        )
        return f"{len(weights)} trained weights, frozen parts {'copied' if copied else 'named'}"

    def _write_merged(self, folder: Path, copied: tuple[str, ...]) -> str:
        from speechllm_plugin.hf.folder import write_merged
        from speechllm_plugin.models.speech_llm.checkpoint import load_model

        checkpoint, overrides = self.export.checkpoint, self.export.overrides
        # In the precision of training and not in that of this machine, since the weights are only written.
        dtypes = {f"{part}.config.dtype": dtype for part, dtype in checkpoint.precision().items()}
        system = load_model(checkpoint, device="cpu", overrides={**dtypes, **overrides})
        write_merged(folder, system, checkpoint.decoding(), longest_clip=checkpoint.longest_clip(), copied=copied)
        line = f"the LLM with its updates in {system.precision['llm']}"
        if system.precision["llm"] != "float32":
            line += " (rounded to it: texts may differ; --set llm.config.dtype=float32 is exact)"
        return line


FORMAT = HfFormat
