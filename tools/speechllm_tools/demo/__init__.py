"""The embedded default: real pretrained parts and synthetic speech, which pip can install."""
