"""The losses that align words, sentences and patches.

Shape letters: B pictures, N patches, S sentences, M words, W supervised words (sentences among them), K
categories, D joint width.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VISIBLE = 0.5  # patches' worth of pixels
_DOMINANT = 0.4  # share of a patch that gives it a category
_BACKGROUND_WEIGHT = 0.05


@dataclass(frozen=True)
class TextBatch:
    """Encoded sentences and what they point at.

    Attributes:
        sentences: (S, D) whole-sentence embeddings.
        phrases: (S, D) embeddings of the words that name each target, averaged and normalised.
        targets: (S, K) 0/1 float, the categories that the target phrase is true of.
        words: (W, D) words and sentences to be pointed.
        owners: (W, K) 0/1 float, the categories each of them points at.
    """

    sentences: Tensor
    phrases: Tensor
    targets: Tensor
    words: Tensor
    owners: Tensor


class PretrainLoss(nn.Module):
    """Pointing, naming and presence.

    - pointing: every word and every sentence chooses among the patches of each picture that shows its object;
      cross-entropy to the object's mask coverage. Pictures without the object say nothing.
    - naming: every patch chooses among the phrases of the batch and "none" (a learned null vector); all phrases
      that are true of its object are right (log of their summed probability).
    - presence: a sentence pools each picture by its own attention, as EF-VLA's fusion does (eq. 1), and the
      pooled vector must agree with it exactly when the object is there: pairwise sigmoid (SigLIP, Zhai et al.
      2023, eq. 1; positives and negatives weighted equally) or two softmaxes (CLIP).

    Args:
        width: D.
        contrast: "siglip" or "clip".
        presence_weight: weight of the third term.
    """

    def __init__(self, width: int, contrast: str = "siglip", presence_weight: float = 0.5) -> None:
        super().__init__()
        self.contrast = contrast
        self.presence_weight = presence_weight
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.presence_log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.presence_bias = nn.Parameter(torch.tensor(-5.0))
        self.null = nn.Parameter(torch.randn(width))

    @property
    def scale(self) -> Tensor:
        """1 / temperature, capped at 100 as in CLIP."""
        return self.log_scale.exp().clamp(max=100)

    def forward(self, patches: Tensor, cover: Tensor, text: TextBatch) -> dict[str, Tensor]:
        """patches (B, N, D), cover (B, N, K) -> the three terms and their weighted sum "loss"."""
        terms = {
            "pointing": self.pointing(patches, cover, text),
            "naming": self.naming(patches, cover, text),
            "presence": self.presence(patches, cover, text),
        }
        terms["loss"] = terms["pointing"] + terms["naming"] + self.presence_weight * terms["presence"]
        return terms

    def pointing(self, patches: Tensor, cover: Tensor, text: TextBatch) -> Tensor:
        """Words -> patches; words weigh equally, however many pictures show their object."""
        wanted = torch.einsum("bnk,wk->bwn", cover, text.owners)
        amount = wanted.sum(-1)
        shown = (amount > VISIBLE).float()
        log_p = (self.scale * torch.einsum("bnd,wd->bwn", patches, text.words)).log_softmax(-1)
        loss = -(wanted * log_p).sum(-1) / amount.clamp(min=VISIBLE)
        pictures = shown.sum(0)
        return ((loss * shown).sum(0) / pictures.clamp(min=1)).sum() / (pictures > 0).sum().clamp(min=1)

    def naming(self, patches: Tensor, cover: Tensor, text: TextBatch) -> Tensor:
        """Patches -> phrases or none, once for the phrases and once for the whole sentences."""
        share, category = cover.max(-1)
        background = 1 - cover.sum(-1)
        is_object, is_none = share > _DOMINANT, background > 1 - _DOMINANT / 2
        named = text.targets.T[category]  # (B, N, S): phrases that are true of the patch
        is_object = is_object & (named.sum(-1) > 0)
        chosen = is_object | is_none
        x, right = patches[chosen], named[chosen] * is_object[chosen][:, None]
        right = torch.cat([right, 1 - is_object[chosen][:, None].float()], 1) > 0
        weight = torch.where(is_object[chosen], 1.0, _BACKGROUND_WEIGHT)
        null = F.normalize(self.null, dim=-1)[None]
        losses = []
        for names in (text.phrases, text.sentences):
            logits = self.scale * x @ torch.cat([names, null]).T
            loss = logits.logsumexp(-1) - logits.masked_fill(~right, -math.inf).logsumexp(-1)
            losses.append((loss * weight).sum() / weight.sum().clamp(min=1e-6))
        return torch.stack(losses).mean()

    def presence(self, patches: Tensor, cover: Tensor, text: TextBatch) -> Tensor:
        """Sentences <-> pictures; a barely visible object counts neither way."""
        amount = cover.sum(1) @ text.targets.T  # (B, S)
        there, absent = amount > VISIBLE, amount == 0
        similarity = torch.einsum("bnd,sd->bsn", patches, text.sentences)
        pooled = ((self.scale * similarity).softmax(-1) * similarity).sum(-1)
        logits = self.presence_log_scale.exp() * pooled
        if self.contrast == "siglip":
            logits = logits + self.presence_bias
            right, wrong = -F.logsigmoid(logits) * there, -F.logsigmoid(-logits) * absent
            return right.sum() / there.sum().clamp(min=1) + wrong.sum() / absent.sum().clamp(min=1)
        logits = logits.masked_fill(~(there | absent), -math.inf)
        losses = []
        for axis in (0, 1):
            some = there.any(axis)
            positive = logits.masked_fill(~there, -math.inf).logsumexp(axis)[some]
            losses.append(
                (logits.logsumexp(axis)[some] - positive).mean() if some.any() else logits.sum() * 0
            )
        return losses[0] + losses[1]
