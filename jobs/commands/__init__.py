"""What each command prints or does beside running stages."""
