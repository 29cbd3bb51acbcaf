"""What ships in the wheel: the embedded models, the text they were trained on, and circuits that are known."""
