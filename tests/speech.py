"""Features of recorded speech, as the keyword model of MLPerf Tiny was trained on."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def spectrograms(folder: Path) -> NDArray[np.float32]:
    """MLPerf Tiny's keyword features [N, 49, 10, 1] of seconds of the WAV files, as its own front end makes them.

    mlcommons/tiny, benchmark/training/keyword_spotting/get_dataset.py: 30 ms windows every 20 ms, 40 mel bins from
    20 Hz to 4 kHz, the first ten MFCCs.
    """
    import tensorflow as tf

    mel = tf.signal.linear_to_mel_weight_matrix(40, 257, 16000, 20.0, 4000.0)
    rows = []
    for path in sorted(folder.glob("*.wav")):
        sound = first_channel(path)
        for start in range(0, len(sound) - 15999, 4000):
            second = sound[start : start + 16000] / max(1.0, float(np.abs(sound[start : start + 16000]).max()))
            spectrum = tf.abs(tf.signal.stft(second, 480, 320, 512, tf.signal.hann_window))
            rows.append(tf.signal.mfccs_from_log_mel_spectrograms(tf.math.log(spectrum @ mel + 1e-6))[:49, :10].numpy())
    return np.stack(rows)[..., None].astype(np.float32)


def mel_bands(folder: Path, frames: int, bands: int) -> NDArray[np.float32]:
    """Logarithms of mel bands [N, frames, bands, 1] of seconds of the WAV files, brought to 0..1: windows of 30 ms
    every 20 ms, the last ones padded with silence.
    """
    import tensorflow as tf

    mel = tf.signal.linear_to_mel_weight_matrix(bands, 257, 16000, 125.0, 7500.0)
    rows = []
    for path in sorted(folder.glob("*.wav")):
        sound = first_channel(path)
        for start in range(0, len(sound) - 15999, 4000):
            spectrum = tf.abs(tf.signal.stft(sound[start : start + 16000], 480, 320, 512, pad_end=True))
            rows.append(tf.math.log(spectrum @ mel + 1e-6)[:frames].numpy())
    every = np.stack(rows)[..., None]
    brought: NDArray[np.float32] = ((every - every.min()) / np.ptp(every)).astype(np.float32)
    return brought


def music_spectrograms(folder: Path) -> NDArray[np.float32]:
    """What musicnn takes [N, 187, 96] of the WAV files, each repeated to three seconds.

    musicnn 0.1.0, extractor.py: mel bands of 16 kHz sound, 512 samples every 256, then log10(1 + 10000 mel).
    """
    import tensorflow as tf

    mel = tf.signal.linear_to_mel_weight_matrix(96, 257, 16000, 0.0, 8000.0)
    rows = []
    for path in sorted(folder.glob("*.wav")):
        sound = np.resize(first_channel(path), 512 + 186 * 256)
        power = tf.abs(tf.signal.stft(sound, 512, 256, 512, tf.signal.hann_window)) ** 2
        rows.append(np.log10(1 + 10_000 * (power @ mel).numpy()))
    return np.stack(rows).astype(np.float32)


def first_channel(path: Path) -> NDArray[np.float32]:
    """16 kHz sound as float32 in -1..1."""
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getsampwidth()) == (16000, 2)
        frames = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
    return frames[:, 0].astype(np.float32) / np.float32(32768)


def piano_windows(folder: Path) -> NDArray[np.float32]:
    """Windows of 43,844 samples at 22,050 Hz [N, 43844, 1], padded with silence."""
    rows = []
    for path in sorted(folder.glob("*_1000ms.wav")):
        sound = first_channel(path)
        row = np.zeros(43844, np.float32)
        times = np.arange(int(len(sound) * 22050 / 16000)) * 16000 / 22050
        row[: len(times)] = np.interp(times, np.arange(len(sound)), sound)
        rows.append(row)
    return np.stack(rows)[..., None]
