"""What a hosted service answered in the place of a picture."""

from __future__ import annotations

from .base import SDManagerError


class CloudError(SDManagerError):
    """A hosted service gave no usable picture."""

    code = "CLOUD_ERROR"
    http_status = 502
    exit_code = 80


class CloudUnauthorizedError(CloudError):
    """The hosted service wants a token, or a better one."""

    code = "CLOUD_UNAUTHORIZED"
    exit_code = 81
    default_hint = "Set HF_TOKEN or run 'hf auth login', with a token that may call inference providers."


class CloudModelNotFoundError(CloudError, LookupError):
    """The hosted service does not know the model, or does not draw with it."""

    code = "CLOUD_MODEL_NOT_FOUND"
    http_status = 404
    exit_code = 82


class CloudQuotaError(CloudError):
    """The account's credits or its rate are used up."""

    code = "CLOUD_QUOTA_EXCEEDED"
    http_status = 429
    exit_code = 83


class CloudUnavailableError(CloudError):
    """The hosted service cannot be reached, or is overloaded."""

    code = "CLOUD_UNAVAILABLE"
    http_status = 503
    exit_code = 84
    default_hint = "Check the connection, or try again in a while."


class CloudTimeoutError(CloudError):
    """The hosted service took too long."""

    code = "CLOUD_TIMEOUT"
    http_status = 504
    exit_code = 85
