"""What other libraries read and write, in their formats and names."""
