"""Many fields of a text in memory at once: as words that compare fast, and as numbers."""

from functools import lru_cache

import numpy as np

MOST_DIGITS = 15  # with which a number times a power of ten is exact in float64


def take(text: bytes, starts: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The n fields at `starts`, (n, W) words of 8 bytes, of which `mask` keeps what `first_bytes` was told."""
    width = 8 * mask.shape[-1]
    if starts[-1] + width > len(text):
        text += bytes(width)
    places = np.ndarray(len(text) - width + 1, f"V{width}", text, strides=(1,))  # what stands at every place
    return places[starts].view(np.uint64).reshape(len(starts), -1) & mask


def first_bytes(lengths: np.ndarray | int) -> np.ndarray:
    """(n, W) words, or (W,) for one length, whose first `lengths` bytes are 255 and the others 0."""
    return masks(-(-int(np.max(lengths)) // 8))[lengths]


@lru_cache
def masks(words: int) -> np.ndarray:
    """(8 · words + 1, words): row n keeps n bytes."""
    size = 8 * words
    return np.where(np.arange(size) < np.arange(size + 1)[:, None], 255, 0).astype(np.uint8).view(np.uint64)


def parse_numbers(text: bytes, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The n numbers from `starts` to `ends` as (n,) float64, to the last bit as float() reads them.

    Those of the form -0.123456789, as cosines are, have their digits added up eight at a time: digits and the power of
    ten are exact, so that only their quotient is rounded.  The others are left to numpy.  ValueError for no number.
    """
    negative = np.frombuffer(text, np.uint8)[starts] == ord("-")
    first = starts + negative + 2  # the first digit, behind `0.`
    digits = np.minimum(np.maximum(ends - first, 1), MOST_DIGITS)
    mask = masks(2)[digits]
    words = take(text, first, mask) ^ every_byte(ord("0")) & mask  # (n, 2), a byte for each of 16 digits
    high, low = words.T
    others = (high | low | high + every_byte(0x76) | low + every_byte(0x76)) & every_byte(0x80) != 0  # a byte over 9
    others |= np.ndarray(len(text) - 1, "<u2", text, strides=(1,))[first - 2] != int.from_bytes(b"0.", "little")
    others |= ends - first != digits

    numbers = (eight_digits(high) * np.uint64(10**8) + eight_digits(low)) / 1e16
    np.negative(numbers, out=numbers, where=negative)
    if others.any():
        fields = take(text, starts[others], first_bytes((ends - starts)[others]))
        numbers[others] = fields.view(f"S{8 * fields.shape[1]}")[:, 0].astype(np.float64)
    return numbers


def every_byte(value: int) -> np.uint64:
    return np.uint64(value * 0x0101010101010101)


def eight_digits(words: np.ndarray) -> np.ndarray:
    """(n,) words of eight bytes 0 to 9, the first digit in the lowest, -> (n,) uint64 below 10⁸."""
    for bits, mask in ((8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF), (32, 0x00000000FFFFFFFF)):
        words = words * np.uint64(10 ** (bits // 8)) + (words >> np.uint64(bits)) & np.uint64(mask)
    return words
