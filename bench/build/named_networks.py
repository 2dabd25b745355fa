"""Networks by their names in a library: `hf:NAME` of Hugging Face, or a folder as its library saves it, `timm:NAME` and
`torchvision:NAME`, each with its published weights.

No code of a model's own is run, and weights are safetensors where the library takes whatever lies there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.engines.onnx_graphs import Role
from bench.errors import DataError
from bench.spec.network import Port, Signature
from bench.spec.packages import lacking

if TYPE_CHECKING:
    import torch

BATCH = "batch"  # the free axis of the items
SHOWN = 3  # weights that a message names
SAVED = ("*.json", "*.safetensors")  # the files of a model on Hugging Face's hub that are read
# the main inputs of transformers that are known here
WORDS, SOUND, PICTURE = "input_ids", "input_values", "pixel_values"


def signature_of(file: Path) -> Signature:
    """What a named network takes; its outputs are known once it runs. Raises DataError where it cannot be had."""
    library, name = _parts(file)
    if library == "hf":
        return Signature(_inputs_of_transformer(_config(name), name), ())
    if reason := lacking([library]):
        raise DataError(f"{file} cannot be built: {reason}")
    try:
        return Signature((Port("x", "float32", (BATCH, *_picture_size(library, name))),), ())
    except Exception as error:  # of an unknown name, or one without published weights
        raise DataError(f"{file} cannot be built: {_line(error)}") from error


def files_of(file: Path) -> list[Path]:
    """The files of a model on Hugging Face's hub, brought here where they are not; of others their library knows."""
    library, name = _parts(file)
    files = _folder(name).iterdir() if library == "hf" else ()
    return sorted(path for path in files if any(map(path.match, SAVED)))


def identity_of(file: Path) -> str:
    """What tells the published weights of timm and torchvision apart, which their libraries know."""
    library, name = _parts(file)
    if library == "timm":
        import timm

        settings = timm.get_pretrained_cfg(name)
        return "" if settings is None else str([settings.tag, settings.hf_hub_id, settings.url])
    if library == "torchvision":
        import torchvision

        return str(torchvision.models.get_model_weights(name).DEFAULT.url)
    return ""


def roles_of(file: Path, signature: Signature) -> dict[str, Role]:
    """The inputs that look up words, with how many there are, and masks, which are 1."""
    library, name = _parts(file)
    if library != "hf":
        return {}
    below = getattr(_config(name).get_text_config(), "vocab_size", None)
    roles = {WORDS: Role(below=below), "attention_mask": Role(value=1)}
    return {port.name: roles[port.name] for port in signature.inputs if port.name in roles}


def module_of(file: Path) -> torch.nn.Module:
    """The network with its published weights, in eval mode. Raises DataError where it cannot be had."""
    library, name = _parts(file)
    if reason := lacking([{"hf": "transformers"}.get(library, library)]):
        raise DataError(f"{file} cannot be built: {reason}")
    try:
        return {"hf": _transformer, "timm": _timm, "torchvision": _torchvision}[library](name).eval()
    except DataError:
        raise
    except Exception as error:  # the libraries raise what downloads, configurations and files give
        raise DataError(f"{file} cannot be built: {_line(error)}") from error


def _parts(file: Path) -> tuple[str, str]:
    library, _, name = str(file).partition(":")
    return library, name


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@functools.cache  # the hub is asked once a process
def _folder(name: str) -> Path:
    """The folder that holds a model's files: a folder of the user's, or a snapshot of the hub's."""
    if Path(name).is_dir():
        return Path(name)
    if reason := lacking(["transformers"]):
        raise DataError(f"hf:{name} cannot be read: {reason}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(SAVED)))
    except Exception as error:  # of the hub's client, of HTTP, of the system
        raise DataError(
            f"hf:{name} is no folder here, and cannot be had from Hugging Face's hub: {_line(error)}"
        ) from error


def _config(name: str) -> Any:
    folder = _folder(name)
    if reason := lacking(["transformers"]):
        raise DataError(f"hf:{name} cannot be read: {reason}")
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise DataError(f"hf:{name} cannot be read: {_line(error)}") from error
    if getattr(config, "quantization_config", None) is not None:
        raise DataError(f"hf:{name} is quantized already: give its FP32 model")
    if config.is_encoder_decoder:
        raise DataError(f"hf:{name} is an encoder with a decoder, which take turns: give one of them as a Model")
    return config


def _inputs_of_transformer(config: Any, name: str) -> tuple[Port, ...]:
    main = _class_of(config, name).main_input_name
    if main == WORDS:
        return tuple(Port(part, "int64", (BATCH, "words")) for part in (WORDS, "attention_mask"))
    if main == SOUND:
        return (Port(SOUND, "float32", (BATCH, "samples")),)
    if main == PICTURE:
        vision = getattr(config, "vision_config", config)
        side = getattr(vision, "image_size", "side")
        sides = tuple(side) if isinstance(side, (list, tuple)) else (side, side)
        return (Port(PICTURE, "float32", (BATCH, getattr(vision, "num_channels", 3), *sides)),)
    raise DataError(f"hf:{name} takes {main}; only {WORDS}, {SOUND} and {PICTURE} are known here: give it as a Model")


def _class_of(config: Any, name: str) -> Any:
    import transformers

    kinds = [getattr(transformers, kind, None) for kind in config.architectures or ()]
    kind = next((kind for kind in kinds if kind is not None), None)
    if kind is not None:
        return kind
    try:
        return transformers.MODEL_MAPPING[type(config)]
    except KeyError:
        raise DataError(f"hf:{name} is of a kind that transformers does not know without code of its own") from None


def _transformer(name: str) -> torch.nn.Module:
    import torch

    config = _config(name)
    inputs = [port.name for port in _inputs_of_transformer(config, name)]
    network, told = _class_of(config, name).from_pretrained(
        _folder(name),
        use_safetensors=True,
        dtype=torch.float32,
        trust_remote_code=False,
        output_loading_info=True,
    )
    if missing := sorted(told["missing_keys"]):  # they would be drawn
        raise DataError(f"hf:{name} holds no weights for {', '.join(missing[:SHOWN])}")
    network.config.use_cache = False
    return _taking(inputs)(network)


def _taking(inputs: list[str]) -> Callable[[torch.nn.Module], torch.nn.Module]:
    """The class of a module that takes these inputs in this order, and gives the tensors of a transformer's outputs."""
    import torch

    class Transformer(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def outputs(self, **given: torch.Tensor) -> dict[str, torch.Tensor]:
            made = self.network(**given, return_dict=True)
            return {name: value for name, value in made.items() if isinstance(value, torch.Tensor)}

    class Words(Transformer):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
            return self.outputs(input_ids=input_ids, attention_mask=attention_mask)

    class Picture(Transformer):
        def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
            return self.outputs(pixel_values=pixel_values)

    class Sound(Transformer):
        def forward(self, input_values: torch.Tensor) -> dict[str, torch.Tensor]:
            return self.outputs(input_values=input_values)

    return {WORDS: Words, PICTURE: Picture, SOUND: Sound}[inputs[0]]


def _timm(name: str) -> torch.nn.Module:
    import timm

    network: torch.nn.Module = timm.create_model(name, pretrained=True)
    return network


def _torchvision(name: str) -> torch.nn.Module:
    import torchvision

    network: torch.nn.Module = torchvision.models.get_model(name, weights="DEFAULT")
    return network


def _picture_size(library: str, name: str) -> tuple[int, int, int]:
    """The channels, height and width of the pictures that a network was trained on."""
    if library == "timm":
        import timm

        settings = timm.get_pretrained_cfg(name, allow_unregistered=False)
        assert settings is not None
        channels, height, width = settings.input_size
        return channels, height, width
    import torchvision

    size = torchvision.models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
    return 3, size, size
