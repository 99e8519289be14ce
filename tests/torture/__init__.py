"""What machines and other people do to a program: damaged files, kills, full disks. `python -m tests.torture`."""
