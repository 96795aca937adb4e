"""The embedded default: real pretrained parts and synthetic speech that pip alone can bring."""
