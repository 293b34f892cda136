"""Files of labelled sequences: what is read, and messages about what cannot be."""

import numpy as np
import pytest

from jaxrnn.data import read_ts

HEADER = "# a comment\n@problemName Two\n@timeStamps false\n@univariate false\n@classLabel true up down\n@data\n"


def written(folder, text, encoding="utf-8"):
    path = folder / "some.ts"
    path.write_bytes(text.encode(encoding))
    return path


def test_sequences_of_many_lengths_are_read(tmp_path):
    path = written(tmp_path, HEADER + "1, 2,3:0,0,-1e-1:up\n\n7.58E-4:1:down\n", "utf-8-sig")
    found = read_ts(path)
    assert found.classes == ("up", "down") and found.labels == ("up", "down")
    np.testing.assert_array_equal(found.sequences[0], np.array([[1, 0], [2, 0], [3, -0.1]], np.float32))
    np.testing.assert_array_equal(found.sequences[1], np.array([[7.58e-4, 1]], np.float32))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "1,2:3,4:up\n:1:up\n", r"line 8: the sequence has no steps"),
        (HEADER + "up\n", r"line 7: expected values, a colon and a class, not 'up'"),
        (HEADER + "1,2:3,4:left\n", r"line 7: the class 'left' is not one of up, down, which the header lists"),
        (HEADER + "1,2:3:up\n", r"line 7: the channels have different lengths: \[2, 1\]"),
        (HEADER + "1,2:3,4:up\n1,2:up\n", r"line 8: 1 channels, but the first sequence has 2"),
        (HEADER + "1,?:3,4:up\n", r"line 7: .*Missing values \(\?\) must be filled in first"),
        (HEADER + "1,NaN:3,4:up\n", r"line 7: a value is not finite"),
        (HEADER, "holds no sequences"),
        ("@classLabel false\n@data\n1\n", "line 1: the sequences have no classes"),
        ("@targetlabel true\n@data\n1:2\n", "line 1: the sequences have no classes"),
        ("@timeStamps true\n@data\n(0,1):up\n", "line 1: time stamps are not supported"),
        ("1,2:up\n", "line 1: expected a line with @ before @data"),
    ],
)
def test_what_cannot_be_read_is_named(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_ts(written(tmp_path, text))


def test_another_encoding_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is not UTF-8: it has the byte 0xfc at position \d+. Save it in UTF-8"):
        read_ts(written(tmp_path, HEADER + "1:2:ü\n", "latin-1"))
