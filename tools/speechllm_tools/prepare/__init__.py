"""Makes manifests from a corpus on disk: the contract of a corpus, and the code that corpora share."""
