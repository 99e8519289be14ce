"""DiMP with a regular and a found backbone, compared."""
