"""What is done with results: they are judged, shown and compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepdeploy.errors import BadInput
from sepdeploy.records import BenchReport
from sepdeploy.settings import filled, takes
from sepdeploy.workflows.reporting.options import ReportOptions

if TYPE_CHECKING:
    from sepdeploy.gate import Baseline, Verdict
    from sepdeploy.workflows.reporting.differences import Comparison
    from sepdeploy.workflows.reporting.dossier import Dossier


def check(
    result: BenchReport | str | Path,
    baseline: Baseline | str | Path | None = None,
    *,
    config: str | Path | None = None,
) -> Verdict:
    """Compare a result with a baseline; a pure function of the two and the rules.

    Args:
        result: A report, or the file that ``bench --json`` wrote.
        baseline: A baseline or its file. None takes ``sepdeploy-baseline.json``; where that does
            not exist, only rounds timed by turns and budgets are judged, and it is an error when
            there are neither.
        config: TOML file with the rules; default: ``[tool.sepdeploy.check]`` of pyproject.toml.

    Raises:
        BadInput: A file that cannot be read, or holds nonsense.
        Incomparable: The baseline does not exist.
    """
    from sepdeploy import gate

    report = result if isinstance(result, BenchReport) else gate.load_report(Path(result))
    rules = gate.load_rules(None if config is None else Path(config))
    if isinstance(baseline, gate.Baseline):
        return gate.check(report, baseline, rules)
    path = Path(baseline or gate.DEFAULT_BASELINE)
    if baseline is None and not path.exists():
        verdict = gate.check(report, None, rules)
        if verdict.verdict is not gate.Outcome.INCOMPARABLE:
            return verdict
    name = "RESULT.json" if isinstance(result, BenchReport) else str(result)
    return gate.check(report, gate.load_baseline(path, name), rules)


def update_baseline(
    result: BenchReport | str | Path, baseline: str | Path | None = None, *, replace: bool = False
) -> tuple[Path, int]:
    """Write a result into a baseline file; return the file and how many entries it has now.

    Args:
        result: A report, or the file that ``bench --json`` wrote.
        baseline: The file; default ``sepdeploy-baseline.json``.
        replace: Drop what the result does not hold.

    Raises:
        BadInput: A file that cannot be used, or numbers that cannot be.
        Incomparable: Nothing was measured.
        Unstable: A measurement is void.
    """
    from sepdeploy import gate

    report = result if isinstance(result, BenchReport) else gate.load_report(Path(result))
    path = Path(baseline or gate.DEFAULT_BASELINE)
    return path, len(gate.update_baseline(report, path, replace=replace).entries)


@takes(ReportOptions)
def report(
    results: Sequence[str | Path], options: ReportOptions | None = None, **overrides: Any
) -> tuple[Dossier, dict[str, Verdict]]:
    """Gather what a report of results shows, and judge them where a baseline is named.

    Args:
        results: Files that ``bench --json`` wrote.
        options: What is asked for; its fields are taken one by one too, as below.
        **overrides: Fields of ``ReportOptions``.

    Returns:
        What was gathered, and the verdicts by the names of the files.

    Raises:
        BadInput: A file that cannot be read, or holds nonsense.
    """
    from sepdeploy import gate
    from sepdeploy.workflows.reporting.dossier import gather

    wanted = filled(options or ReportOptions(), overrides, "report")
    read = [(Path(path), gate.load_report(Path(path))) for path in results]
    verdicts = (
        {}
        if wanted.baseline is None
        else {str(path): check(one, wanted.baseline) for path, one in read}
    )
    return gather(read, wanted), verdicts


def compare(results: Sequence[str | Path]) -> Comparison:
    """Compare results with the first of them; accuracies of the same images are paired.

    Args:
        results: Two files or more that ``bench --json`` wrote.

    Raises:
        BadInput: A file that cannot be read, or fewer than two.
    """
    from sepdeploy import gate
    from sepdeploy.workflows.reporting.differences import compare_results

    if len(results) < 2:
        raise BadInput(
            "there is nothing to compare one result with",
            hint="name two results: sepdeploy compare OLD.json NEW.json",
        )
    return compare_results([(str(path), gate.load_report(Path(path))) for path in results])
