"""A network that says what to take away from a picture."""

from torch import Tensor, nn


class Residual(nn.Module):
    """Gives back its input minus what a network makes of it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = inputs - self.network(inputs)
        return found


def denoiser(channels: int) -> Residual:
    """Three convolutions of 3 x 3 with dropout sites; it begins as the identity."""
    last = nn.Conv2d(channels, 1, 3, padding=1, bias=False)
    nn.init.zeros_(last.weight)
    return Residual(
        nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.ReLU(),
            nn.Dropout2d(0.0),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Dropout2d(0.0),
            last,
        )
    )
