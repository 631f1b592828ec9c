"""Everything that the Python SDK can ask of images; what it gets is printed as JSON.

Arguments: base URL, URL of a server that is busy, a PNG file.
"""

import base64
import json
import sys

import openai

SMALL = {"prompt": "a lighthouse", "size": "256x256", "extra_body": {"steps": 4, "seed": 7}}


def kind(b64):
    data = base64.b64decode(b64)
    return "png" if data[1:4] == b"PNG" else "jpeg" if data[0] == 0xFF else "webp"


def failure(ask):
    try:
        ask()
    except openai.APIStatusError as exc:
        return {"name": type(exc).__name__, "status": exc.status_code, "code": exc.code, "param": exc.param}
    return None


def told(stream):
    return [
        [event.type, getattr(event, "partial_image_index", None), kind(event.b64_json)] for event in stream
    ]


def main():
    base_url, busy_url, file = sys.argv[1:]
    client = openai.OpenAI(base_url=base_url, api_key="sk-local", timeout=120)
    images = client.images
    made = images.generate(model="dall-e-3", n=2, output_format="jpeg", **SMALL)
    seen = {"version": openai.__version__}
    seen["generate"] = [[kind(image.b64_json), image.model_extra["seed"], image.url] for image in made.data]
    seen["stream"] = seen["post_stream"] = told(images.generate(stream=True, partial_images=2, **SMALL))
    steps = {"steps": 2}
    with open(file, "rb") as picture:
        edit = images.edit(image=picture, prompt="a cat", extra_body=steps)
    seen["edit"] = [kind(image.b64_json) for image in edit.data]
    with open(file, "rb") as picture:
        variation = images.create_variation(image=picture, n=1, extra_body=steps)
    seen["variation"] = [kind(image.b64_json) for image in variation.data]
    seen["models"] = [model.id for model in client.models.list()]
    seen["invalid"] = failure(lambda: images.generate(**{**SMALL, "size": "big"}))
    seen["missing"] = failure(lambda: images.generate(model="no-such-model", **SMALL))
    busy = openai.OpenAI(base_url=busy_url, api_key="x", max_retries=0)
    seen["busy"] = failure(lambda: busy.images.generate(**SMALL))
    print(json.dumps(seen))


main()
