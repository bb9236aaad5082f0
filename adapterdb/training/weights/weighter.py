"""The CaMeLS weighting network: how much each token of a passage should count.

    body    hidden states (B, T, H) of a causal language model
    head    Linear(H, 128), GELU, Linear(128, 1) of zeros, Softplus with beta 3

(Hu et al., arXiv 2305.15076, section 3.) Since the last linear begins at zero, every token weighs
ln 2 / 3 = 0.231 at first. Knows no meta-training; a weighter is kept as named tensors, from which
it is rebuilt without any other file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapterdb.errors import Corrupt, InvalidInput
from adapterdb.prompts import DocumentToken, PromptEncoder, Prompts

Output = Literal["none", "sigmoid", "exp", "softplus", "gelu"]
BETA = 3.0  # of the softplus


@dataclass(frozen=True)
class WeighterSpec:
    """The shape of a weighter.

    Args:
        layers: of the body, counted from below; 0 means all of the model it is copied from.
        trained_layers: how many of them, counted from above, are trained; -1 means the whole body
            with its embeddings (as CaMeLS has it), 0 only the head.
        width: of the head.
        output: what makes a weight of the head's number.
        normalize: scale the weights of each passage to mean 1.
    """

    layers: int = 0
    trained_layers: int = -1
    width: int = 128
    output: Output = "softplus"
    normalize: bool = False

    def __post_init__(self) -> None:
        if self.output not in get_args(Output):
            raise InvalidInput(
                f"output {self.output!r} is not one of {', '.join(get_args(Output))}"
            )
        if self.layers < 0 or self.trained_layers < -1 or self.width < 1:
            raise InvalidInput(
                f"weighter of {self.layers} layers, {self.trained_layers} of them trained, width"
                f" {self.width}: allowed are layers >= 0, trained_layers >= -1, width >= 1"
            )


class Weighter(nn.Module):
    """A body and a head.

    Args:
        body: a transformers model that gives ``last_hidden_state``; its parameters are taken over.
        encoder: the body's own prompts and tokenizer.
        spec: its shape; ``layers`` has been applied to the body already.
    """

    def __init__(self, body: Any, encoder: PromptEncoder, spec: WeighterSpec) -> None:
        super().__init__()
        self.body, self.encoder, self.spec = body, encoder, spec
        last = nn.Linear(spec.width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        first = nn.Linear(int(body.config.hidden_size), spec.width)
        self.head = nn.Sequential(first, nn.GELU(), last)
        self.body.requires_grad_(spec.trained_layers < 0)
        if spec.trained_layers > 0:
            for layer in _layers(body)[-spec.trained_layers :]:
                layer.requires_grad_(True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Weights ``(B, T)`` of the tokens; 0 where ``attention_mask (B, T)`` is.

        In the parameters' own precision, whatever autocast is around.
        """
        with torch.autocast(input_ids.device.type, enabled=False):
            hidden = self.body(
                input_ids=input_ids, attention_mask=attention_mask, use_cache=False
            ).last_hidden_state
            mask = attention_mask.to(hidden.dtype)
            weights: Tensor = _OUTPUTS[self.spec.output](self.head(hidden)[..., 0]) * mask
        if self.spec.normalize:
            weights = weights * (mask.sum(-1) / weights.sum(-1).clamp(min=1e-8))[:, None]
        return weights

    @torch.no_grad()
    def weigh(self, passages: Sequence[tuple[str, str]]) -> list[list[float]]:
        """Weights >= 0 of each text id of ``encoder.document(title, text)``, for ``(title, text)``.

        A weight below zero (which ``none`` and ``gelu`` allow) is given as zero. Passages go
        through one by one, so that a result does not depend on its neighbours.
        """
        device = next(self.parameters()).device
        was, found = self.training, []
        self.eval()
        for title, text in passages:
            prompt, own = self.encoder.document(title, text)
            ids = torch.tensor([prompt + own], device=device)
            weights = self(ids, torch.ones_like(ids))[0, len(prompt) :]
            found.append(weights.clamp(min=0).tolist())
        self.train(was)
        return found

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def to_tensors(self) -> dict[str, Tensor]:
        """The weighter as named CPU tensors: parameters, buffers, and what rebuilds it as bytes.

        Tensors that bfloat16 holds exactly (the frozen part of a bfloat16 model) are kept so.
        """
        facts = {
            "spec": asdict(self.spec),
            "prompts": asdict(self.encoder.prompts),
            "max_length": self.encoder.max_length,
            "body": self.body.config.to_dict(),
            "special_tokens": self.encoder.special_tokens(),
        }
        return {
            "facts": _to_bytes(json.dumps(facts, sort_keys=True)),
            "tokenizer": _to_bytes(self.encoder.tokenizer_json()),
            **{name: _smallest(value) for name, value in self.state_dict().items()},
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Weighter:
        """The weighter that ``to_tensors`` gave, in eval mode on the CPU.

        Raises:
            Corrupt: if they don't make a weighter.
        """
        try:
            facts = json.loads(_from_bytes(tensors["facts"]))
            tokenizer = _tokenizer(_from_bytes(tensors["tokenizer"]), facts["special_tokens"])
            prompts = dict(facts["prompts"], stop=tuple(facts["prompts"]["stop"]))
            encoder = PromptEncoder(Prompts(**prompts), tokenizer, facts["max_length"])
            made = cls(_empty_body(facts["body"]), encoder, WeighterSpec(**facts["spec"]))
            kept = {k: v.float() for k, v in tensors.items() if k not in ("facts", "tokenizer")}
            made.load_state_dict(kept)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise Corrupt(
                f"these tensors are no weighter: {type(error).__name__} {error}"
            ) from error
        return made.eval()

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of ``to_tensors``, taken once: of a weighter that is trained no more."""
        return tensors_fingerprint(self.to_tensors())


def weighter_of(
    base: Any, encoder: PromptEncoder, spec: WeighterSpec, *, seed: int = 0
) -> Weighter:
    """A new weighter whose body is a copy of a causal model, or of its lower layers.

    Args:
        base: the transformers causal model; left as it is.
        encoder: its prompts.
        spec: ``layers`` and the rest.
        seed: of the head's first linear.

    Raises:
        InvalidInput: if the base has fewer layers than asked for.
    """
    config = base.config.to_dict()
    count = int(base.config.num_hidden_layers)
    if spec.layers > count or spec.trained_layers > (spec.layers or count):
        raise InvalidInput(
            f"a weighter of {spec.layers} layers, {spec.trained_layers} trained, does not fit into"
            f" a base model of {count} layers"
        )
    if spec.layers:
        name = base.config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
        config[name] = spec.layers
        if isinstance(config.get("layer_types"), list):
            config["layer_types"] = config["layer_types"][: spec.layers]
    body = _empty_body(config)
    state = base.get_decoder().state_dict()
    body.load_state_dict({name: state[name].float() for name in body.state_dict()})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Weighter(body, encoder, spec)


def transferred(
    source: Sequence[DocumentToken], weights: Sequence[float], target: Sequence[DocumentToken]
) -> list[float]:
    """Weights of one tokenizer's tokens on another's, by the characters both stand for.

    A character weighs what its source token does (the mean, where several share it), a target
    token the mean of its characters that have a weight: equal weights stay equal, and where the
    target's tokens share out the source's characters, the sum over characters is kept. A target
    token without any such character weighs 0.

    Returns:
        One weight for each of ``target``.
    """
    sums: dict[tuple[str, int], list[float]] = {}
    for token, weight in zip(source, weights, strict=True):
        for at in range(token.start, token.end):
            sums.setdefault((token.field, at), []).append(weight)
    each = {place: sum(found) / len(found) for place, found in sums.items()}
    mapped = []
    for token in target:
        places = ((token.field, at) for at in range(token.start, token.end))
        own = [each[place] for place in places if place in each]
        mapped.append(sum(own) / len(own) if own else 0.0)
    return mapped


def tensors_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes of CPU tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


_OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "sigmoid": torch.sigmoid,
    "exp": torch.exp,
    "softplus": lambda x: F.softplus(x, beta=BETA),
    "gelu": F.gelu,
}


def _layers(body: Any) -> nn.ModuleList:
    count = int(body.config.num_hidden_layers)
    lists = [m for m in body.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    return lists[0]


def _empty_body(config: Mapping[str, Any]) -> Any:
    """A float32 body of this shape with any numbers in it; global random state is left alone."""
    from transformers import AutoConfig, AutoModelForCausalLM

    plain = {k: v for k, v in config.items() if k not in ("model_type", "dtype", "architectures")}
    known = AutoConfig.for_model(config["model_type"], **plain)
    with torch.random.fork_rng(devices=[]):
        whole = AutoModelForCausalLM.from_config(
            known, dtype=torch.float32, trust_remote_code=False
        )
    return whole.get_decoder().eval()


def _tokenizer(text: str, special: Mapping[str, str]) -> Any:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text), **special)


def _to_bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def _from_bytes(tensor: Tensor) -> str:
    return str(tensor.numpy().tobytes(), encoding="utf-8")


def _smallest(value: Tensor) -> Tensor:
    kept = value.detach().cpu().contiguous()
    if not kept.is_floating_point():
        return kept
    half = kept.bfloat16()
    return half if torch.equal(half.float(), kept.float()) else kept.clone()
