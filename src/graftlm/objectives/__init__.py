"""What makes a loss from raw text: an objective a file."""
