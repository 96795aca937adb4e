"""Workarounds for other software, one in each file. A file is removed when a version no longer needs it.

| file | of | goes with |
|---|---|---|
| `local_paths` | fairseq2 0.8 | a version that reads back the escapes that it writes into paths |
| `log_filter` | fairseq2 0.8 | one that reports a user's mistake in one line and hides secrets of the environment |
| `one_config` | fairseq2 0.8 | one that reads the configuration of a run once |
| `stop_signal` | fairseq2 0.8 | one that ends by the signal that stopped it |
| `strict_numbers` | fairseq2 0.8 | one that refuses 3.7 for an integer |
| `sndfile` | fairseq2n 0.8 | one that brings libsndfile, or does without |
| `threads` | PyTorch's wheels | libgomp threads that sleep at barriers |
| `transformers_versions` | transformers 4.57 | the end of its support |
"""
