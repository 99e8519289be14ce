"""The method: trace, widen, score, search, rebuild. Knows no task, no data set and no command line."""
