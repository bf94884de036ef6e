"""What marks an adversarial accuracy as unreliable, the worst of several, and differences."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sepdeploy.errors import BadInput
from sepdeploy.exports.options import JudgingOptions, images_for
from sepdeploy.measure.accuracy import accuracy
from sepdeploy.measure.summary import wilson_interval
from sepdeploy.records import Kind
from sepdeploy.threat import parse_attack
from sepdeploy.workflows.bench.judging import JudgingSet
from sepdeploy.workflows.bench.pairs import difference, paired_interval
from sepdeploy.workflows.bench.self_checks import at_worst, checks, marked, probabilities

N = 400
IMAGES = np.random.default_rng(0).random((N, 1, 2, 2), dtype=np.float32)
LABELS = np.arange(N) % 3


def logits(wrong: int, first: int = 0) -> np.ndarray:
    """Right on all images but ``wrong`` ones from ``first`` on."""
    said = LABELS.copy()
    said[first : first + wrong] = (said[first : first + wrong] + 1) % 3
    return np.eye(3, dtype=np.float32)[said] * 5 - 1


def judged(name="pgd-40", made_on="twin", eps=0.1, twin=None, blind=0) -> JudgingSet:
    return JudgingSet(
        IMAGES, LABELS, np.arange(N), "digits", "pack", IMAGES, parse_attack(name, eps),
        blind, made_on, twin,
    )  # fmt: skip


def measured_by(own: JudgingSet, wrong: int, clean=None, first: int = 0):
    clean = np.stack([logits(0)] * 2) if clean is None else clean
    details = own.attacked_origin() | checks(own, clean, repeats=True)
    return accuracy(
        "adversarial_accuracy", logits(wrong, first), IMAGES, LABELS, Kind.HOST, details,
        where="f.onnx", clean=clean[0],
    )  # fmt: skip


def clean_accuracy(wrong=0):
    return accuracy("clean_accuracy", logits(wrong), IMAGES, LABELS, Kind.HOST, {}, where="f.onnx")


def reasons(*found) -> list[str]:
    return [m.details.get("unreliable", "") for m in marked([clean_accuracy(), *found])[1:]]


def test_a_sound_number_is_not_marked():
    assert reasons(measured_by(judged(twin=LABELS), 40)) == [""]


def test_answers_that_change_from_run_to_run():
    clean = np.stack([logits(0), logits(3)])
    (why,) = reasons(measured_by(judged(), 40, clean))
    assert "3 of 400 clean answers change" in why


def test_a_search_that_beats_gradients_marks_them_and_not_itself():
    gradient = measured_by(judged(), 40)
    search = measured_by(judged("square@100", "file"), 42)
    why, own = reasons(gradient, search)
    assert "square@100 finds 0.5 points more without gradients" in why
    assert own == ""
    assert reasons(gradient, measured_by(judged("square@100", "file"), 40)) == ["", ""]


def test_the_strongest_gradient_attack_is_what_a_search_must_beat():
    weak, strong = measured_by(judged("fgsm"), 10), measured_by(judged("apgd-ce"), 60)
    assert reasons(weak, strong, measured_by(judged("square@100", "file"), 40)) == [""] * 3


def test_a_file_that_labels_otherwise_than_its_model():
    twin = LABELS.copy()
    twin[:8] = (twin[:8] + 1) % 3
    (why,) = reasons(measured_by(judged(twin=twin), 40))
    assert "label 8 of 400 clean images differently" in why
    through = measured_by(judged("pgd-margin-40", "file", twin=twin), 44)
    assert reasons(measured_by(judged(twin=twin), 40), through) == ["", ""]


def test_radius_zero_must_give_the_clean_accuracy():
    (why,) = reasons(measured_by(judged(eps=0.0), 1))
    assert "at radius 0" in why
    assert reasons(measured_by(judged(eps=0.0), 0)) == [""]


def test_probabilities_are_recognised():
    shares = np.exp(logits(5)) / np.exp(logits(5)).sum(axis=1, keepdims=True)
    assert probabilities(shares.astype(np.float32))
    assert not probabilities(logits(5))
    clean = np.stack([shares] * 2).astype(np.float32)
    (why,) = reasons(measured_by(judged("square@9", "file"), 40, clean))
    assert "probabilities" in why


def test_the_worst_of_several_stands_first_and_is_taken_image_by_image():
    one, two = measured_by(judged(), 40), measured_by(judged("square@9", "file"), 30, first=35)
    clean = clean_accuracy()
    found = list(at_worst([clean, one, two]))
    assert [m.details.get("attack") for m in found] == [None, "worst", "pgd-40", "square@9"]
    assert found[1].value == pytest.approx(1 - 65 / N)
    assert found[1].details["of"] == ["pgd-40", "square@9 on the file"]
    assert list(at_worst([clean, one])) == [clean, one]
    other = measured_by(judged(eps=0.2), 90)
    assert len(list(at_worst([clean, one, other]))) == 3  # another radius is another question


def test_a_paired_difference_counts_images_and_its_p_is_the_binomials():
    m = measured_by(judged(), 30)
    old = logits(12, first=25).argmax(axis=1) == LABELS  # 5 wrong in both
    found = difference(m, "old.onnx", old)
    assert (found.details["lost"], found.details["gained"]) == (25, 7)
    assert found.value == pytest.approx(-18 / N)
    assert found.details["p"] == pytest.approx(stats.binomtest(7, 32).pvalue)
    assert found.ci[0] < found.value < found.ci[1] < 0


@pytest.mark.parametrize(("lost", "gained", "n"), [(0, 0, 50), (3, 1, 200), (25, 7, 400)])
def test_the_paired_interval_is_walds_with_a_pair_added(lost, gained, n):
    low, high = paired_interval(lost, gained, n)
    differences = [-1] * (lost + 1) + [1] * (gained + 1) + [0] * (n - lost - gained)
    half = stats.norm.ppf(0.975) * np.std(differences) / np.sqrt(n + 2)
    assert (low, high) == pytest.approx((np.mean(differences) - half, np.mean(differences) + half))


@pytest.mark.parametrize("points", [0.5, 1, 2, 5, 20])
def test_precision_takes_as_many_images_as_wilsons_interval(points):
    n = images_for(f"{points}pp")
    low, high = wilson_interval(round(n / 2), n)
    assert (high - low) / 2 <= points / 100 + 1e-9
    if n > 10:
        low, high = wilson_interval(n // 2 - 1, n - 2)
        assert (high - low) / 2 > points / 100 - 1e-5
    assert JudgingOptions(precision=f"{points} %").samples == n


@pytest.mark.parametrize("text", ["", "0pp", "-1", "60pp", "nan", "inf", "one", "1e-9pp"])
def test_what_is_no_precision(text):
    with pytest.raises(BadInput, match="no number of points"):
        images_for(text)
