"""Exported systems as models of transformers. To import it is to register them: `AutoConfig`, `AutoModel` and
`AutoProcessor` then load what `speechllm export --format hf` has written, and no code comes with the files.

    import speechllm_plugin.hf
    from transformers import AutoModel
    model = AutoModel.from_pretrained("exported")
"""

from transformers import AutoConfig, AutoModel

from speechllm_plugin.hf.configuration import HfSpeechLlmConfig
from speechllm_plugin.hf.modeling import HfSpeechLlm

AutoConfig.register(HfSpeechLlmConfig.model_type, HfSpeechLlmConfig)
AutoModel.register(HfSpeechLlmConfig, HfSpeechLlm)

__all__ = ["HfSpeechLlm", "HfSpeechLlmConfig"]
