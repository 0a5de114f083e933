"""The frame of the page: it loads nothing, and its colours are there in light, dark and print."""

import re

from hessspec_mtl.report.frame import PAGE


def test_the_frame_has_a_place_for_each_part_of_the_report():
    assert set(PAGE.get_identifiers()) == {"title", "facts", "contents", "body"}


def test_the_frame_loads_nothing_and_runs_nothing():
    for word in ("url(", "@import", "<script", "<link", "http", "src="):
        assert word not in PAGE.template, word


def test_every_colour_that_is_used_is_there_in_light_and_in_dark():
    roots = [
        set(re.findall(r"(--[\w-]+):", block))
        for block in re.findall(r":root \{(.*?)\}", PAGE.template, re.DOTALL)
    ]
    light, dark, printed = roots
    assert set(re.findall(r"var\((--[\w-]+)\)", PAGE.template)) == light == dark
    assert printed <= light


def test_every_brace_of_the_style_is_closed():
    assert PAGE.template.count("{") == PAGE.template.count("}")
