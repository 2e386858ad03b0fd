"""Trial: a classifier asked about the same pictures under other declarations. The right one is clearly better.

Arrays of real numbers are read as pictures first, where their values say in which range: then the same holds for them.

How much an answer tells of its picture needs no labels: the divergence, in nats, of the class probabilities from their
mean over all pictures. It is small for a model that answers always the same and for one that is never sure. With labels
the logarithm of the right class's probability counts, too. Each picture is compared with itself: few are enough.

A model whose input is scaled up is surer of anything, right or wrong: what a louder range tells is compared with
answers made as sure as its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from edgekit_runtime import batch
from edgekit_runtime.engine import Engine
from edgekit_runtime.manifest import Preprocess
from edgekit_runtime.preprocess import to_real
from numpy.typing import NDArray

from edgekit.conversion.finding import Finding
from edgekit.datasets.declaration import RANGES
from edgekit.validation.classification import by_chance

Array = NDArray[Any]
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
# Standard errors of the mean difference. Measured with 192 pictures, 5 seeds each, on MobileNetV1 (ImageNet, -1..1) and
# ResNet8 (CIFAR-10, 0..255): every wrong range and order was at least 3.8 behind in what it tells, and 2.7 in the
# logarithm of the right class's probability; with 64 pictures some were 1.9 behind.
CLEARLY = 3.0
BOTH = 2.0  # where the two agree
LEAST = 0.02  # nats: less is of no account, however sure
CHANGED = 0.05  # share of pictures with another best class; else the model was only made bolder
FEWEST = 16  # pictures that say anything
REACHED = 0.6  # of a range's width: values that reach less far are of another range, or of no pictures
# Times the input: with more of it any answer becomes a surer one. -1..1 is twice as loud as 0..1, and has to be told
# from it; ImageNet's mean and std are 2.2 times as loud as -1..1, and were seen to make right answers surer.
LOUDER = 2.1
ON_LEVEL, MOST = 0.05, 0.99  # how near to one of 256 levels, and how many values: by chance a tenth is as near
_TINY = 1e-6  # the least probability that counts: one picture that is wrong for sure is not to decide


@dataclass(frozen=True)
class _Answers:
    """For each picture: the probability of each class, and where the right class is known ln p of it, and whether it is
    the best.

    `probable` says that the model itself gives probabilities, so that it has one score a class.
    """

    classes: Array
    right: Array | None
    probable: bool
    hits: Array | None = None

    @property
    def best(self) -> Array:
        return np.asarray(self.classes.argmax(axis=1))

    @property
    def tells(self) -> Array:
        """In nats."""
        return np.asarray((self.classes * np.log(self.classes / self.classes.mean(axis=0))).sum(axis=1))

    @property
    def doubt(self) -> float:
        """Of a picture, in nats: the mean entropy."""
        return float(-(self.classes * np.log(self.classes)).sum(axis=1).mean())


def reading(arrays: Sequence[Array], declared: Preprocess | None) -> Preprocess | None:
    """What made these arrays [height, width, channels] of pixels: as declared, or else as their values look. None for
    values that look like no pictures.
    """
    if not arrays:
        return None
    low, high = min(float(one.min()) for one in arrays), max(float(one.max()) for one in arrays)
    height, width, channels = (*arrays[0].shape, 1)[:3]
    color = "RGB" if channels == 3 else "GRAY"
    plain = Preprocess(width, height, color=color, mean=(0.0,) * channels, std=(1.0,) * channels)
    for one in (declared or plain, plain, *_others(plain).values()):
        ends = to_real(np.array([[0], [255]], np.uint8).repeat(channels, 1), one)
        whole = float(np.ptp(ends))
        inside = ends.min() - whole / 255 <= low and high <= ends.max() + whole / 255
        if inside and high - low > REACHED * whole:
            return one
    return None


def normalised_twice(low: float, high: float, channels: int, some: Array | None = None) -> str | None:
    """The two ranges to which pixels were brought one after the other, if they reach from `low` to `high` then.

    Small values of one channel that begin at 0 are rather no pixels, unless `some` of them lie on their levels.
    """
    for first, (mean, std) in RANGES.items():
        for second, (mean2, std2) in RANGES.items():
            ends = [((pixel - mean) / std - mean2) / std2 for pixel in (0, 255)]
            width = ends[1] - ends[0]
            slack = width / 255
            inside = ends[0] - slack <= low and high <= ends[1] + slack and high - low > REACHED * width
            if not inside or 1 in (std, std2):
                continue
            levels = np.zeros(0) if some is None else (some.astype(np.float64) * std2 + mean2) * std + mean
            on_levels = levels.size > 0 and float((np.abs(levels - np.rint(levels)) < ON_LEVEL).mean()) > MOST
            if channels == 3 or low < 0 or on_levels:
                return f"{first} and then to {second}"
    return None


def compare(
    engine: Engine,
    declared: Preprocess,
    pictures: Sequence[Array],
    labels: Sequence[int | None],
    *,
    classifies: bool = True,
    given: bool = False,
) -> list[Finding]:
    """What is clearly better than the declared range or colour order, if anything. `pictures` are pixels (uint8).

    Labels that have nothing in common with the answers, whatever is declared, are a finding, and decide nothing else.
    Without `classifies` only probabilities, or answers that have to do with the labels, show that it is a classifier.
    `given` says that the pixels were arrays, whose range and colour order nobody has declared.
    """
    if len(pictures) < FEWEST:
        return []
    usual = _answers(engine, declared, pictures, labels)
    others, known = {}, _others(declared)
    for name, other in known.items():
        flipped = other.color != declared.color
        tried = [picture[..., ::-1] for picture in pictures] if flipped else pictures
        others[name] = _answers(engine, other, tried, labels)
    found = []
    if usual.right is None or all(by_chance(one.best, labels) for one in (usual, *others.values())):
        if not (classifies or usual.probable):
            return []
        if usual.right is not None:
            found.append(_wrong_labels(usual.best, labels))
        usual = replace(usual, right=None)
        others = {name: replace(one, right=None) for name, one in others.items()}
    better = {n: one for n, one in others.items() if _better(one, usual, louder=_is_louder(known[n], declared))}
    if better:
        best = _best(better, known)
        kind = "color-order" if best.startswith("color") else "range"
        name = "the channels reversed" if given and kind == "color-order" else best
        seen = _seen(name, better[best], usual, labels, "as given" if given else "as declared")
        found.append(Finding(kind, seen, f"was the model trained with {name}?"))
    return found


def _is_louder(one: Preprocess, other: Preprocess) -> bool:
    return min(one.std) * LOUDER < min(other.std)


def _best(answers: dict[str, _Answers], known: dict[str, Preprocess]) -> str:
    """The best, and of louder ones only what is clearly better than the quieter."""
    best, *rest = sorted(answers, key=lambda name: -min(known[name].std))
    for name in rest:
        if _is_louder(known[name], known[best]):
            better = _better(answers[name], answers[best], louder=True)
        else:
            better = float(_ranked(answers[name]).mean()) > float(_ranked(answers[best]).mean())
        best = name if better else best
    return best


def _ranked(answers: _Answers) -> Array:
    return answers.tells if answers.right is None else answers.right


def _wrong_labels(best: Array, labels: Sequence[int | None]) -> Finding:
    hits = int((best == np.array(labels)).sum())
    seen = (
        f"the float model's best class is the label of {hits} of {len(labels)} samples, no more than by chance, with "
        "any range and colour order"
    )
    return Finding(
        "labels", seen, "are labels or class folders in the order of the model's outputs, and is it trained?"
    )


def _others(declared: Preprocess) -> dict[str, Preprocess]:
    channels = declared.channels
    found = {}
    for name, (mean, std) in RANGES.items():
        found[f"range {name}"] = replace(declared, mean=(mean,) * channels, std=(std,) * channels)
    if channels == 3:
        mean3, std3 = IMAGENET if declared.color == "RGB" else (IMAGENET[0][::-1], IMAGENET[1][::-1])
        found["ImageNet's mean and std"] = replace(declared, mean=mean3, std=std3)
        other = "RGB" if declared.color == "BGR" else "BGR"
        found[f"color {other}"] = replace(declared, color=other, mean=declared.mean[::-1], std=declared.std[::-1])
    return {name: other for name, other in found.items() if other != declared}


def _answers(
    engine: Engine, preprocess: Preprocess, pictures: Sequence[Array], labels: Sequence[int | None]
) -> _Answers:
    scores = []
    for picture in pictures:
        real = to_real(picture, preprocess).reshape([1, *batch.sample_shape(engine.inputs[0])])
        scores.append(np.asarray(engine.infer_real([real])[0], np.float64).ravel())
    every = np.maximum(np.stack([row if _probable(row) else _softmax(row) for row in scores]), _TINY)
    known = all(label is not None and 0 <= label < every.shape[1] for label in labels)
    right = np.log(every[np.arange(len(every)), np.array(labels, int)]) if known else None
    hits = (every.argmax(axis=1) == np.array(labels, int)).astype(np.float64) if known else None
    return _Answers(every, right, all(map(_probable, scores)), hits)


def _better(one: _Answers, usual: _Answers, *, louder: bool) -> bool:
    if float((one.best != usual.best).mean()) <= CHANGED:
        return False
    tells = _deviations(one.tells, usual.tells)
    if louder:
        tells = min(tells, _deviations(one.tells, _as_sure_as(one, usual).tells))
    if one.right is not None and usual.right is not None:
        right = _deviations(one.right, usual.right)
        if louder and one.hits is not None and usual.hits is not None and _deviations(one.hits, usual.hits) < BOTH:
            return False  # the same answers, only bolder or more timid
        return right > CLEARLY or (right > BOTH and tells > BOTH)
    return tells > CLEARLY


def _deviations(one: Array, other: Array) -> float:
    """By how many standard errors the mean of `one` is above that of `other`, picture by picture."""
    difference = one - other
    mean = float(difference.mean())
    if mean < LEAST:
        return min(0.0, mean)
    return mean / max(float(difference.std(ddof=1)) / math.sqrt(len(difference)), 1e-9)


def _seen(name: str, better: _Answers, usual: _Answers, labels: Sequence[int | None], how: str) -> str:
    count = len(labels)
    if better.right is None or usual.right is None:
        return (
            f"with {name} the float model's answers tell {better.tells.mean():.2f} nats of each of {count} pictures, "
            f"{how} {usual.tells.mean():.2f}"
        )
    top1 = [float((answers.best == np.array(labels)).mean()) for answers in (better, usual)]
    surer = np.exp(better.right.mean() - usual.right.mean())
    return (
        f"with {name} the float model's top-1 accuracy on {count} samples is {top1[0]:.0%}, {how} {top1[1]:.0%}, "
        f"and the right class {surer:.2g} times as probable"
    )


def _as_sure_as(one: _Answers, usual: _Answers) -> _Answers:
    """The usual answers at the temperature at which they doubt as much as the other ones."""
    low, high = 1e-3, 1e3
    logs = np.log(usual.classes)
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        changed = replace(usual, classes=np.maximum(_softmax(logs * middle), _TINY))
        low, high = (middle, high) if changed.doubt > one.doubt else (low, middle)
    return changed


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _probable(scores: Array) -> bool:
    return bool(scores.min() >= 0 and abs(float(scores.sum()) - 1) <= 0.01)
