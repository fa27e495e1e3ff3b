"""Attribution: which parts of the features a unit depends on."""
