"""Reports: one file, complete, and safe against what a data set is called."""

import re

import pytest
from msgspec.structs import replace

from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.report import plots
from fieldloop_cloud.report.html import render
from fieldloop_cloud.report.training import run_report
from fieldloop_cloud.train.trainer import train


@pytest.fixture(scope="module")
def run():
    return train(Dataset.load("sklearn:iris"), candidates=["logistic", "svm-rbf"])


def test_the_report_tells_the_whole_run(run):
    page = run_report(run)
    for item in run.front:
        assert item.name in page
        assert f"{item.score:.3f}" in page
    for text in (run.data_sha256, "not proven", "sealed", "How to get the same again"):
        assert text in page
    assert run.chosen.name in page
    assert page.count("data:image/svg+xml;base64,") == 4  # two fronts, confusion, confidence


def test_the_report_loads_nothing_from_elsewhere(run):
    page = run_report(run)
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "<script" not in page
    assert "@import" not in page


def test_names_are_escaped(run):
    page = run_report(replace(run, data="<script>alert(1)</script>"))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_same_run_gives_the_same_page(run):
    assert run_report(run) == run_report(run)


def test_a_regression_has_no_confusion_matrix():
    run = train(Dataset.load("sklearn:diabetes"), candidates=["random-forest"])
    page = run_report(run)
    assert "Confusion" not in page
    assert "root_mean_squared_error" in page


def test_pages_reuse_the_style_and_plots():
    series = [("accuracy", [0, 1, 2], [0.9, 0.7, 0.95])]
    uri = plots.lines(series, xlabel="window", ylabel="accuracy", marks=[(1, "the field changes")])
    assert uri.startswith("data:image/svg+xml;base64,")
    page = render("page.html", title="A & B", lead="two letters")
    assert "<h1>A &amp; B</h1>" in page
