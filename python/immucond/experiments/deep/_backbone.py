"""Pre-trained networks in Hugging Face's format, with a linear head for the primary task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..._errors import extra
from .._sources import located
from ._foreign import check_config, check_weights, image_preparation, loading
from ._task import Task, pixels, squared

with extra("deep"):
    import torch
    import transformers
    from torch import Tensor, nn

from ...deep.parts import fingerprint, module_named, replace_module

WEIGHT_DECAY = 1e-4  # of a head that is fitted
_STEPS = 300


class TextClassifier(nn.Module):
    """A text encoder, the mean of its last states over the tokens, and a linear head."""

    def __init__(self, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        width: int = encoder.config.hidden_size  # type: ignore[union-attr, assignment]
        self.head = nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        mask = attention_mask[..., None].to(states.dtype)
        logits: Tensor = self.head((states * mask).sum(1) / mask.sum(1))
        return logits


@dataclass(frozen=True)
class Preparation:
    """How samples become a network's inputs.

    Attributes
    ----------
    tokenizer : object or None
        Of a text encoder.
    max_length : int
        Texts are cut and filled up to so many tokens.
    image_size : int
        Side of the square that images are scaled to (bilinear).
    mean, std : sequences of three
        Of the channels, of pixels in [0, 1].
    """

    tokenizer: Any = None
    max_length: int = 32
    image_size: int = 0
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)

    def __call__(self, sample: Any) -> dict[str, Tensor]:
        """Return the network's keyword arguments for one sample, without the batch dimension."""
        if self.tokenizer is not None:
            found = self.tokenizer(
                sample, padding="max_length", truncation=True, max_length=self.max_length
            )
            return {name: torch.tensor(found[name]) for name in ("input_ids", "attention_mask")}
        image = torch.from_numpy(squared(sample, self.image_size).copy())
        mean, std = (torch.tensor(x).reshape(3, 1, 1) for x in (self.mean, self.std))
        return {"pixel_values": (image.permute(2, 0, 1).float() / 255.0 - mean) / std}


@dataclass(frozen=True)
class Backbone:
    """A network, split at its head.

    Attributes
    ----------
    model : nn.Module
        In evaluation mode.
    split : str
        Name of the head.
    trainable : tuple of str
        Names of the blocks that are trained.
    preparation : Preparation
        Of its inputs.
    fitted : bool
        Whether the head is still to be fitted to the primary task.
    """

    model: nn.Module
    split: str
    trainable: tuple[str, ...]
    preparation: Preparation
    fitted: bool

    @property
    def fingerprint(self) -> str:
        """Of all that its outputs depend on."""
        return fingerprint(self.model, self.split, self.trainable, *self._prepared)

    @property
    def features_fingerprint(self) -> str:
        """Of all that what enters the head depends on: the same whichever task the head is for."""
        return fingerprint(self.model, self.split, *self._prepared, without=self.split)

    @property
    def _prepared(self) -> tuple[Any, ...]:
        p = self.preparation
        return p.max_length, p.image_size, [*p.mean], [*p.std]


def load(
    spec: str,
    primary: Task,
    *,
    trainable: Sequence[str] = ("1",),
    max_length: int | None = None,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Backbone:
    """Load a network for the primary task.

    Parameters
    ----------
    spec : str
        A folder, as it stands or within the one that ``IMMUCOND_MODELS`` names, or an id of Hugging
        Face; or an import path ``package.module:name`` of either, or of a function that returns it.
    primary : Task
        Texts take an encoder and a new head on the mean of its last states. Images take a
        classifier; its head is kept if its classes are those of the task.
    trainable : sequence of str
        Names of the blocks to train, or one number: so many of the last ones.
    max_length, image_size, mean, std
        See `Preparation`; by default image size, mean and std are those of the folder's
        preprocessor_config.json. Texts take the first alone, images the others.

    Raises
    ------
    FileNotFoundError
        Where there is no such network.
    ValueError
        For a network that does not fit, and why.
    """
    check_reading(primary, max_length, image_size, mean, std)
    name = located(spec)
    suspects = check_config(name, spec)
    if primary.kind == "text":
        with loading(spec, "its tokenizer (tokenizer.json, tokenizer_config.json) does not load"):
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            if tokenizer.pad_token is None:  # a decoder; padding is masked anyway
                tokenizer.pad_token = tokenizer.eos_token
            if tokenizer.pad_token is None:
                raise ValueError("it has neither pad_token nor eos_token")
        with loading(spec, "it does not load as an encoder of texts", suspects):
            encoder = transformers.AutoModel.from_pretrained(
                name, dtype=torch.float32, trust_remote_code=False
            )
            encoder.config.use_cache = False  # a decoder's cache reaches past its blocks
            model: nn.Module = TextClassifier(encoder, len(primary.classes))
        split, fitted = "head", False
        length = Preparation.max_length if max_length is None else max_length
        most = getattr(encoder.config, "max_position_embeddings", None) or length
        # Below that tokenizers cut nothing, or all of the text.
        least = tokenizer.num_special_tokens_to_add() + 1
        if not least <= length <= most:
            raise ValueError(
                f"--max-length must be from {least} to {most} for {spec!r}, and is {length}"
            )
        preparation = Preparation(tokenizer, length)
    else:
        with loading(spec, "it does not load as a classifier of images", suspects):
            model, split, fitted = _image_classifier(name, primary)
        if image_size is None or mean is None or std is None:
            given = {"--image-size": image_size, "--mean": mean, "--std": std}
            missing = [option for option, value in given.items() if value is None]
            side, usual_mean, usual_std = image_preparation(name, missing)
            image_size, mean, std = image_size or side, mean or usual_mean, std or usual_std
        preparation = Preparation(image_size=image_size, mean=mean, std=std)
    check_weights(model, name)
    with loading(spec, "what is to be trained is not there", suspects):
        blocks = _blocks(model, split, trainable)
    backbone = Backbone(model.eval(), split, blocks, preparation, fitted)
    _try(backbone, primary, spec, suspects)
    return backbone


def check_reading(task: Task, max_length: Any, image_size: Any, mean: Any, std: Any) -> None:
    """Refuse what says how images are read where a task has texts, and the other way round."""
    own, other, foreign = "images", "texts", {"--max-length": max_length}
    if task.kind == "text":
        own, other, foreign = other, own, {"--image-size": image_size, "--mean": mean, "--std": std}
    for option, value in foreign.items():
        if value is not None:
            raise ValueError(f"{option} is of {other}, and {task.name} has {own}")


def _try(backbone: Backbone, primary: Task, spec: str, suspects: str) -> None:
    """Run the network on one sample: what does not fit shows before any work is done."""
    sample = primary.train.inputs[0]
    if primary.kind == "image":
        pixels(sample)  # its own errors, if it is the sample that is broken
    with loading(spec, f"it does not run on the first sample of {primary.name}", suspects):
        inputs = backbone.preparation(sample)
        with torch.no_grad():
            found = backbone.model(**{key: value[None] for key, value in inputs.items()})
        logits = found if isinstance(found, Tensor) else found.logits
        if logits.shape != (1, len(primary.classes)):
            raise ValueError(f"logits of shape {tuple(logits.shape)}")
        if not torch.isfinite(logits).all():
            raise ValueError("logits that are not finite")


def _image_classifier(name: str, primary: Task) -> tuple[nn.Module, str, bool]:
    model: Any = transformers.AutoModelForImageClassification.from_pretrained(
        name, dtype=torch.float32, trust_remote_code=False
    )
    heads = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not heads:
        raise ValueError("it has no linear head")
    split = heads[-1]
    head = model.get_submodule(split)
    places: dict[str, int] = model.config.label2id
    fitted = set(places) == set(primary.classes)
    if fitted:
        if sorted(map(repr, places.values())) != sorted(map(repr, range(len(places)))):
            raise ValueError(
                f"label2id of its config.json must number {len(places)} classes from 0, and is "
                f"{places}"
            )
        # The head's classes, in the task's order.
        order = [places[label] for label in primary.classes]
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.copy_(parameter[order].clone())
    else:
        replace_module(model, split, nn.Linear(head.in_features, len(primary.classes)))
        model.config.num_labels = len(primary.classes)
    model.config.id2label = dict(enumerate(primary.classes))
    model.config.label2id = {label: place for place, label in enumerate(primary.classes)}
    return model, split, fitted


def _blocks(model: nn.Module, split: str, trainable: Sequence[str]) -> tuple[str, ...]:
    """Names of the blocks; a number counts from the end of the network's longest list of blocks."""
    if len(trainable) != 1 or not trainable[0].isdigit():
        for name in trainable:
            module_named(model, name, "trainable")
        return tuple(trainable)
    count = int(trainable[0])
    lists = [(name, len(m)) for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise ValueError(f"the network has no list of blocks: name the trainable ones ({split=})")
    name, length = max(lists, key=lambda found: found[1])
    if not 1 <= count <= length:
        raise ValueError(f"trainable must be at most the {length} blocks of {name}, and is {count}")
    return tuple(f"{name}.{place}" for place in range(length - count, length))


def fit_head(head: nn.Linear, Z: Tensor, labels: Tensor) -> None:
    """Fit the head of a network without one to features (N, m) of a task, in place.

    Minimizes the mean cross-entropy plus ``WEIGHT_DECAY / 2 ||W||^2`` by L-BFGS, on features that
    are centred and scaled by one number, for the sake of the steps.

    Raises
    ------
    ValueError
        For features that are the same for all samples, to rounding.
    """
    mean = Z.mean(0)
    scale = (Z - mean).square().mean().sqrt()
    if not scale > 4.0 * torch.finfo(Z.dtype).eps * Z.abs().max():
        raise ValueError(
            f"what enters the head is the same for all {len(Z)} training samples, so that none can "
            "be fitted: are texts cut too short, by --max-length, or the features not finite?"
        )
    X = (Z - mean) / scale
    weight = torch.zeros_like(head.weight, requires_grad=True)
    bias = torch.zeros(head.out_features, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_STEPS, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(X @ weight.T + bias, labels)
        loss = loss + 0.5 * WEIGHT_DECAY * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        head.weight.copy_(weight / scale)
        head.bias.copy_(bias - head.weight @ mean)
