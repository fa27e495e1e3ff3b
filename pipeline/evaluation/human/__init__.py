"""The study in which people rate visualizations: answers, scores, agreement."""
