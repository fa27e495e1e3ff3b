"""Synthesis: parameterizations, objectives and the optimization of many neurons' images together."""
