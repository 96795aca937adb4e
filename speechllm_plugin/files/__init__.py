"""Files of text: tables, YAML, and writing that leaves no half of one."""
