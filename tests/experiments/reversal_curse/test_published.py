"""The published results of Berglund et al. in the report of the study."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.berglund.published import SUFFIX
from experiments.errors import FactsError
from experiments.reversal_curse.study import STUDY, Config
from experiments.runner import run_study
from tests.app.material import run_once


@pytest.mark.slow
def test_they_stand_in_the_report_and_are_noted_as_read(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    record = run_once(tmp_path_factory)
    table = record.table("published").set_index(["among", "asked"])
    assert table.loc[("all", "difference"), "pairs"] == 12
    assert table.loc[("no word", "difference"), "low"] > 0
    assert f"m{SUFFIX}" in record.provenance.inputs
    assert record.report is not None
    assert "The published results of experiment 2" in record.report.read_text(encoding="utf-8")
    assert {verdict.outcome for verdict in record.verdicts} == {"undecided"}


def test_a_folder_without_them_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    config = Config(model="no/such-model", berglund_results=str(tmp_path))
    with pytest.raises(FactsError, match="holds no file named MODEL"):
        run_study(STUDY, config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
