"""Why a model answered so: what its kind of input has to say of that."""

from __future__ import annotations

from typing import Any

import torch

from common.errors import UserError
from common.kinds.answer import Predictor
from common.serve.formats import Problem


class Explainer:
    """Explanations of one model. Its calls may run beside predictions, but not beside each other.

    Attributes:
        form: what the page shows, such as "heat" for images, "tokens" for texts and "columns" for rows; "" where
            there are none.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor, self._names = predictor, predictor.answer.names
        found = predictor.input.explainer(predictor) if self._names else None
        self.form: str = found[0] if found else ""
        self._explain = found[1] if found else None

    def __call__(self, item: Any, wanted: str | None = None) -> dict[str, Any]:
        """`{"class", "method", "heat": rows of numbers in 0..1}`, or `"tokens": [[piece, score | None], ...]`.

        Of a row of a table it is `"unit"` and `"columns": [[name, value, score], ...]`. A heat map covers the square
        that the model sees; the pieces of a text together are the text. Scores are what the class's log-probability
        loses without the piece, in nats, or a number that is predicted.

        Args:
            item: decoded input.
            wanted: the class that is explained; the model's answer by default.

        Raises:
            Problem: 404 where the model has no explanations or no such class, 413 for an input that is too long.
        """
        if self._explain is None:
            raise Problem(404, "There are no explanations of this model.")
        if wanted is not None and wanted not in self._names:
            raise Problem(404, f"There is no class {wanted[:100]!r}.")
        network = self._predictor.model
        # The server may compute in bfloat16, with weights converted already.
        half = network is not None and any(p.dtype is torch.bfloat16 for p in network.parameters())
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            answer = self._predictor.answer
            name = wanted if wanted is not None else answer.about(self._predictor.predict([item])[0])
            try:
                return {"class": name, **self._explain(item, self._names.index(name))}
            except UserError as error:
                raise Problem(413, str(error)) from error
