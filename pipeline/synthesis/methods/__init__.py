"""Feature visualization methods, their objectives and presets."""
