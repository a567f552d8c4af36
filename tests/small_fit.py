"""The smallest useful run of `fit`: one epoch on small crops of drawn streets, on one CPU."""

from pathlib import Path

from running import REPOSITORY


def small_fit(root: Path, run_dir: Path, *more: object) -> list[str]:
    """Return the arguments of a small run; `more` overrides and extends them."""
    return [
        *("--config", str(REPOSITORY / "configs" / "streets.yaml")),
        *("--data.root", str(root), "--run_dir", str(run_dir)),
        *("--data.batch_size", "2", "--data.crop_size", "[64,64]", "--data.num_workers", "0"),
        *("--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "1"),
        *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
        *("--wandb.enabled", "false"),
        *map(str, more),
    ]


def callback(class_path: str, **arguments: object) -> list[str]:
    """Return the arguments that add a callback to a run."""
    return ["--trainer.callbacks", str([{"class_path": class_path, "init_args": arguments}])]
