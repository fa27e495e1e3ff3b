"""From joined rows to an atlas folder."""
