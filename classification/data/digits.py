"""scikit-learn's handwritten digits: 1,797 real grey images of 8x8 pixels that need no download.

Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998 (its
test part).
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from classification.data.arrays import array_split
from classification.data.config import DataConfig
from classification.data.dataset import ClassificationData
from classification.data.sampling import occurrence

_TEST_EVERY = 5


def open_digits(config: DataConfig) -> ClassificationData:
    """The digits, every fifth image of every class held out for testing.

    Pixel values run from 0 to 16. Mean and standard deviation are those of the whole training part.
    """
    digits = load_digits()
    images = digits.images.astype(np.uint8)[:, None]
    labels = digits.target
    held_out = occurrence(labels) % _TEST_EVERY == _TEST_EVERY - 1
    mean, std = [float(images[~held_out].mean())], [float(images[~held_out].std())]
    train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    return ClassificationData(
        name="digits",
        class_names=tuple(str(name) for name in digits.target_names),
        input_shape=(1, 8, 8),
        train=array_split(images, labels, mean=mean, std=std, rows=train),
        test=array_split(images, labels, mean=mean, std=std, rows=test),
        config=config,
    )
