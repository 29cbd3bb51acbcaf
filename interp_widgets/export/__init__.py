"""What leaves the notebook: pages that show a view without a kernel."""
