"""A student learns from the teacher cache what its teachers answered; its control learns from labels alone."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bioclip_lite.photographs import loading
from bioclip_lite.photographs.shards import shard_names
from bioclip_lite.taxa import label_space
from bioclip_lite.teacher_cache import store
from bioclip_lite.teacher_cache.ensemble import FIRST
from bioclip_lite.teacher_cache.reader import CachedSplit
from bioclip_lite.training import checkpoint, distributed, losses, memory_format, trainer
from bioclip_lite.training.text_distillation import TaxonCaptions, TextStudent, TwoTowers
from bioclip_lite.utils import machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.randomness import digest


def files_read(data: Path, teachers: Sequence[str]) -> list[Path]:
    """What a training by ``distill`` depends on besides code and parameters, for the recipe of its checkpoint."""
    names = [*shard_names(data, "train"), *shard_names(data, "val")]
    folders = [store.folder(data, teacher) for teacher in teachers]
    return [
        *(data / "shard" / f"{name}.tar" for name in names),
        *(folder / f"{name}.safetensors" for folder in folders for name in (*names, "taxa")),
        data / "index" / "taxa.parquet",
    ]


def distill(
    model: nn.Module,
    data: Path,
    preprocess: dict[str, Any],
    *,
    stage: str,
    job: str,
    seed: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float = 0.05,
    teachers: Sequence[str] = (FIRST,),
    affinity: float = 1.0,
    temperature: float = 1.0,
    cosine: float = 1.0,
    ranks: float = 0.0,
    labels: float = 0.0,
    ema: float = 0.0,
    control: bool = False,
    text_student: TextStudent | None = None,
    train: CachedSplit | None = None,
    keep: Path | None = None,
) -> list[dict[str, float]]:
    """Train ``model`` in place on split "train" from the teacher cache; it ends in eval mode on the CPU.

    Each epoch shows every photograph once, under one of its cached views, which the student replays at its own size;
    targets are the teachers' embeddings of that same view. The loss is the sum of

        affinity x losses.affinity to the mean of the teachers' distributions over the taxa,
        ranks x losses.rank_affinity, the same for genera, families ...,
        cosine x losses.cosine to the embedding of the first teacher,
        labels x losses.taxon_nll of the student's logits,

    where the student's logits are those of its embedding against the first teacher's text matrix, at its logit scale.
    The first two divide all logits by ``temperature``: a softer answer says more of what a species is like
    (arXiv 1503.02531). Divergences are not multiplied by its square; ``affinity`` is there for that.
    With a text tower each photograph brings a caption of its taxon, of a text type drawn by hash, and there is also
    losses.cosine of the captions to the teacher's, and ``batch_affinity`` x losses.batch_affinity of photographs and
    captions of the batch.

    The control (same photographs, views and steps, no teacher) has taxon_nll of its C outputs for its only loss. There
    is no selection: the last epoch counts.

    Args:
        model: float32 (b, 3, size, size) to (b, D), the first teacher's D (``control``: (b, C), the number of leaves).
        data: the data folder; reads shard/, logits/, index/taxa.parquet.
        preprocess: the student's; its size is the student's.
        stage, job, seed: name the random numbers and the log lines.
        learning_rate, weight_decay: AdamW's, at the peak of the schedule; ema: see ``training.fit``.
        teachers: whose caches to learn from, the first of them in whose space.
        text_student: trained along with ``model``, which also ends in eval mode on the CPU; reads
            logits/texts.safetensors.
        train: the photographs of split "train" with these teachers' caches, where the caller has opened them.
        keep: the checkpoint, see ``training.fit``.

    Returns:
        History, one row per epoch: epoch, loss, learning_rate, what ``validation`` measures and, with a text tower,
        val_text_top1, which is val_top1 with the student's own embeddings of the taxa.

    Raises:
        UserError: the caches are of other teachers or photographs than stated, or of another size than the model.
    """
    facts = {"stage": stage, "seed": seed, "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    facts |= {"weight_decay": weight_decay, "teachers": list(teachers), "affinity": affinity, "cosine": cosine}
    facts |= {"temperature": temperature}
    facts |= {"ranks": ranks, "labels": labels, "ema": ema, "control": control, **preprocess}
    facts |= {"batch_affinity": text_student.batch_affinity} if text_student else {}
    train, val = train or CachedSplit(data, "train", teachers), CachedSplit(data, "val", teachers)
    leaves, below = label_space.leaves_below(data)
    for number, taxa in enumerate(train.taxa):
        store.check_same([*train.shards[number], *val.shards[number]], taxa)
        if leaves != taxa.taxon_ids:
            raise UserError(
                f"{store.folder(data, teachers[number])}/taxa.safetensors and index/taxa.parquet list different taxa; "
                f"make the cache again: snakemake --cores all logits"
            )
    if len(train.images) < 2:
        raise UserError(f"split train has {len(train.images)} photographs; training needs at least 2")
    size = min(batch_size, len(train.images))
    trainer.check_split(size, f"{stage}.batch_size")
    part = distributed.part(size)

    device = machine.device()
    texts = [torch.from_numpy(taxa.text).to(device) for taxa in train.taxa]
    scales = [taxa.logit_scale for taxa in train.taxa]
    nodes = torch.from_numpy(label_space.rank_nodes(data)).to(device)
    machine.deterministic(seed, stage, "train")
    model.to(device)
    predict = _predictor(model)
    said = TaxonCaptions(data, text_student) if text_student else None
    trained = TwoTowers(model, text_student.tower.to(device)) if text_student else model
    first_view = {i: digest(seed, stage, "view", key) for i, key in enumerate(train.images.keys)}
    steps = len(loading.batches(len(train.images), batch_size))
    pictures = loading.Replays(train.images, preprocess, train.view)

    def lessons(epoch: int, step: int) -> Iterator[Any]:
        # From epoch to epoch each photograph walks through its views, from a first one of its own.
        plan = [
            [(int(i), (first_view[int(i)] + epoch) % train.view_count) for i in rows]
            for rows in loading.batches(len(train.images), batch_size, seed, stage, "order", epoch)[step:]
        ]
        pixels = pictures.batches([shown[part] for shown in plan])
        return zip([epoch] * len(plan), plan, pixels, strict=True)

    def loss(batch: tuple[int, list[tuple[int, int]], torch.Tensor]) -> torch.Tensor:
        epoch, shown, pixels = batch
        out = predict(pixels)
        total = of_part(out, shown[part]) * distributed.share_of_loss(len(out), size)
        return total + of_texts(out, epoch, shown) if text_student else total

    def of_part(out: torch.Tensor, shown: list[tuple[int, int]]) -> torch.Tensor:
        if control:
            return losses.taxon_nll(out, under(shown))
        taught = [targets(shown, number) for number in range(len(teachers))]
        logits = losses.taxon_logits(out, texts[0], scales[0])
        total = cosine * losses.cosine(out, taught[0])
        if affinity or ranks:
            each = zip(taught, texts, scales, strict=True)
            target = losses.agreed([losses.taxon_logits(*of) / temperature for of in each])
            total = total + affinity * losses.affinity(logits / temperature, target)
            if ranks:
                total = total + ranks * losses.rank_affinity(logits / temperature, target, nodes)
        return total + labels * losses.taxon_nll(logits, under(shown)) if labels else total

    def of_texts(out: torch.Tensor, epoch: int, shown: list[tuple[int, int]]) -> torch.Tensor:
        assert said and text_student
        keys, taxa = ([names[i] for i, _ in shown] for names in (train.images.keys, train.images.taxon_ids))
        tokens, taught = (x.to(device) for x in said.drawn(taxa, keys, seed, stage, "caption", epoch))
        mine = tokens[distributed.part(len(tokens))]  # may be none of them
        embedded = text_student.tower(mine if len(mine) else tokens[:1]).float()[: len(mine)]
        own = distributed.gather(embedded, len(tokens))
        image = distributed.gather(F.normalize(out, dim=-1), size)
        both = losses.batch_affinity(
            image, F.normalize(own, dim=-1), F.normalize(targets(shown), dim=-1), taught, scales[0], scales[0]
        )
        return losses.cosine(own, taught) + text_student.batch_affinity * both

    def targets(shown: list[tuple[int, int]], number: int = 0) -> torch.Tensor:
        return torch.from_numpy(np.stack([train.target(i, k, number) for i, k in shown])).to(device)

    def under(shown: list[tuple[int, int]]) -> torch.Tensor:
        taxa = [train.images.taxon_ids[i] for i, _ in shown]
        return torch.from_numpy(label_space.under(taxa, below, len(leaves))).to(device)

    with torch.inference_mode():
        model.eval()
        width = predict(torch.zeros(1, 3, preprocess["size"], preprocess["size"])).shape[1]
    wanted = len(leaves) if control else train.taxa[0].text.shape[1]
    if width != wanted:
        raise UserError(
            f"the model gives {width} numbers, the cache in {data}/logits asks for {wanted}; the student belongs to "
            f"another teacher or list of taxa: train it again (snakemake --cores all distill)"
        )
    measure = validation(model, data, val, preprocess, control=control)

    @torch.inference_mode()
    def measure_both() -> dict[str, float]:
        assert said and text_student
        prompt = train.taxa[0].prompt.split()[0]  # the text type; templates may be named behind it
        kind = prompt if prompt in said.kinds else said.kinds[-1]
        tower = text_student.tower
        own = [tower(said.of([(kind, taxon)])[0].to(device)).float() for taxon in leaves]
        return {**measure(), "val_text_top1": measure(F.normalize(torch.cat(own), dim=-1))["val_top1"]}

    read = files_read(data, teachers) + ([store.folder(data) / "texts.safetensors"] if text_student else [])
    with memory_format.channels_last(model):
        history = trainer.fit(
            trained,
            lessons,
            loss,
            measure_both if text_student else measure,
            seed=seed,
            steps=steps,
            epochs=epochs,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            what=f"{stage} {job}",
            images=size,
            ema=ema,
            log=trainer.log_folder(data, stage, job),
            keep=keep,
            recipe=lambda: checkpoint.recipe(trained, ["training.distillation", f"stages.{stage}"], read, facts),
        )
    model.to("cpu")
    if text_student:
        text_student.tower.to("cpu").eval()
    return history


def _predictor(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The model's float32 outputs, computed in bfloat16 where that is faster."""
    device, half = machine.device(), machine.autocast_helps(model)

    def predict(pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            return model(pixels.to(device)).float()

    return predict


def validation(
    model: nn.Module, data: Path, val: CachedSplit, preprocess: dict[str, Any], *, control: bool = False
) -> Callable[..., dict[str, float]]:
    """Measures ``model``, in eval mode on ``training.device()``, on split "val", shared among the processes.

    val_top1: share of photographs whose taxon is the best of all leaves (photographs not known to a leaf do not count);
    val_nll: losses.taxon_nll, in nats; val_agreement: share whose best leaf is also the first teacher's; and, without
    ``control``, val_cosine to that teacher's embedding. The function returned may be given another text matrix (C, D).
    """
    device = machine.device()
    leaves, below = label_space.leaves_below(data)
    text, scale = torch.from_numpy(val.taxa[0].text).to(device), val.taxa[0].logit_scale
    leaf_number = {taxon: number for number, taxon in enumerate(leaves)}
    truth = torch.tensor([leaf_number.get(taxon, -1) for taxon in val.images.taxon_ids])
    predict = _predictor(model)
    mine = distributed.part(len(val.images))
    pictures = loading.Replays(val.images, preprocess, loading.plain_row)
    plan = [[(i, 0) for i in rows] for rows in loading.chunks(range(mine.start, mine.stop))]

    @torch.inference_mode()
    def measure(own_text: torch.Tensor | None = None) -> dict[str, float]:
        start = mine.start
        known, right, nll, agreed, alike = 0.0, 0.0, 0.0, 0.0, 0.0
        for pixels in pictures.batches(plan):
            out = predict(pixels)
            stop = start + len(out)
            taught = torch.from_numpy(np.stack([val.target(i, 0) for i in range(start, stop)])).to(device)
            logits = out if control else losses.taxon_logits(out, text if own_text is None else own_text, scale)
            best = logits.argmax(-1).cpu()
            under = torch.from_numpy(label_space.under(val.images.taxon_ids[start:stop], below, len(leaves)))
            known += (truth[start:stop] >= 0).sum().item()
            right += (best == truth[start:stop]).sum().item()
            nll += losses.taxon_nll(logits, under.to(device)).item() * len(out)
            agreed += (best == (taught @ text.T).argmax(-1).cpu()).sum().item()
            alike += 0.0 if control else F.cosine_similarity(out, taught).double().sum().item()
            start = stop
        sums = distributed.add(torch.tensor([right, nll, agreed, alike, known], dtype=torch.float64))
        every = float(len(val.images))
        counts = torch.tensor([sums[4].item(), every, every, every], dtype=torch.float64)
        names = ["val_top1", "val_nll", "val_agreement", "val_cosine"][: 3 if control else 4]
        return dict(zip(names, (sums[:4] / counts).tolist(), strict=False))

    return measure
