"""The comparison of DiMP with a regular and a found backbone."""
