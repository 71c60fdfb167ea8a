"""What the network is held against: logistic regression on a spectrogram of few numbers."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from common.data.audio.splits import AudioData, Clips
from nlp.speech.networks import LogMel

PARTS = 8  # of a clip's time, over each of which every mel band is averaged
MOST = 10_000  # training clips that it is fitted to, evenly taken
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1)  # of regularisation, scikit-learn's C; validation picks one


def accuracies(data: AudioData) -> dict[str, float]:
    """`logistic_accuracy` on the test split, and `logistic_accuracy_unheard` where there are unheard speakers."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    step = -(-len(data.train) // MOST)
    train = data.train.subset(torch.arange(0, len(data.train), step)) if step > 1 else data.train
    inputs, targets = pooled(train).numpy(), train.targets.numpy()
    valid, best = pooled(data.valid).numpy(), None
    for strength in STRENGTHS:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not quite converged is no reason to say more
            model.fit(inputs, targets)
        score = float(model.score(valid, data.valid.targets.numpy()))
        if best is None or score > best[0]:
            best = score, model
    assert best is not None
    parts = {"": data.test, "_unheard": data.unheard}
    return {
        f"logistic_accuracy{end}": float(best[1].score(pooled(clips).numpy(), clips.targets.numpy()))
        for end, clips in parts.items()
        if len(clips)
    }


def pooled(clips: Clips) -> Tensor:
    """The log-mel spectrogram of each clip with PARTS columns, float32 [N, BANDS × PARTS]."""
    spectrogram = LogMel(clips.audio.rate)
    found = []
    for start in range(0, len(clips), 256):
        batch = clips.audio.network_input([clips[i] for i in range(start, min(start + 256, len(clips)))])
        found.append(F.adaptive_avg_pool1d(spectrogram(batch).squeeze(1), PARTS).flatten(1))
    return torch.cat(found)
