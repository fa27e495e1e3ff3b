"""What an atlas folder holds: columns, paths, fragments, sheets, manifest."""
