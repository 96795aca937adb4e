"""Packaging of speechllm-plugin: four packages, two console scripts, one fairseq2 extension."""

from pathlib import Path

from setuptools import find_packages, setup

# Each package lives in the top-level folder that says what it is for. The folders themselves are not packages:
# an importable `kernels` would shadow Hugging Face's library of that name.
FOLDERS = {
    ".": "speechllm_plugin",
    "kernels": "speechllm_kernels",
    "recipes": "speechllm_recipes",
    "tools": "speechllm_tools",
}

packages = [
    package
    for folder, name in FOLDERS.items()
    for package in find_packages(folder, include=[name, f"{name}.*"])
]

# Trains and scores: the recipe, on the versions that fairseq2 is built for.
TRAIN = [
    "fairseq2==0.8.1",
    "torch==2.9.1",
    "transformers>=4.57,<5",
    # PyTorch brings it where it has builds for GPUs. Its interpreter cannot run range() over runtime values beside
    # numpy 2.4.
    'triton>=3.5; platform_system == "Linux" and platform_machine == "x86_64"',
    "numpy<2.4",
    "jiwer>=4,<5",
    "sacrebleu>=2.4,<3",
    # Tells hypotheses in the wrong language.
    "py3langid>=0.4,<0.5",
    # OpenAI's table of British spellings, for the normaliser `whisper_english`.
    "whisper-normalizer>=0.1,<0.2",
    "tensorboard>=2.16,<3",
    "rich>=13",
]
DEMO = [
    # Speech is synthesised at run time; the library and its voices come with this wheel (GPL, never bundled by us).
    "espeakng-loader==0.2.4",
    # Reads the GGUF file of the small LLM.
    "gguf>=0.10,<1",
    "accelerate>=1.0,<2",
]
# Reads m4a, mp4, webm, aac, amr, wma and others: FFmpeg comes with its wheel.
AUDIO = ["av>=12,<19"]
# Reads parquet, as Hugging Face's data sets are published in, and draws a manifest's histograms.
DATA = ["pyarrow>=18,<27", "matplotlib>=3.8"]
# Reads manifests and sound at s3://, https:// and what else fsspec knows.
REMOTE = ["fsspec>=2024.2", "s3fs>=2024.2", "aiohttp>=3.9"]
# Reads lhotse's cuts and shar.
LHOTSE = ["lhotse>=1.30,<2"]
# Spreads preparation, caching, answering and speaking over machines.
RAY = ["ray>=2.40,<3"]
# Finds the phrases of a list that a first pass heard nearly right.
BIASING = ["rapidfuzz>=3,<4"]
BENCH = ["torch-cif==0.2.0", "matplotlib>=3.8"]
# Trains updates of the LLM's and the encoder's layers.
LORA = ["peft>=0.15,<1"]
# Keeps the LLM in 8 or 4 bits, on a GPU.
QUANTIZATION = ["bitsandbytes>=0.46,<1", "accelerate>=1.0,<2"]
# Submits the cells of a sweep to SLURM.
SLURM = ["submitit>=1.5,<2"]
# COMET is in no list: pip finds no versions of it beside fairseq2 (numpy, protobuf). `speechllm comet install` puts it
# into a folder of its own, which only the process that scores looks into.
# Finds pauses in recordings that are longer than an encoder's window; its weights are in the wheel.
LONG = ["silero-vad[onnx-cpu]>=6.2,<7", "onnxruntime>=1.16,<2"]
# The server, which speaks OpenAI's audio API; multipart reads its uploads.
SERVE = [
    "fastapi>=0.115,<1", "starlette>=0.40", "uvicorn>=0.30,<1", "python-multipart>=0.0.18,<1",
    "prometheus-client>=0.20,<1", *LONG,
]
TEST = ["pytest>=8", "pytest-xdist>=3.7", "ruff==0.14.5", "mypy==1.18.2", "matplotlib>=3.8", "torch-cif==0.2.0",
        "psutil>=5.9",
        # Drives the pages in Chromium, where the machine has one.
        "selenium>=4.20,<5"]
# Writes encoder and adapter as ONNX files, and checks them.
EXPORT = ["onnx>=1.18,<2", "onnxscript>=0.5,<1", "onnxruntime>=1.20,<2"]

setup(
    name="speechllm-plugin",
    version="0.1.0",
    description="A fairseq2 plugin that connects a frozen speech encoder to a frozen LLM through a trained adapter",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=packages,
    package_dir={name: f"{folder}/{name}" for folder, name in FOLDERS.items()},
    package_data={
        "": ["py.typed"],
        "speechllm_kernels": ["**/*.md"],
        "speechllm_recipes": ["configs/**/*.yaml", "speech_llm/known_keys.json"],
        "speechllm_tools": ["report/published/*", "report/page/*", "serve/page/*"],
    },
    # The core: load a checkpoint and transcribe, beside any PyTorch from 2.9 on.
    install_requires=[
        "torch>=2.9",
        "transformers>=4.57,<6",
        "tokenizers>=0.22,<1",
        "safetensors>=0.5",
        "huggingface-hub>=0.34,<3",
        "numpy>=2.2",
        "sentencepiece>=0.2,<1",
        "protobuf>=4",
        "soxr>=0.5,<2",
        "soundfile>=0.12,<1",
        # Codes and names of languages; `data` holds the names.
        "langcodes[data]>=3.4,<4",
        "ruamel.yaml>=0.18,<1",
        "typing-extensions>=4.12",
    ],
    extras_require={"train": TRAIN, "audio": AUDIO, "demo": DEMO, "data": DATA, "remote": REMOTE,
                    "lhotse": LHOTSE, "ray": RAY, "biasing": BIASING, "bench": BENCH,
                    "lora": LORA, "quantization": QUANTIZATION, "long": LONG, "serve": SERVE, "slurm": SLURM,
                    "export": EXPORT,
                    "test": [*TRAIN, *TEST, *AUDIO, *DEMO, *DATA, *REMOTE, *LHOTSE, *BIASING, *LORA, *SERVE, *SLURM,
                             *EXPORT, "openai>=2,<4"]},
    entry_points={
        "console_scripts": [
            "fairseq2 = speechllm_recipes.cli:main",
            "speechllm = speechllm_tools.cli:main",
        ],
        "fairseq2.extension": ["speech_llm = speechllm_plugin.extension:setup"],
        "fairseq2.recipe": ["speech_llm = speechllm_recipes.speech_llm:RECIPE"],
    },
)
