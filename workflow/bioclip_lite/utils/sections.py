"""The types of all sections of parameters, generated from workflow/schemas/params.schema.yaml
(python -m bioclip_lite.params.reference).

Import this module for type checking only, so that it is no code input of a job.
"""

# fmt: off

from typing import Any, Literal, NotRequired, TypedDict

TrainingPrecision = Literal["auto", "float32", "bfloat16", "float16"]
TextType = Literal["sci", "com", "taxon", "taxonTag", "sci_com", "taxon_com", "taxonTag_com", "lit"]
Column = Literal["common_name", "supercategory", "kingdom", "phylum", "class", "order", "family", "genus", "species"]


class IndexDownloads(TypedDict):
    folder: str
    per_host: int
    tries: int
    timeout: float


class IndexSynthetic(TypedDict):
    species: int
    unseen_species: int
    image_size: int
    images: dict[str, int]
    within_species: float
    nuisance: float


class Index(TypedDict):
    source: str
    path: str
    where: dict[str, list[str]]
    species_list: str | None
    unlisted: Literal["leave_out", "keep"]
    synonyms: str | None
    taxonomy: str | None
    teacher_saw: str | None
    licences: list[Literal["cc0", "pd", "by", "by-sa", "by-nd", "by-nc", "by-nc-sa", "by-nc-nd"]]
    quality_grades: list[Literal["research", "needs_id", "casual"]]
    unlabelled: Literal["leave_out", "keep"]
    min_side: int
    parts: int
    near_duplicates: int
    reject_budget: float
    split: dict[str, float]
    downloads: IndexDownloads
    seed: int
    synthetic: IndexSynthetic


class Shard(TypedDict):
    counts: dict[str, int]
    max_side: int | None


class CaptionCaptionersPreprocess(TypedDict):
    mean: list[float]
    std: list[float]
    interpolation: Literal["bicubic", "bilinear"]
    resize_mode: Literal["shortest", "squash"]


class CaptionCaptionersFineTuning(TypedDict):
    captions: str
    images: str
    epochs: int
    batch_size: int
    learning_rate: float


class CaptionCaptioners(TypedDict):
    name: str
    model: str
    weights: str | None
    preprocess: NotRequired[CaptionCaptionersPreprocess | None]
    captions: int
    method: Literal["nucleus", "beam"]
    top_p: float
    beams: int
    tokens: int
    prompt: NotRequired[str]
    fine_tuning: CaptionCaptionersFineTuning


class Caption(TypedDict):
    lit_columns: Literal["auto"] | list[Column]
    templates: dict[str, str]
    languages: list[str]
    captioners: list[CaptionCaptioners]
    seed: int


class TeacherTrain(TypedDict):
    splits: list[Literal["pretrain", "train"]]
    image_tower: str
    image_size: int
    embed_dim: int
    text_width: int
    text_layers: int
    epochs: int
    batch_size: int
    accumulation: int
    shuffle_buffer: int
    learning_rate: float
    warm_up: float | int
    weight_decay: float
    betas: list[float]
    eps: float
    precision: TrainingPrecision
    ema: float


class TeacherLitImageTowerPreprocess(TypedDict):
    mean: list[float]
    std: list[float]
    interpolation: Literal["bicubic", "bilinear"]
    resize_mode: Literal["shortest", "squash"]


class TeacherLitImageTower(TypedDict):
    model: str
    weights: NotRequired[str | None]
    preprocess: NotRequired[TeacherLitImageTowerPreprocess | None]
    revision: NotRequired[str | None]


class TeacherLitTextTowerPreprocess(TypedDict):
    mean: list[float]
    std: list[float]
    interpolation: Literal["bicubic", "bilinear"]
    resize_mode: Literal["shortest", "squash"]


class TeacherLitTextTower(TypedDict):
    model: str
    weights: NotRequired[str | None]
    preprocess: NotRequired[TeacherLitTextTowerPreprocess | None]
    revision: NotRequired[str | None]


class TeacherLit(TypedDict):
    image_tower: str | TeacherLitImageTower
    image_tower_options: dict[str, Any]
    weights: str
    image_size: int
    mean: list[float] | None
    std: list[float] | None
    text_tower: Literal["own"] | TeacherLitTextTower | None
    text_width: int
    text_layers: int
    epochs: int
    batch_size: int
    accumulation: int
    shuffle_buffer: int
    learning_rate: float
    warm_up: float | int
    weight_decay: float
    betas: list[float]
    eps: float
    precision: TrainingPrecision


class TeacherOpenClip(TypedDict):
    splits: list[Literal["pretrain", "train"]]
    model: str | None
    pretrained: str | None
    revision: str | None
    preprocess: dict[str, Any] | None
    dataset_resampled: bool
    epochs: int
    batch_size: int
    accum_freq: int
    workers: int
    lr: float
    wd: float
    warmup: int
    beta1: float
    beta2: float
    eps: float
    precision: Literal["amp", "amp_bf16", "bf16", "fp16", "pure_bf16", "pure_fp16", "fp32"]
    local_loss: bool
    gather_with_grad: bool
    ddp_static_graph: bool
    grad_checkpointing: bool
    lock_image: bool
    lock_image_unlocked_groups: int
    lock_image_freeze_bn_stats: bool
    lock_text: bool
    aug_cfg: dict[str, Any]


class TeacherPretrained(TypedDict):
    model: str
    weights: str | None
    preprocess: dict[str, Any] | None
    revision: str | None


class Teacher(TypedDict):
    kind: Literal["train", "lit", "open_clip", "pretrained"]
    captions: list[str]
    allow_research_only: bool
    allow_weak: bool
    ensemble: list[dict[str, Any]]
    seed: int
    train: TeacherTrain
    lit: TeacherLit
    open_clip: TeacherOpenClip
    pretrained: TeacherPretrained


class Logits(TypedDict):
    views: int
    crop_scale: list[float]
    operations: int
    magnitude: float
    prompt: TextType
    templates: Literal["plain", "openai"]
    logit_scale: Literal["given", "tuned"]
    precision: Literal["float16", "int8"]
    forward_precision: Literal["auto", "float32", "tf32", "bfloat16", "float16"]
    seed: int


class DistillTextTowerSynthetic(TypedDict):
    captioners: list[str]
    share: float


class DistillTextTower(TypedDict):
    kind: Literal["transformer", "mixer", "own"]
    width: int
    layers: int
    batch_affinity: float
    synthetic: DistillTextTowerSynthetic


class DistillFinetune(TypedDict):
    epochs: int
    learning_rate: float
    warm_up: float | int


class Distill(TypedDict):
    student: str
    student_options: dict[str, Any]
    text_tower: DistillTextTower | None
    image_size: int
    weights: str | None
    allow_research_only: bool
    epochs: int
    batch_size: int
    accumulation: int
    shuffle_buffer: int
    learning_rate: float
    warm_up: float | int
    weight_decay: float
    betas: list[float]
    eps: float
    precision: TrainingPrecision
    affinity: float
    temperature: float
    splits: list[Literal["train", "unlabelled"]]
    teachers: list[str]
    cosine: float
    ranks: float
    labels: float
    ema: float
    finetune: DistillFinetune
    control: Literal["auto"] | bool
    seed: int


class Prune(TypedDict):
    budget: dict[str, float]
    importance: Literal["embedding", "taylor", "hessian", "magnitude"]
    ranking: Literal["global", "isomorphic"]
    steps: int
    round_to: int
    epochs: int
    batch_size: int
    accumulation: int
    shuffle_buffer: int
    learning_rate: float
    warm_up: float | int
    weight_decay: float
    betas: list[float]
    eps: float
    precision: TrainingPrecision
    seed: int


class QuantizeRepair(TypedDict):
    equalise: bool
    rounding: Literal["nearest", "gptq"]
    bias: bool


class Quantize(TypedDict):
    images: int
    bytes_per_parameter: float
    repair: QuantizeRepair


class Convert(TypedDict):
    images: int
    tolerance: float
    taxa_bytes: int | None
    over_budget: Literal["refuse", "genera"]
    whole_table: int | None
    sign_with: str | None
    onnx: list[Literal["fp32", "qdq"]]
    tflite: bool
    text_encoder: Literal["teacher", "student"] | None
    lists: list[str]
    prior: str | None


class EvaluateSpeed(TypedDict):
    sizes: list[int]


class EvaluatePrompts(TypedDict):
    types: list[Literal["sci", "com", "taxon", "taxonTag", "sci_com", "taxon_com", "taxonTag_com"]]
    templates: list[Literal["plain", "openai"]]
    taxa: int


class EvaluateSuites(TypedDict):
    name: str
    format: str
    path: str
    prompt: Literal["name", "lemmas", "sci", "com", "taxon", "taxonTag", "sci_com", "taxon_com", "taxonTag_com", "lit"]
    templates: Literal["plain", "openai", "own"]


class Evaluate(TypedDict):
    bootstrap: int
    latency_runs: int
    also: list[str]
    chromium: bool
    speed: EvaluateSpeed
    examples: int
    prompts: EvaluatePrompts
    retrieval: list[str]
    suites: list[EvaluateSuites]
    seed: int
