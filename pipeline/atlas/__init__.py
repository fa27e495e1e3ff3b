"""From fragments to a published site: format, build, neighbors, validation, site."""
