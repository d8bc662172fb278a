"""Training and evaluation: data -> log-mels -> augmented batches -> a model folder with its measured figures."""
