"""Name photographs of the user: find them, read ahead, ask a model, go on after an end, write what others read."""
