"""What is wrong with a model, or keeps it from being fetched."""

from __future__ import annotations

from .base import SDManagerError


class ModelError(SDManagerError):
    """Something is wrong with the model, not with the engine."""

    code = "MODEL_ERROR"
    http_status = 422
    exit_code = 20


class ModelNotFoundError(ModelError, LookupError):
    """No such model, or a file of it is not there."""

    code = "MODEL_NOT_FOUND"
    http_status = 404
    exit_code = 21
    default_hint = "Check the path, or use the model named 'demo', which needs no file."


class ModelCorruptError(ModelError):
    """A model file is damaged, cut short, or no model at all."""

    code = "MODEL_CORRUPT"
    exit_code = 22
    default_hint = "Download the file again and compare its size with the publisher's."


class ModelComponentMissingError(ModelError):
    """The model lacks a part (text encoder, VAE) that this family needs."""

    code = "MODEL_COMPONENT_MISSING"
    exit_code = 23
    default_hint = "Give the missing file too: --llm, --clip-l, --clip-g, --t5xxl or --vae."


class ModelUnsupportedError(ModelError):
    """This version of the engine does not know the model's family or format."""

    code = "MODEL_UNSUPPORTED"
    exit_code = 24
    default_hint = (
        "Use a .safetensors or .gguf file of a family that this engine supports, or a newer engine."
    )


class ModelNotInstalledError(ModelNotFoundError):
    """A model of the catalogue that is not on this machine yet."""

    code = "MODEL_NOT_INSTALLED"
    exit_code = 25
    default_hint = "Run 'sdmanager models pull NAME' first."


class ModelUnsafeError(ModelError):
    """A checkpoint that is a pickle: a file of that kind can run any program when it is opened."""

    code = "MODEL_UNSAFE"
    exit_code = 26
    default_hint = (
        "Get the .safetensors or .gguf file of the model, or allow pickles with --allow-pickle where you trust "
        "whoever made it."
    )


class ModelChangedError(ModelError):
    """A file of an installed model is not the one that was installed."""

    code = "MODEL_CHANGED"
    exit_code = 27
    default_hint = "Run 'sdmanager models verify NAME' to see which, then pull or import the model again."


class ModelGatedError(ModelError):
    """The publisher asks users to agree to terms, or to show a token, before the model can be fetched."""

    code = "MODEL_GATED"
    http_status = 403
    exit_code = 28
    default_hint = "Agree on the model's page, then set HF_TOKEN or run 'hf auth login'."


class ModelDownloadError(ModelError):
    """A model could not be fetched, or is not what its publisher names; nothing of it was installed."""

    code = "MODEL_DOWNLOAD_FAILED"
    http_status = 503
    exit_code = 29
    default_hint = "Check the connection, then run the command again."
