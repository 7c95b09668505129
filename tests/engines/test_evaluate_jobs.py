"""The number of jobs of stage evaluate: one for a variant, and one for each of its shards where there are several."""

from pathlib import Path

from support import checkout


def test_jobs_grow_with_shards_and_a_single_shard_takes_none_of_its_own(tmp_path: Path) -> None:
    folder = checkout.new(tmp_path / "project")
    jobs = checkout.planned(folder)
    assert jobs["predict"] == 9 and "predict_shard" not in jobs
    checkout.set_parameter(folder, "shard.counts", {"pretrain": 1, "calibration": 2, "test": 3})
    checkout.set_parameter(folder, "distill.control", False)
    jobs = checkout.planned(folder)
    assert (jobs["predict"], jobs["predict_shard"], jobs["write_report"]) == (8, 24, 1)
    assert "train_control" not in jobs
