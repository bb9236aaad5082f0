"""A base model tuned on questions with all its weights (CaMeLS's QA-tuned base).

Writes a model folder of its own, complete with tokenizer and prompts, that ``--base FOLDER`` takes;
the base model it began from and its files stay as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapterdb.base_model import BaseModel
from adapterdb.model_folder import check_new_folder, write_model_folder
from adapterdb.training.finetune import FinetuneSettings, prepared, run, shares
from adapterdb.training.head import SplitModel
from adapterdb.training.loss import pad
from adapterdb.training.objective import TokenSequence
from adapterdb.training.schedule import Progress


def tune_base(
    base: BaseModel,
    sequences: Sequence[TokenSequence],
    settings: FinetuneSettings,
    folder: Path,
    *,
    held_out: Sequence[TokenSequence] = (),
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[dict[str, float], ...]:
    """Tune a copy of ``base`` in float32 and write the best to ``folder``, all or nothing.

    Args:
        settings: its ``lora`` is not used; with ``weight_decay`` 0 this is Adam.
        folder: must not exist.
        held_out: sequences that are not trained on; empty keeps the last step.

    Returns:
        The curve of evaluations.

    Raises:
        Exists: if ``folder`` does.
        InvalidInput: as ``finetune``.
    """
    check_new_folder(folder)
    learned, aside = prepared(sequences, held_out, settings)
    model = copy.deepcopy(base.model).float().requires_grad_(True).eval()
    parameters: list[nn.Parameter] = list(model.parameters())
    best: list[dict[str, Tensor]] = [{}]

    def loss_of(part: Sequence[TokenSequence]) -> Tensor:
        ids, mask, labels = pad(part, base.device)
        split = SplitModel(model)
        kept = labels != -100
        logits = split.logits(split.hidden_states(ids, mask)[kept])
        return F.cross_entropy(logits.float(), labels[kept])

    def backward(batch: Sequence[TokenSequence]) -> float:
        model.zero_grad(set_to_none=True)
        total = 0.0
        for part, share in shares(batch, settings.at_once):
            loss = share * loss_of(part)
            torch.autograd.backward(loss)
            total += float(loss.detach())
        return total

    def evaluate() -> float:
        return sum(share * float(loss_of(p)) for p, share in shares(aside, settings.at_once))

    def keep() -> None:
        best[0] = {name: value.detach().clone() for name, value in model.state_dict().items()}

    curve, _ = run(parameters, learned, settings, backward, evaluate if aside else None, keep,
                   on_progress)  # fmt: skip
    model.load_state_dict(best[0])
    write_model_folder(folder, model.to(torch.float32), base.tokenizer, base.encoder.prompts)
    return curve
