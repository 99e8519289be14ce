"""Trackers at work: their interface, the frame loop, videos."""
