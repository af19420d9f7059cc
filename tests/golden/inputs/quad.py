"""Objectives of the transcripts: their values are the same on every machine."""


def quad(h, seed):
    for step in range(4):
        x = h(step / 3)["x"]
        yield {"val_loss": (x - 0.25) ** 2 + 0.125 * (3 - step), "progress": step / 3}


def sometimes(h, seed):
    if h(0)["x"] > 0.75:
        raise ValueError("expected 3 channels, got 1")
    return (h(0)["x"] - 0.25) ** 2


def never(h, seed):
    raise ValueError("expected 3 channels, got 1")
