"""From a corpus on disk to manifests: the contract of a corpus, and all that corpora share."""
