"""From fragments to a published site: schema, fragments, sheets, build, site, serve, validate (DESIGN 7)."""
