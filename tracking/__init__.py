"""Visual tracking: DiMP, data sets and evaluation that reproduces every published protocol."""
