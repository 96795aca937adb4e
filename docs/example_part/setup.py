"""An encoder and an adapter of another package: `pip install docs/example_part`, and their names can be used."""

from setuptools import setup

setup(
    name="speechllm-example-part",
    version="0.1.0",
    packages=["speechllm_example_part"],
    install_requires=["speechllm-plugin"],
    entry_points={
        "speechllm_plugin.adapters": ["mean_pool = speechllm_example_part.mean_pool"],
        "speechllm_plugin.encoders": ["log_mel = speechllm_example_part.log_mel"],
    },
)
