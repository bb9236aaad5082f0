"""``adapter_config.json``: what a plain LoRA may say in it, and nothing else.

Every option of peft that changes how the factors act is refused unless it is off, and so is every
key that is not known: a later peft may give it a meaning. Nothing is followed: no base model is
loaded, no class imported.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from adapterdb.errors import InvalidInput, Mismatch

MAX_CONFIG_BYTES = 2**20
MAX_ALPHA = 1e9
# do not touch what stored factors do to the base
_SILENT = frozenset(
    """
    auto_mapping eva_config fan_in_fan_out inference_mode megatron_core peft_version
    qalora_group_size revision
    """.split()  # noqa: SIM905 - a dozen quoted words hide the words
)
# under these B A x is no longer what the factors mean, or other weights are needed
_OFF = frozenset(
    """
    alora_invocation_tokens alpha_pattern arrow_config corda_config ensure_weight_tying
    exclude_modules kasa_config layer_replication layers_pattern loftq_config lora_bias
    lora_ga_config megatron_config modules_to_save monteclora_config rank_pattern runtime_config
    target_parameters trainable_token_indices use_bdlora use_dora use_qalora use_rslora
    velora_config
    """.split()  # noqa: SIM905
)
_READ = frozenset(
    """
    peft_type task_type base_model_name_or_path r lora_alpha lora_dropout bias target_modules
    layers_to_transform init_lora_weights
    """.split()  # noqa: SIM905
)
# the other ways to begin change the base model, whose change is not in the folder
_STARTS = (True, False, "gaussian", "eva", "orthogonal")
_TASKS = (
    "SEQ_CLS",
    "SEQ_2_SEQ_LM",
    "CAUSAL_LM",
    "TOKEN_CLS",
    "QUESTION_ANS",
    "FEATURE_EXTRACTION",
)
_LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")  # peft's own


@dataclass(frozen=True)
class PeftConfig:
    """What a config says of its factors.

    Args:
        rank, alpha: the factors act with ``alpha / rank``.
        targets: module names, or endings of them after a dot; None means every linear.
        layers: the only ones adapted; None means all.
    """

    rank: int
    alpha: float
    targets: frozenset[str] | None
    layers: frozenset[int] | None

    def adapts(self, module: str) -> bool:
        """Whether peft would give ``module`` factors."""
        if self.targets is None or module in self.targets:
            return True
        if not any(module.endswith(f".{target}") for target in self.targets):
            return False
        found = _LAYER.match(module)
        return self.layers is None or (found is not None and int(found[1]) in self.layers)


def parse_peft_config(data: bytes, where: str) -> PeftConfig:
    """The config in ``data``, which was read from ``where``.

    Raises:
        InvalidInput: if it is no JSON, or says something twice.
        Mismatch: code ``not_lora`` if it is anything but a plain LoRA.
    """
    try:
        config = json.loads(data.decode("utf-8"), object_pairs_hook=once, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{where} is not valid JSON: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise Mismatch(f"{where} is no LoRA config (peft_type is not 'LORA')", code="not_lora")
    for key, value in config.items():
        if key in _OFF and not _is_off(value):
            raise Mismatch(
                f"{where} uses {key!r}, which plain LoRA factors can't express", code="not_lora"
            )
        if key not in _OFF | _SILENT | _READ:
            raise Mismatch(
                f"{where} has the unknown key {key[:80]!r}",
                code="not_lora",
                hint="remove it if it does not change what the adapter does",
            )
    base = config.get("base_model_name_or_path")
    _need(where, "base_model_name_or_path", base, _is_model_name(base))
    _need(where, "bias", config.get("bias", "none"), config.get("bias", "none") == "none")
    task, dropout = config.get("task_type"), config.get("lora_dropout", 0.0)
    _need(where, "task_type", task, task is None or (isinstance(task, str) and task in _TASKS))
    _need(where, "lora_dropout", dropout, type(dropout) in (int, float) and 0 <= dropout <= 1)
    start = config.get("init_lora_weights", True)
    _need(where, "init_lora_weights", start, isinstance(start, bool | str) and start in _STARTS)
    rank: Any = config.get("r")
    alpha: Any = config.get("lora_alpha")
    _need(where, "r", rank, type(rank) is int and rank >= 1)
    in_range = type(alpha) in (int, float) and -MAX_ALPHA <= alpha <= MAX_ALPHA
    _need(where, "lora_alpha", alpha, in_range)
    return PeftConfig(rank, float(alpha), _targets(where, config), _layers(where, config))


def _targets(where: str, config: dict[str, Any]) -> frozenset[str] | None:
    targets = config.get("target_modules")
    if isinstance(targets, str) and targets.lower() == "all-linear":
        return None
    # a regular expression by a stranger may run for ever, so a string is not taken
    good = isinstance(targets, list) and targets and all(isinstance(t, str) for t in targets)
    _need(where, "target_modules", targets, bool(good), "a list of module names or 'all-linear'")
    return frozenset(targets or ())


def _layers(where: str, config: dict[str, Any]) -> frozenset[int] | None:
    layers = config.get("layers_to_transform")
    if layers is None or layers == []:
        return None
    chosen = layers if isinstance(layers, list) else [layers]
    _need(where, "layers_to_transform", layers, all(type(layer) is int for layer in chosen))
    return frozenset(chosen)


def _is_off(value: object) -> bool:
    return value is None or value is False or value in ({}, [], "")


def _is_model_name(value: object) -> bool:
    return value is None or (isinstance(value, str) and "://" not in value)


def _need(where: str, key: str, value: object, good: bool, allowed: str = "") -> None:
    if not good:
        hint = f"allowed is {allowed}" if allowed else ""
        raise Mismatch(f"{where}: {key} is {repr(value)[:80]}", code="not_lora", hint=hint)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; Python's json would take the last of two equal keys."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _constant(word: str) -> float:
    raise ValueError(f"{word} is not allowed")
