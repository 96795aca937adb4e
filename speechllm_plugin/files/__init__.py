"""Files of text: tables, YAML, and writing a file whole or not at all."""
