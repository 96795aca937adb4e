"""Loads parts of pretrained checkpoints in Hugging Face's format, from the hub or from a local directory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from speechllm_plugin.errors import UserError
from speechllm_plugin.hub import NoSuchFileError, advice, find_file, local_path, read_json, snapshot
from speechllm_plugin.identity import hash_weights, mark
from speechllm_plugin.log import log
from speechllm_plugin.transformers_versions import HEAD, VERSION, has_own_head, without_weights
from speechllm_plugin.weights import check_files, read_weights, weight_files

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json")
"""One of them is in every checkpoint of an LLM."""

LFS_POINTER = b"version https://git-lfs"
"""What a clone without git-LFS leaves in place of a large file starts with."""

OLD_BUFFERS = r"(^|\.)(rotary\w*\.\w+|(attn|attention)\.bias|masked_bias|causal_mask|position_ids)$"
"""Names of tables and masks that models compute, and that older versions of transformers saved all the same."""

ConfigT = TypeVar("ConfigT", bound=PretrainedConfig)
ModelT = TypeVar("ModelT", bound=PreTrainedModel)
ModuleT = TypeVar("ModuleT", bound=nn.Module)
ResultT = TypeVar("ResultT")


def load_config(path: str, kls: type[ConfigT], key: str) -> ConfigT:
    """The configuration of a checkpoint, checked to be of the class that the part expects.

    :param key: the configuration key that holds `path`, for errors.
    """
    values = config_values(path, key)
    found = values["model_type"]
    if found != kls.model_type:
        raise UserError(f"{key}: {path} holds a model of type {found!r}, expected {kls.model_type!r}")
    return _read(key, path, lambda: kls.from_dict(values))


def config_values(path: str, key: str) -> dict[str, Any]:
    """What a checkpoint's config.json holds; its `model_type` is one that transformers knows."""
    def read() -> dict[str, Any]:
        source = local_path(path, key)
        if (file := Path(source) / "config.json").is_file():
            read_json(file)  # whose errors tell what is wrong
        return PretrainedConfig.get_config_dict(source)[0]

    values: dict[str, Any] = _read(key, path, read)
    if not values:
        raise UserError(f"{key}: {path} has no config.json; expected a checkpoint directory in Hugging Face's format")
    found = values.get("model_type")
    if found is None:
        raise UserError(f"{key}: the config.json of {path} has no model_type; expected a model of transformers")
    if not isinstance(found, str) or found not in CONFIG_MAPPING:
        writer = values.get("transformers_version", "an unknown version")
        raise UserError(
            f"{key}: {path} holds a model of type {found!r}, written by transformers {writer}, which transformers "
            f"{transformers.__version__} does not know; install a version of transformers that does, or choose another "
            "model"
        )
    return values


def load_hf_config(path: str, key: str) -> PretrainedConfig:
    """transformers' configuration of a checkpoint, of whatever class it is."""
    return _read(key, path, lambda: AutoConfig.from_pretrained(local_path(path, key)))


def check_weight_files(path: str, key: str) -> None:
    """
    :raises UserError: of a local directory: files of weights are missing or are not whole. On the hub nothing is looked
        at: it would be downloaded.
    """
    source = local_path(path, key)
    if Path(source).is_dir():
        _read(key, path, lambda: check_files(source))


def load_preprocessor(path: str, key: str) -> dict[str, Any]:
    """What a checkpoint's preprocessor_config.json holds."""
    source = local_path(path, key)
    return _read(key, path, lambda: read_json(find_file(source, "preprocessor_config.json")))


def load_submodule(
    kls: type[ModelT],
    config: PretrainedConfig,
    path: str,
    *,
    prefix: str,
    dtype: torch.dtype,
    key: str,
    optional_prefix: bool = False,
    ignored: tuple[str, ...] = (),
) -> ModelT:
    """One module of a larger checkpoint, in `dtype` on the default device.

    Only the weights whose names start with `prefix` are read, lazily: see `speechllm_plugin.weights` for the memory.

    :param optional_prefix: the checkpoint may also be the module's own, or of a model between, whose names lack the
        prefix or the first parts of it.
    :param ignored: what the names, less the prefix, of weights start with that are not read although they are there.
    """
    source = local_path(path, key)
    files = _read(key, path, lambda: weight_files(source))
    while optional_prefix and prefix and not any(name.startswith(prefix) for name in files):
        prefix = prefix.partition(".")[2]
    files = {
        name: file for name, file in files.items()
        if name.startswith(prefix) and not name.removeprefix(prefix).startswith(ignored)
    }
    with without_weights():
        names = _read(key, path, lambda: set(kls(config).state_dict()))
    found = {_present_name(name.removeprefix(prefix)) for name in files}
    if missing := sorted(names - found):
        raise UserError(f"{key}: {path} lacks {len(missing)} weights of {kls.__name__}, the first is {missing[0]!r}")
    if unknown := sorted(found - names):
        raise UserError(f"{key}: {path} holds {len(unknown)} weights that {kls.__name__} does not know, the first is "
                        f"{unknown[0]!r}; expected the architecture of its config.json")
    device = torch.get_default_device()
    with without_modes():
        identity = _read(key, path, lambda: hash_weights(source, files))
        weights = _read(key, path, lambda: read_weights(source, files, dtype))
        weights = {_present_name(name.removeprefix(prefix)): weights.pop(name) for name in files}
        model: ModelT = _read(key, path, lambda: _build(kls, config, weights, dtype, f"{key}: {path}"))
    module: nn.Module = model
    mark(module, identity)
    module.to(device)
    return model


def _present_name(name: str) -> str:
    """Weight normalisation was a pair of other names before PyTorch 2.1, and still is in most of its checkpoints."""
    for old, new in (("weight_g", "parametrizations.weight.original0"),
                     ("weight_v", "parametrizations.weight.original1")):
        if name.endswith(f".{old}"):
            return name.removesuffix(old) + new
    return name


def _build(
    kls: Any, config: PretrainedConfig, weights: dict[str, Tensor], dtype: torch.dtype, where: str, **options: object
) -> Any:
    """A model that takes `weights` as they are, by transformers' own loader: none may lack or have another shape."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what it warns of is an error here
    try:
        model, report = kls.from_pretrained(
            None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True,
            ignore_mismatched_sizes=True, **options,
        )
    finally:
        logging.set_verbosity(verbosity)
    if report["mismatched_keys"]:
        name = min(key if isinstance(key, str) else key[0] for key in report["mismatched_keys"])
        expected = list(model.state_dict()[name].shape)
        # Of one that was renamed, transformers does not say what the file calls it.
        found = f"has the shape {list(weights[name].shape)}" if name in weights else "has another shape"
        raise UserError(f"{where} does not fit its config.json: {name} {found}, expected {expected}")
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(f"{where} lacks {len(missing)} weights of {type(model).__name__}, the first is {missing[0]!r}")
    _check_surplus(model, report["unexpected_keys"], where)
    return model


def _check_surplus(model: PreTrainedModel, names: Iterable[str], where: str) -> None:
    """Refuses or reports weights of a checkpoint that the model has no place for.

    A surplus `layers.32.mlp.weight` beside the model's 32 layers, or `layers.0.gate.weight` beside its
    `layers.0.mlp.weight`, means another architecture: an error. A surplus `value_head.weight` is a part that is not
    used: a warning.

    :param names: weights of a checkpoint. Those that the model has, or that its class ignores, are skipped.
    """
    known = model.state_dict().keys() | dict(model.named_buffers()).keys()
    patterns = [OLD_BUFFERS]
    for attribute in ("_keys_to_ignore_on_load_unexpected", "_keys_to_ignore_on_load_missing"):
        patterns += getattr(model, attribute, None) or ()
    surplus = [
        name for name in sorted(set(names) - known) if not any(re.search(pattern, name) for pattern in patterns)
    ]
    places = {place for name in known for place in _places(name)}
    wrong = [name for name in surplus if not places.isdisjoint(_places(name))]
    if wrong:
        raise UserError(f"{where} holds {len(wrong)} weights that {type(model).__name__} does not know, the first is "
                        f"{wrong[0]!r}; expected the architecture of its config.json")
    if surplus:
        log.warning("{} holds {} weights that {} does not use, the first is {}.",
                    where, len(surplus), type(model).__name__, surplus[0])


def _places(name: str) -> set[str]:
    """The module that holds a weight, and the outermost list of layers around it: `a.layers.3.mlp` and `a.layers.`."""
    stack = re.match(r"(?:[^.]*\.)*?(?=\d+\.)", name)
    return {name.rpartition(".")[0]} | ({stack[0]} if stack else set())


def load_tokenizer(path: str, key: str) -> PreTrainedTokenizerFast:
    tokenizer = _read(key, path, lambda: _read_tokenizer(local_path(path, key)))
    if not tokenizer.is_fast:
        raise UserError(f"{key}: {path} has no fast tokenizer (tokenizer.json), which is needed to keep special "
                        "tokens inside transcripts from being read as control tokens")
    return tokenizer


def _read_tokenizer(source: str) -> PreTrainedTokenizerFast:
    try:
        kls: Any = PreTrainedTokenizerFast if _names_the_class_of_5(source) else AutoTokenizer
        tokenizer = kls.from_pretrained(source)
        if VERSION >= 5 and tokenizer.is_fast:
            _follow_its_file(tokenizer, source)
        return tokenizer
    except Exception as error:  # tokenizers raises no other
        # Which file it missed or could not read, transformers does not say.
        found = find_file(source, *TOKENIZER_FILES)
        for name in (*TOKENIZER_FILES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
            file = found.parent / name
            if file.suffix == ".json" and file.is_file():
                read_json(file)
            elif file.is_file() and file.read_bytes()[: len(LFS_POINTER)] in (b"", LFS_POINTER):
                raise OSError(f"{file} is not whole; download it again") from error
        if isinstance(error, (OSError, ValueError, ImportError)):
            raise
        raise OSError(f"no tokenizer can be made of {found} ({error}); download it again") from error


def _names_the_class_of_5(source: str) -> bool:
    """transformers 5 writes `TokenizersBackend` where 4 wrote `PreTrainedTokenizerFast`, and 4 knows no such class."""
    if VERSION >= 5:
        return False
    try:
        values = read_json(find_file(source, "tokenizer_config.json"))
    except NoSuchFileError:
        return False
    return values.get("tokenizer_class") == "TokenizersBackend"


def _follow_its_file(tokenizer: PreTrainedTokenizerFast, source: str) -> None:
    """transformers 5 takes vocabulary and merges from tokenizer.json, and the steps around them from the class that
    tokenizer_config.json names: other ids, and other texts, for a tokenizer whose file has other steps."""
    try:
        file = Tokenizer.from_file(str(find_file(source, "tokenizer.json")))
    except NoSuchFileError:
        return
    for step in ("normalizer", "pre_tokenizer", "decoder"):
        setattr(tokenizer.backend_tokenizer, step, getattr(file, step))


def model_class(kls: Any, path: str, key: str) -> tuple[type[PreTrainedModel], PretrainedConfig]:
    """What one of transformers' Auto classes would load, and its configuration; reads no weights."""
    config_values(path, key)
    config = load_hf_config(path, key)
    return _model_class(kls, config, f"{key}: {path}"), config


def load_model(kls: Any, path: str, *, dtype: torch.dtype, key: str, **options: object) -> PreTrainedModel:
    """A whole model through one of transformers' Auto classes, in `dtype` on the default device.

    :param options: of `from_pretrained`, for instance `attn_implementation` or `quantization_config`.
    """
    values = config_values(path, key)
    source = local_path(path, key)
    device = torch.get_default_device()
    generation = _read(key, path, lambda: _generation_config(source))
    if generation is not None:
        options["generation_config"] = generation  # transformers reads it only with the weights, and hides its damage
    load = _read_quantized if "quantization_config" in (options.keys() | values.keys()) else _read_model
    model: PreTrainedModel = _read(key, path, lambda: load(kls, source, dtype, f"{key}: {path}", options))
    module: nn.Module = model
    if getattr(model, "hf_device_map", None) is None:
        module.to(device)
    return model


def _read_model(kls: Any, source: str, dtype: torch.dtype, where: str, options: dict[str, object]) -> PreTrainedModel:
    config, options = AutoConfig.from_pretrained(source, return_unused_kwargs=True, **options)
    model_kls = _model_class(kls, config, where)
    with without_modes():
        files = weight_files(source)
        own_head = has_own_head(PretrainedConfig.get_config_dict(source)[0], files)
        if own_head and VERSION < 5:
            config.tie_word_embeddings = False
        files = _needed(model_kls, config, files, where, own_head)
        identity = hash_weights(source, files)  # first: what it maps is given back before memory fills
        weights = read_weights(source, files, None if _keeps_float32(model_kls, dtype) else dtype)
        model: PreTrainedModel = _build(model_kls, config, weights, dtype, where, **options)
    model.config.name_or_path = source
    mark(model, identity)
    return model


def _read_quantized(
    kls: Any, source: str, dtype: torch.dtype, where: str, options: dict[str, object]
) -> PreTrainedModel:
    """By transformers alone: its quantisers read, convert and place each weight themselves."""
    model: PreTrainedModel
    with without_modes():
        model, report = kls.from_pretrained(source, dtype=dtype, output_loading_info=True, **options)
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"{where} lacks {len(missing)} weights of {type(model).__name__}, the first is {missing[0]!r}")
    with without_modes():
        files = weight_files(source)
        if "quantization_config" in options:  # otherwise the files themselves are quantised, and all is needed
            config = AutoConfig.from_pretrained(source)
            files = _needed(_model_class(kls, config, where), config, files, where)
        mark(model, hash_weights(source, files))
    return model


@contextmanager
def without_modes() -> Iterator[None]:
    """Takes the modes off that fairseq2 creates models under: they give every new tensor the dtype of the trained part
    and its device, and an LLM asked for in bfloat16 would be loaded, and run, in float32.

    Modes that transformers sets within work. To disable all, as `torch._C.DisableTorchFunction` does, would leave the
    rotary tables of transformers 5 uninitialised: it builds on the meta device, by a mode, and fills them afterwards.
    """
    with ExitStack() as stack:
        for _ in range(torch._C._len_torch_function_stack()):
            stack.enter_context(torch.overrides._pop_mode_temporarily())
        yield


def _needed(
    kls: Any, config: PretrainedConfig, files: dict[str, str], where: str, own_head: bool = False
) -> dict[str, str]:
    """The file of each weight that a model takes, those that several names share once.

    :param own_head: see `has_own_head`.

    All of a checkpoint's where it calls one by another name: transformers knows what was renamed.
    """
    # Some classes cannot be created on the meta device, but all can be created as transformers' loader does it.
    with without_weights():
        model = kls(config)
    model.tie_weights()
    names: dict[int, list[str]] = {}
    for name, weight in model.state_dict(keep_vars=True).items():
        names.setdefault(0 if own_head and name == HEAD else id(weight), []).append(name)
    found = [next((name for name in shared if name in files), None) for shared in names.values()]
    if None in found:
        return files
    _check_surplus(model, files, where)
    return {name: files[name] for name in found if name is not None}


def _model_class(kls: Any, config: PretrainedConfig, where: str) -> Any:
    """
    :raises UserError: the Auto class loads no model of that kind.
    """
    if type(config) not in getattr(kls, "_model_mapping", {type(config): kls}):
        raise UserError(f"{where} holds a model of type {config.model_type!r}, which {kls.__name__} does not load")
    return model_of(kls, config)


def model_of(kls: Any, config: PretrainedConfig) -> Any:
    """The class that an Auto class makes of a configuration that it knows."""
    found = getattr(kls, "_model_mapping", {type(config): kls})[type(config)]
    classes = {one.__name__: one for one in (found if isinstance(found, (tuple, list)) else [found])}
    return next((classes[name] for name in config.architectures or [] if name in classes), next(iter(classes.values())))


def _keeps_float32(kls: type[PreTrainedModel], dtype: torch.dtype) -> bool:
    """Whether transformers leaves some weights of a model in float32 when the others become `dtype` (T5's, say)."""
    names = {torch.float16: ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict"),
             torch.bfloat16: ("_keep_in_fp32_modules_strict",)}
    return any(getattr(kls, name, None) for name in names.get(dtype, ()))


def _generation_config(source: str) -> GenerationConfig | None:
    try:
        read_json(find_file(source, "generation_config.json"))
    except NoSuchFileError:
        return None
    return GenerationConfig.from_pretrained(source)


def source_identity(path: str) -> dict[str, object]:
    """What tells one version of a checkpoint from another without reading its weights.

    For a local directory: names, sizes and modification times of its weight files; for the hub: its id and, once it
    was downloaded, the commit.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        found = snapshot(path)
        return {"path": path} if found is None else {"path": path, "commit": found.name}
    files = sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.bin"))
    return {"files": [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]}


def freeze(module: ModuleT) -> ModuleT:
    """No gradients, no dropout."""
    return module.requires_grad_(False).eval()


def _read(key: str, path: str, load: Callable[[], ResultT]) -> ResultT:
    try:
        return load()
    except UserError:
        raise
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{key}: cannot load {path}: {advice(path, error) or reason[:300]}") from error
    except (KeyError, TypeError, AttributeError, IndexError, ZeroDivisionError, StrictDataclassError) as error:
        # The files of weights and tokenizers speak for themselves: what is left is a value that transformers trips on.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{key}: cannot load {path}: its config.json cannot be used ({reason[:300]})") from error
