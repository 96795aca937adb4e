"""Work in shards on the cores and GPUs of this machine, or on a Ray cluster."""
