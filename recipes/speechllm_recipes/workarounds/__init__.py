"""What fairseq2 0.8.1 does not do as a user expects, one file each. A file goes when a version does it."""
