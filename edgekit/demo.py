"""The demo's model and data: a small convolutional network on scikit-learn's handwritten digits.

The 1,797 pictures are real (UCI ML hand-written digits, 8x8, enlarged here to 64x64). 1,297 train the network and
500 are held out; the split and the weights follow from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import worker
from edgekit.datasets import declaration as declarations
from edgekit.datasets.declaration import Declaration
from edgekit.errors import UserError

SIZE = 64
HELD_OUT = 500
CALIBRATION = 300
EPOCHS = 6
# (filters, stride) of the 3x3 convolutions: 29 million multiply-adds, enough for INT8 to show on any CPU
BLOCKS = ((24, 2), (48, 2), (96, 1), (96, 2), (192, 1))


@dataclass(frozen=True)
class Digits:
    """Paths of what was made: the trained `.keras` model and two folders with one sub-folder a class."""

    model: Path
    declaration: Path
    calibration: Path
    held_out: Path

    @staticmethod
    def under(directory: Path) -> Digits:
        """Where the parts stand below `directory`."""
        return Digits(
            directory / "digits.keras", directory / "model.toml", directory / "calibration", directory / "held-out"
        )


def make_digits(directory: Path, *, seed: int = 0, progress: worker.Progress | None = None) -> Digits:
    """Train the network (about 20 s on two cores) and write pictures as PNG files. TensorFlow's talk goes to a log.

    Raises UserError when scikit-learn is not installed.
    """
    request = {"directory": str(directory), "seed": seed}
    worker.run("digits", request, what="training the demo's network", log=directory / "train.log", progress=progress)
    return Digits.under(directory)


def work(request: dict[str, Any], progress: worker.Progress) -> None:
    """The worker's side."""
    made, seed = Digits.under(Path(request["directory"])), int(request["seed"])
    import numpy as np
    from PIL import Image

    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError("the demo needs scikit-learn for its pictures", hint="pip install 'edgekit[demo]'") from error

    digits = load_digits()
    pictures = np.stack(
        [
            np.asarray(
                Image.fromarray((picture / 16 * 255).astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            )
            for picture in digits.images
        ]
    )
    order = np.random.default_rng(seed).permutation(len(pictures))
    train, held_out = order[:-HELD_OUT], order[-HELD_OUT:]
    for folder, chosen in ((made.calibration, train[:CALIBRATION]), (made.held_out, held_out)):
        for index in chosen:
            target = folder / str(digits.target[index])
            target.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pictures[index]).save(target / f"{index:04d}.png")
    made.declaration.write_text(DECLARATION, encoding="utf-8")
    _train(pictures[train], digits.target[train], seed, progress).save(made.model)


DECLARATION = """\
# What the network was trained on, declared once: used for calibration, for validation and on the board.
name = "digits"
task = "classification"
labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
color = "GRAY"
range = "-1..1"
"""


def declaration(made: Digits) -> Declaration:
    """What `model.toml` states."""
    return declarations.load(made.declaration)


def pictures(made: Digits) -> list[tuple[Path, str]]:
    """The held-out pictures, each with its label, in an order that mixes the labels."""
    files = sorted(made.held_out.glob("*/*.png"), key=lambda path: path.name)
    return [(path, path.parent.name) for path in files]


def _train(pictures: Any, labels: Any, seed: int, progress: worker.Progress) -> Any:
    import keras
    import numpy as np

    keras.utils.set_random_seed(seed)
    layers = keras.layers
    image = keras.Input((SIZE, SIZE, 1), name="image")
    hidden = image
    for filters, stride in BLOCKS:
        hidden = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False)(hidden)
        hidden = layers.BatchNormalization(momentum=0.8)(hidden)
        hidden = layers.ReLU(6.0)(hidden)
    hidden = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(hidden))
    model = keras.Model(image, layers.Dense(10, activation="softmax", name="digit")(hidden))
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")

    class Report(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002  # the signature of Keras
            progress("train", epoch + 1, EPOCHS)

    model.fit(
        pictures[..., None].astype(np.float32) / 127.5 - 1,
        labels,
        epochs=EPOCHS,
        batch_size=64,
        verbose=0,
        callbacks=[Report()],
    )
    return model
