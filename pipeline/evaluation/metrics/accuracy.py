"""Accuracy: whether a classifier predicts the class that a visualization was made for (Acc@1, Acc@5 of VITAL)."""

import numpy as np


def class_rank(logits: np.ndarray, class_index: int) -> int:
    """The number of classes with a higher logit: 0 is first place. A tie counts against the class.

    Args:
        logits: [num_classes].
        class_index: of the target class.
    """
    others = np.delete(logits, class_index)
    return int((others >= logits[class_index]).sum())
