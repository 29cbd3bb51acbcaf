"""The science: functions of a live model and a question, returning dataclasses of arrays; nothing about notebooks."""
