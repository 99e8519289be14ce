"""Running trackers: their interface, the frame loop, videos."""
