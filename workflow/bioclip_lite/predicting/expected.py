"""The prior of place and month, as stage convert made it, for photographs that state both."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bioclip_lite.evaluation import web_variants
from bioclip_lite.taxa.label_space import Labels
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json
from bioclip_lite.web import bundle, prior
from bioclip_lite.web.prior import Expectation, Prior

VARIANTS = ("int8", "tfjs")  # one model, for whose answers weight and thresholds were fitted


class Places(NamedTuple):
    """What is needed to count place and month."""

    prior: Prior
    column: np.ndarray  # int64 [C], place of each leaf among the taxa of the prior
    temperature: float
    thresholds: dict[str, float | None]
    sha256: str  # of the bundle that the prior belongs to

    def expect(self, record: Mapping[str, Any]) -> Expectation | None:
        """What is expected of the C leaves where and when a photograph was taken; None if either is not known."""
        latitude, longitude, time = (record[name] for name in ("latitude", "longitude", "time"))
        if latitude is None or longitude is None or time is None:
            return None
        found = prior.expect(self.prior, latitude, longitude, int(time[5:7]))
        return found and Expectation(found.share[self.column], found.unexpected[self.column])


def read(data: Path, variant: str, labels: Labels) -> Places:
    """Read the prior of data/convert/prior for a variant.

    Raises:
        UserError: there is none, or it is of another model or list.
    """
    if variant not in VARIANTS:
        raise UserError(f"--prior was fitted for --variant {' and '.join(VARIANTS)}, not for {variant}")
    folder = data / "convert" / "prior" / "tfjs"
    file = folder / bundle.FILE
    if not file.is_file():
        raise UserError(
            f"--prior needs {file}: name a table of occurrences in convert.prior of params.yaml and run stage convert"
        )
    about = read_json(file)
    column = web_variants.columns(folder, about["taxa"], labels)
    web_variants.check_weights(data, folder, about)
    said = about["prior"]
    made = prior.decode((folder / said["file"]).read_bytes(), said, len(about["taxa"]))
    return Places(made, column, said["temperature"], said["thresholds"]["ranks"], bundle.sha256(file.read_bytes()))
