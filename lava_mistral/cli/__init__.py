"""The commands of `lava-mistral`."""
