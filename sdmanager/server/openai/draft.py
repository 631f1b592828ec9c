"""From an order to a request: with a model, with the pictures it starts from, and with previews for partial images."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sdmanager.engine.images import natural_size
from sdmanager.errors import ModelNotFoundError
from sdmanager.generation import ImageRequest, PreviewFormat, PreviewOptions
from sdmanager.server.models_api import find_model

from .models import is_current
from .partials import stride_for
from .pictures import input_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdmanager.server.face import Models

    from .order import Order


@dataclass(slots=True)
class Draft:
    """An order that is being made a request.

    Attributes:
        order: What was asked for.
        model_id: Of the model to draw with; None: whichever is current.
        defaults: What suits it, as fields of a request; empty where nobody has to know beforehand.
        image: The bytes of the picture to start from, or None.
        mask: Likewise.
        size: Width and height of the result in pixels, once ``build`` was called.
    """

    order: Order
    model_id: str | None
    defaults: Mapping[str, object] = field(default_factory=dict)
    image: bytes | None = None
    mask: bytes | None = None
    size: tuple[int, int] = (0, 0)

    def build(self) -> ImageRequest:
        """The request. Takes its time where there are pictures.

        What follows from the model's defaults does not count as asked for: the same order with the same key is the same
        request also when another model has become the current one.

        Raises:
            InvalidRequestError: A field is wrong.
            InputImageError: A picture cannot be read.
        """
        order, more = self.order, dict[str, object]()
        if self.model_id is not None:
            more["modelId"] = self.model_id
        picture = None
        if self.image is not None:
            inputs, picture = input_fields(self.image, self.mask)
            more |= inputs
        request = order.request(more)
        drawn = request.with_defaults(**self.defaults)
        self.size = drawn.width, drawn.height
        if picture is not None and order.fields.keys().isdisjoint({"width", "height"}):
            self.size = natural_size(picture, *self.size)
        if not order.partial_images:
            return request
        # The engine takes a share of the steps where it starts from a picture.
        steps = drawn.steps if self.image is None else max(1, int(drawn.steps * drawn.strength))
        previews = PreviewOptions(
            # As the engine writes them: they are scaled up, and encoded, once, in `partial_picture`.
            stride=stride_for(steps, order.partial_images),
            format=PreviewFormat.PNG,
        )
        return request.with_defaults(previews=previews)


async def draft_of(
    models: Models,
    order: Order,
    image: bytes | None = None,
    mask: bytes | None = None,
    *,
    repeated: bool = False,
) -> Draft:
    """A draft with the model that the order names, and its defaults where partial images depend on them.

    Args:
        models: Those of the server.
        order: What is asked for.
        image: The bytes of the picture to start from, or None.
        mask: Likewise.
        repeated: Whether it was accepted before: its model may be gone meanwhile.

    Raises:
        ModelNotFoundError: There is no such model.
    """
    draft = Draft(order, None, image=image, mask=mask)
    if not is_current(models, order.model):
        assert order.model is not None  # noqa: S101 - none means the current one
        draft.model_id = order.model
        try:
            draft.defaults = (await find_model(models, order.model)).defaults
        except ModelNotFoundError:
            if not repeated:
                raise
    else:
        if order.model == models.current:
            draft.model_id = order.model
        if order.partial_images and not {"steps", "width", "height"} <= order.fields.keys():
            with contextlib.suppress(ModelNotFoundError):
                draft.defaults = (await find_model(models, models.current)).defaults
    return draft
