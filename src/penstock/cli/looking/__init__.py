"""The commands that look at streams, groups and consumers, and change nothing."""
