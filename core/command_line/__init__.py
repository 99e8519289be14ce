"""Configurations, exit statuses and models named on a command line."""
