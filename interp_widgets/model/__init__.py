"""A live model and nothing about notebooks: where its parts are, what is done to them, and what it answers."""
