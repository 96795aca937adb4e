"""The data of the embedded sweep: recognition and translation in five languages, small enough for a CPU."""
