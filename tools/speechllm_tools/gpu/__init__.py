"""`speechllm gpu`: measurements that need a machine with a GPU."""
