"""One run of one recipe: its folder, its work plan, what its stages share."""
