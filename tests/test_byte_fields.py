"""Numbers parsed many at once: the same bits as float(), whatever their form."""

import numpy as np
import pytest

from models.byte_fields import parse_numbers

FORMS = ("%.9g", "%.17g", "%.15f", "%.16f", "%.1f", "%.0f", "%e", "%+.5f", " %.3f")
ODD = [
    "-0.0",
    "0.",
    "-.5",
    ".5",
    "0",
    "-0",
    "-",
    "7",
    "-7",
    "00.5",
    "0.5e3",
    "-0.25E-2",
    "1_0",
    "inf",
    "-0.999999999999999",
]


def fields(texts: list[str]) -> tuple[bytes, np.ndarray, np.ndarray]:
    """One text on each line; where each starts and ends."""
    text = "".join(f"{field}\n" for field in texts).encode()
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
    return text, np.concatenate([[0], ends[:-1] + 1]), ends


@pytest.mark.parametrize("form", FORMS)
def test_every_bit_is_that_of_float(form):
    generator = np.random.default_rng(0)
    values = generator.standard_normal(2000) * 10.0 ** generator.integers(-6, 2, 2000)
    texts = [form % value for value in values]
    numbers = parse_numbers(*fields(texts))
    assert numbers.tobytes() == np.array([float(text) for text in texts]).tobytes()


@pytest.mark.parametrize("odd", [text for text in ODD if text != "-"])
def test_an_odd_one_between_plain_ones(odd):
    texts = ["0.123456789", odd, "-0.5", odd]
    assert parse_numbers(*fields(texts)).tobytes() == np.array([float(text) for text in texts]).tobytes()


@pytest.mark.parametrize("wrong", ["-", "x", "0.12345678x", "0.1,5", "0.:", "0x1", "0.\xff", "--0.5", "0.1 2"])
def test_what_is_no_number(wrong):
    with pytest.raises((ValueError, IndexError)):
        parse_numbers(*fields(["0.5", wrong]))
