"""What makes a release: notes, tags, and the trial of an image."""
