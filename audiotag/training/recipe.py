"""What a model of a recipe is, before anything is trained or measured."""

from __future__ import annotations

from audiotag.config import FrontEndConfig, ModelConfig, NetworkConfig, TrainConfig, WindowConfig

HOP = 512  # samples: 16 ms, which keeps the front-end and the network of a small model cheap


def model_config(labels: tuple[str, ...], config: TrainConfig) -> ModelConfig:
    """The configuration of the model that `config` trains."""
    network = NetworkConfig(
        n_labels=len(labels), width=config.width, depths=config.depths, kernel_sizes=config.kernel_sizes,
        dropout=config.dropout,
    )  # fmt: skip
    # Bands up to 14 kHz hold what the hiss of a cymbal and the hum of an engine differ in. The offset lies above the
    # noise of 16-bit quantisation, so that digital silence and a quiet recording look alike.
    frontend = FrontEndConfig(
        sample_rate=32000, n_fft=1024, win_length=1024, hop_length=HOP, n_mels=config.n_mels, fmin=40.0, fmax=14000.0,
        log_offset=1e-2,
    )  # fmt: skip
    window = WindowConfig(n_samples=(config.n_frames - 1) * HOP, n_frames=config.n_frames, padding="silence")
    return ModelConfig(network=network, frontend=frontend, window=window, labels=labels, activation="sigmoid")
