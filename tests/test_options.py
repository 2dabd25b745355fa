"""Claims about the words that options take."""

import argparse

import pytest

from bench.spec import options
from bench.spec.limits import Size


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (options.names, "torch, openvino", ("torch", "openvino")),
        (options.counts, "1,32", (1, 32)),
        (options.count, "1000000", 1_000_000),
        (options.natural, "0", 0),
        (options.axes, "engine=torch, batch=8", {"engine": "torch", "batch": 8}),
        (options.axes, "device=a=b", {"device": "a=b"}),
        (options.limits, "speedup=1.5,top1=-0.01", {"speedup": 1.5, "top1": -0.01}),
        (options.shapes, "images=1x3x640x640", {"images": (1, 3, 640, 640)}),
        (options.shapes, "a:0=1x2, rate=", {"a:0": (1, 2), "rate": ()}),
        (options.shapes, "a=b=7", {"a=b": (7,)}),
        (options.positive, "0.5", 0.5),
        (options.percent, "0.5%", 0.005),
        (options.percent, "50", 0.5),
        (options.size, "60KB", Size(bytes=60_000)),
        (options.size, "1.5 mb", Size(bytes=1_500_000)),
        (options.size, "812B", Size(bytes=812)),
        (options.size, "20%", Size(share=0.2)),
    ],
)
def test_a_text_is_read_as_what_it_stands_for(read, text, value):
    assert read(text) == value


NO_NUMBERS = ["", " ", "nan", "two", "1,,2", "-1", "0", "1.5.2", "--"]


@pytest.mark.parametrize(
    ("read", "text"),
    [
        *((options.names, text) for text in ("", " ", ",", "torch,", "a,,b")),
        *((options.counts, text) for text in [*NO_NUMBERS, "1.5", "inf", "1_000", "1000001", "9" * 5000]),
        *((options.counts, text) for text in ("\u0661", "\u00b2")),
        *((options.count, text) for text in [*NO_NUMBERS, "1,2", "inf", "1000001"]),
        *((options.natural, text) for text in ("", "nan", "-1", "1.5", "\u0661")),
        *((options.axes, text) for text in ("", "engine", "engine=", "=torch", "color=red", "batch=0", "batch=-1")),
        *((options.axes, text) for text in ("batch=two", "batch=1000001", "engine=a,engine=b", "engine=a,,batch=1")),
        *((options.limits, text) for text in ("", "top1", "top1=", "=1", "top1=nan", "top1=inf", "top1=1%")),
        *((options.limits, text) for text in ("speedup=0", "speedup=-1", "top1=0.1,top1=0.2", "top1=0.1,,speedup=2")),
        *((options.shapes, text) for text in ("", "1x3", "=1x3", "a=1x0", "a=1xx3", "a=-1x3", "a=1,a=2", "a=1,,b=1")),
        *((options.shapes, text) for text in ("a=1*3", "a=nan", "a=1.5x2")),
        *((options.positive, text) for text in [*NO_NUMBERS, "inf", "1e300", "1e400", "1000001"]),
        *((options.size, text) for text in [*NO_NUMBERS, "60", "KB", "-1KB", "0B", "0.5B", "infMB", "100%", "60KiB"]),
        *((options.percent, text) for text in [*NO_NUMBERS, "inf", "100%", "1%%", "%"]),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line_that_repeats_it(read, text):
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        read(text)
    (line,) = str(refused.value).splitlines()
    assert line.startswith("wants ")
    assert repr(text) in line
