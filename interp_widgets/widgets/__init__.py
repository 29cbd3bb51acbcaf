"""One thin module per widget; `base.py` is what they share, `channel.py` takes intents in and sends states out."""
