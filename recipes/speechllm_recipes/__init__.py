"""The recipes of speechllm-plugin and the `fairseq2` command that runs them."""

# Before any import of fairseq2: see speechllm_plugin.sndfile.
import speechllm_plugin  # noqa: F401
