"""Channel groups: which rows of which tensors live and die together, and what each of them costs."""
