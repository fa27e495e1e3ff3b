"""What a run is: the recipe, its sections, TOML in and out."""
