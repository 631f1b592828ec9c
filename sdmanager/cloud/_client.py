"""Calls of huggingface_hub. All of this runs in a worker: the library blocks while it finds out whom to ask."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from sdmanager.threads import beside

from ._asking import parameters_of
from ._errors import explained, no_token, unusable_saved_token
from ._options import fits_header
from ._pictures import decoded

if TYPE_CHECKING:
    from huggingface_hub import AsyncInferenceClient
    from PIL import Image

    from sdmanager.generation import GeneratedImage, ImageRequest

    from ._asking import Target

_FIRST_SESSION: Final = threading.Lock()


class Client:
    """Asks one service.

    Args:
        target: What to ask, and whom.
        token: To show, as ``header_value`` gives it; None: the user's own, where it may be shown.
        timeout: Seconds without a sign of life.
        bill_to: Organisation to bill.
    """

    def __init__(self, target: Target, token: str | None, timeout: float, bill_to: str | None) -> None:
        self._target = target
        self._token = token
        self._timeout = timeout
        self._bill_to = bill_to

    async def draw(self, request: ImageRequest, index: int, start: bytes | None) -> GeneratedImage:
        """One picture.

        Args:
            request: Complete.
            index: Of the picture, from 0: its seed is so much higher.
            start: The picture to start from.

        Raises:
            SDManagerError: Whatever went wrong.
        """
        seed = (request.seed or 0) + index
        token: str | None = None
        try:
            token = self._own_token()
            if token is None and not self._target.is_endpoint:
                raise no_token(self._target)
            async with self._opened(token) as client:
                return decoded(await _asked(client, request, seed, start), seed)
        except Exception as exc:  # noqa: BLE001 - whatever the library raises is told apart there
            error = explained(exc, self._target, token)
        # Out here, or else it would have the library's own as its context, and in that the request with the token.
        raise error

    async def is_served(self) -> bool:
        """Whether there is a token, and the hub names the provider as one that draws with the model."""
        from huggingface_hub import HfApi

        token = self._own_token()
        if token is None:
            return False
        _open_session()
        # A provider's own key says nothing to the hub.
        api = HfApi(token=token if token.startswith("hf_") else False)
        info = await beside(api.model_info, self._target.model, expand=["inferenceProviderMapping"])
        return any(
            served.task == "text-to-image" and self._target.provider in {"auto", served.provider}
            for served in info.inference_provider_mapping or ()
        )

    def _own_token(self) -> str | None:
        """The token to use; may read a file, or ask an identity provider.

        Raises:
            CloudUnauthorizedError: The saved one is not Hugging Face's: the library would take it for a provider's own
                key, and send it there.
        """
        from huggingface_hub import get_token

        if self._token is not None or not self._target.may_have_saved_token:
            return self._token
        saved = get_token()
        if saved is not None and not (saved.startswith("hf_") and fits_header(saved)):
            raise unusable_saved_token(self._target)
        return saved

    def _opened(self, token: str | None) -> AsyncInferenceClient:
        from huggingface_hub import AsyncInferenceClient

        _open_session()
        # Where the client is given no token it takes the user's own, for any host; a header of None takes that out.
        headers: Any = {"authorization": None} if token is None else None
        return AsyncInferenceClient(
            self._target.model,
            provider=self._target.provider,  # type: ignore[arg-type]
            token=token,
            timeout=self._timeout,
            headers=headers,
            bill_to=self._bill_to,
        )


def _open_session() -> None:
    """Have the library make the session that its calls share.

    Its releases before 2 make two where two threads ask for the first at once, and lose one with its connections.
    """
    from huggingface_hub import get_session

    with _FIRST_SESSION:
        get_session()


async def _asked(
    client: AsyncInferenceClient, request: ImageRequest, seed: int, start: bytes | None
) -> Image.Image:
    asked = parameters_of(request)
    if start is None:
        return await client.text_to_image(request.prompt, seed=seed, **asked)
    from huggingface_hub import ImageToImageTargetSize

    width, height = asked.pop("width", None), asked.pop("height", None)
    if width is not None and height is not None:
        asked["target_size"] = ImageToImageTargetSize(width=width, height=height)
    return await client.image_to_image(start, request.prompt, seed=seed, **asked)
