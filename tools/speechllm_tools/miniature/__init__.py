"""Recognition and translation in five languages, small enough for a CPU: the data of the embedded sweep."""
