"""What a model of a recipe is, before anything is trained or measured."""

from __future__ import annotations

from audiotag.config import FrontEndConfig, ModelConfig, NetworkConfig, TrainConfig, WindowConfig

SAMPLE_RATE = 22050  # Hz; half of 44,100, the rate of most recordings, to which resampling is the cheapest
HOP = 512  # samples: 23.2 ms, which keeps the front-end and the network of a small model cheap

# Of silence before a short clip comes again in its window. Without any, the seam is heard: 0.1 s was worse than silence
# to the end on the held-out fold of the embedded model, 0.3 to 1.2 s were all better.
REPEAT_GAP_SECONDS = 0.5


def model_config(labels: tuple[str, ...], config: TrainConfig) -> ModelConfig:
    """The configuration of the model that `config` trains."""
    network = NetworkConfig(
        n_labels=len(labels), width=config.width, depths=config.depths, kernel_sizes=config.kernel_sizes,
        dropout=config.dropout,
    )  # fmt: skip
    # Resampling leaves frequencies up to 10 kHz as they are (soxr's "HQ" begins to fall at 0.91 of the Nyquist
    # frequency). The offset lies above the noise of 16-bit quantisation, so that digital silence and a quiet recording
    # look alike.
    frontend = FrontEndConfig(
        sample_rate=SAMPLE_RATE, n_fft=1024, win_length=1024, hop_length=HOP, n_mels=config.n_mels, fmin=40.0,
        fmax=10000.0, log_offset=1e-2,
    )  # fmt: skip
    window = WindowConfig(
        n_samples=(config.n_frames - 1) * HOP, n_frames=config.n_frames, padding="repeat",
        repeat_gap=round(REPEAT_GAP_SECONDS * SAMPLE_RATE),
    )  # fmt: skip
    return ModelConfig(network=network, frontend=frontend, window=window, labels=labels, activation="sigmoid")
