"""The `speechllm` command and its subcommands, which `cli.py` lists."""
