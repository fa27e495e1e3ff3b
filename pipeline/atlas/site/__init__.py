"""From atlases to a published site, and the preview server."""
