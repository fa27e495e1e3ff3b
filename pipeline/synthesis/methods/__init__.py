"""Feature visualization methods: what each minimizes, its options and presets."""
