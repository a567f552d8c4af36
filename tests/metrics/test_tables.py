from rich.console import Console

from skseg.metrics.tables import comparison_table, iou_table


def printed(table) -> str:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_scores_are_in_percent_and_undefined_ones_are_dashes() -> None:
    record = {
        "miou": 0.5,
        "mean_accuracy": None,
        "pixel_accuracy": 0.98765,
        "iou": {"sky": 0.12345, "train": None},
        "recall": {"sky": 1.0, "train": None},
    }
    text = printed(iou_table(record, "title"))
    row = next(line for line in text.splitlines() if "sky" in line)
    assert "12.3" in row
    assert "100.00" in row
    assert next(line for line in text.splitlines() if "train" in line).count("-") == 2
    mean = next(line for line in text.splitlines() if "mean" in line)
    assert "50.00" in mean
    assert mean.count("-") == 1
    assert "98.77 %" in text
    assert "interval" not in text
    text = printed(iou_table(record | {"miou_interval": (0.41, 0.59)}, "title"))
    assert "41.00 to 59.00" in " ".join(text.split())


def test_a_comparison_has_both_models_and_their_difference() -> None:
    comparison = {
        "miou": (0.5, 0.525),
        "difference": 0.025,
        "interval": (-0.0104, 0.06),
        "p_value": 0.125,
        "iou": {"sky": (0.75, 0.7), "train": (None, 0.1)},
    }
    text = printed(comparison_table(comparison))
    sky, train, mean = (
        next(line for line in text.splitlines() if name in line)
        for name in ("sky", "train", "mean")
    )
    assert [cell for cell in ("75.00", "70.00", "-5.00") if cell in sky] == [
        "75.00",
        "70.00",
        "-5.00",
    ]
    assert train.count("-") == 2
    assert "+2.50" in mean
    words = " ".join(text.split())
    assert "-1.04 to +6.00" in words
    assert "p = 0.1250" in words
    assert "interval" not in printed(comparison_table(comparison | {"interval": None}))
