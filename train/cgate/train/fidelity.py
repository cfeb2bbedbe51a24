"""How well gates that predict the CIR do: against the true one, on a split."""

from __future__ import annotations

import torch
from torch import Tensor

from cgate.core.data import Split
from cgate.train.gates import CUT
from cgate.train.models import GatedResNet

BATCH = 500


def cir_fidelity(model: GatedResNet, split: Split) -> dict[str, dict[str, float]]:
    """For each gate that predicts the CIR, over the images of `split`, in evaluation mode.

    Returns:
        By block name: "correlation" of the predicted and the true CIR (Pearson; 0 if either is
        constant), "agreement": share of images for which the gate decides as it would with the
        true CIR, "chance": the agreement of two independent gates with these open rates.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    seen: dict[str, list[Tensor]] = {}
    with torch.inference_mode():
        for images in torch.split(torch.from_numpy(split.images), BATCH):
            for block, score in model(images.to(device)).scores.items():
                if score.predicted is None or score.cir is None or score.teacher is None:
                    continue
                columns = (score.predicted, score.cir, score.logit, score.teacher)
                seen.setdefault(block, []).append(torch.stack(columns).cpu().double())
    model.train(training)
    report = {}
    for block, parts in seen.items():
        predicted, cir, logit, teacher = torch.cat(parts, 1)
        decided, wanted = (logit > CUT).double(), (teacher > CUT).double()
        rates = decided.mean().item(), wanted.mean().item()
        correlation = torch.corrcoef(torch.stack([predicted, cir]))[0, 1].nan_to_num(0.0)
        report[block] = {
            "correlation": correlation.item(),
            "agreement": (decided == wanted).double().mean().item(),
            "chance": rates[0] * rates[1] + (1 - rates[0]) * (1 - rates[1]),
        }
    return report
