import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from skseg.data import eval_transform, train_transform
from skseg.pixels import denormalize, normalize

MEANS = st.tuples(*[st.floats(0, 1)] * 3)
STDS = st.tuples(*[st.floats(0.01, 1)] * 3)
GRAY = np.arange(256, dtype=np.uint8)
# Every value in every channel.
IMAGE = np.stack([GRAY, GRAY[::-1], np.roll(GRAY, 7)], axis=-1).reshape(16, 16, 3)
MASK = np.zeros((16, 16), np.uint8)


@given(mean=MEANS, std=STDS)
def test_training_and_evaluation_normalize_to_the_same_bits(mean: tuple, std: tuple) -> None:
    """Training by albumentations, evaluation by `normalize`."""
    still = train_transform((16, 16), (1, 1), flip=0, color_jitter=0, mean=mean, std=std)
    expected = still(image=IMAGE, mask=MASK)["image"]
    assert torch.equal(normalize(IMAGE, mean, std), expected)
    assert torch.equal(eval_transform(mean, std)(image=IMAGE, mask=MASK)["image"], expected)
    assert torch.equal(normalize(IMAGE[:, ::-1], mean, std), expected.flip(-1))


def test_normalizing_is_its_formula() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = torch.from_numpy((IMAGE / 255 - mean) / std).permute(2, 0, 1)
    out = normalize(IMAGE, mean, std)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), expected, atol=1e-6, rtol=0)


@given(mean=MEANS, std=STDS)
def test_denormalizing_undoes_it(mean: tuple, std: tuple) -> None:
    assert (denormalize(normalize(IMAGE, mean, std), mean, std) == IMAGE).all()
