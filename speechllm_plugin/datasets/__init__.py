"""Data on disk: manifests, audio files and the fairseq2 dataset family over them."""
