"""Drawing in the page, in a real Chromium: forming, waiting, cancelled, failed, cut off and taken up again."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil
import pytest
from chromium import cutting_proxy
from scripted_generator import preview, progress, replanned, stage
from serving import GENERATIONS, OneModel, serving

from sdmanager.errors import EngineNotFoundError, ModelNotFoundError, NoImageError
from sdmanager.generation import Stage
from sdmanager.jobs import Status
from sdmanager.server.face import ModelEntry
from sdmanager.server.page.document import document

pytestmark = pytest.mark.browser


def engines() -> list[psutil.Process]:
    """Children that draw."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "--steps" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


async def test_a_whole_generation_is_watched_forming(real, tab):
    await tab.open(real.url)
    assert "demo model draws noise" in await tab.text("model-note")
    assert "sdmanager models pull sd-turbo" in await tab.text("model-note")
    await tab.draw("a lighthouse at dusk", size=128, steps=40)
    await tab.until_drawn()
    previews = [source for source in await tab.seen("pictures") if source.startswith("data:image/")]
    assert len(previews) >= 4
    assert "Drawing" in await tab.seen("stages")
    assert len([text for text in await tab.seen("texts") if " of 40" in text]) >= 4
    assert await tab.page.evaluate("[picture.naturalWidth, picture.naturalHeight, picture.alt]") == [
        128, 128, "a lighthouse at dusk",
    ]  # fmt: skip
    assert "ready after" in await tab.text("said")
    assert await tab.text("progress") == ""
    assert await tab.page.title() == "sdmanager"
    # For the ears: every stage, and not every step.
    spoken = await tab.seen("spoken")
    assert any("Drawing" in words for words in spoken)
    await tab.until("seen.spoken.at(-1).includes('ready')")
    assert len(spoken) < 12


async def test_without_previews_there_is_none(quick, scripted, tab):
    await tab.open(quick.url)
    await tab.page.click("#more summary")
    await tab.page.uncheck("#previews")
    await tab.draw()
    scripted.finish()
    await tab.until_drawn()
    assert scripted.requests[0].previews is None


async def test_cancel_ends_the_engine(real, tab):
    await tab.open(real.url)
    await tab.draw(size=128, steps=1000)
    await tab.until_said("detail", "of 1000")
    assert engines()
    await tab.page.click("#cancel")
    await tab.until_said("said", "Cancelled.")
    assert [found.status for found in real.service.registry.list()] == [Status.CANCELLED]
    assert engines() == []
    assert await tab.page.evaluate("document.activeElement.id") == "generate"


async def test_what_is_filled_in_is_what_is_sent(quick, scripted, tab):
    await tab.open(quick.url)
    page = tab.page
    await tab.fill("a fox", size=None, steps=None)
    await page.fill("#negative", "snow")
    await page.select_option("#size", "832x1216")
    await page.fill("#steps", "7")
    await page.fill("#seed", "9007199254740991")
    await page.fill("#count", "10")
    await page.click("#more summary")
    await page.fill("#cfg", "4.5")
    await page.keyboard.press("Control+Enter")
    await tab.until_said("stage-name", "Loading")
    (request,) = scripted.requests
    assert request.model_dump(include=request.model_fields_set, exclude={"previews"}) == {
        "prompt": "a fox", "negative_prompt": "snow", "width": 832, "height": 1216, "steps": 7,
        "seed": 9007199254740991, "count": 10, "cfg_scale": 4.5, "model_id": "demo",
    }  # fmt: skip
    assert request.previews is not None


async def test_what_is_not_filled_in_is_left_to_the_model(quick, scripted, tab):
    await tab.open(quick.url)
    await tab.draw("a fox", size=None, steps=None)
    await tab.until_said("stage-name", "Loading")
    assert scripted.requests[0].model_fields_set == {"prompt", "model_id", "previews", "count"}


async def test_a_sampler_of_the_engine_can_be_chosen(scripted, home, tab):
    info = {"samplers": ("euler", "heun"), "schedulers": ("karras",)}
    async with serving(scripted, home.generations_dir, info=info) as served:
        await tab.open(served.url)
        await tab.page.click("#more summary")
        await tab.page.select_option("#sampler", "heun")
        await tab.page.select_option("#scheduler", "karras")
        await tab.draw()
        await tab.until_said("stage-name", "Loading")
        assert (scripted.requests[0].sampler, scripted.requests[0].scheduler) == ("heun", "karras")


async def test_every_stage_is_named_and_a_new_plan_says_why(quick, scripted, tab):
    await tab.open(quick.url)
    await tab.draw()
    await tab.until_said("stage-name", "Loading the model")
    scripted.tell(progress(1, eta=75.0))
    await tab.until_said("detail", "step 1 of 4", "about 1 min 15 s left")
    assert await tab.page.evaluate("bar.value") == 20
    assert "20 %" in await tab.page.title()
    scripted.tell(replanned("Memory ran out."))
    await tab.until_said("said", "starts once more", "Memory ran out.")
    scripted.tell(stage(Stage.DECODING), preview(2))
    await tab.until("picture.src.startsWith('data:image/png')")
    scripted.finish()
    await tab.until_drawn()


async def test_several_wait_with_their_places_and_one_of_them_is_cancelled(queue, scripted, tab):
    await tab.open(queue.url)
    for words in ("first", "second", "third"):
        await tab.draw(words)
        await tab.until("!document.querySelector('#generate[aria-busy]')")
    await tab.until_said("waiting", "second", "next in the queue", "third", "place 2 in the queue")
    await tab.draw("fourth")
    told = (await queue.post({"prompt": "x"})).json["error"]
    await tab.until_said("failure", told["message"], told["suggestion"])
    await tab.page.get_by_role("button", name="Cancel: second").click()
    await tab.until("document.querySelectorAll('#waiting li').length === 1")
    scripted.finish()
    await tab.until_drawn(1)
    scripted.finish()
    await tab.until_drawn(2)
    assert [request.prompt for request in scripted.requests] == ["first", "third"]


async def test_a_busy_server_is_said_with_what_to_do(quick, scripted, tab):
    await quick.begin()
    await tab.open(quick.url)
    await tab.draw()
    await tab.until("!failure.hidden")
    told = (await quick.post({"prompt": "x"})).json["error"]
    said = await tab.text("failure")
    assert told["message"] in said
    assert told["suggestion"] in said


async def test_the_browser_says_what_is_wrong_before_anything_is_sent(quick, scripted, tab):
    await tab.open(quick.url)
    await tab.fill(size=65)
    await tab.page.click("#generate")
    assert await tab.page.evaluate("document.activeElement.id") == "width"
    await tab.page.fill("#width", "64")
    await tab.page.fill("#height", "64")
    await tab.page.click("#more summary")
    await tab.page.fill("#cfg", "99")
    await tab.page.click("#more summary")
    await tab.page.click("#generate")
    # It was folded away, and is shown again to say so.
    assert await tab.page.evaluate("[document.activeElement.id, more.open]") == ["cfg", True]
    assert not [url for method, url in tab.asked if method == "POST"]


async def test_a_size_that_is_not_shown_any_more_is_not_judged(quick, scripted, tab):
    await tab.open(quick.url)
    await tab.fill(size=65)
    await tab.page.select_option("#size", "512x512")
    await tab.page.click("#generate")
    await tab.until_said("stage-name", "Loading")
    assert (scripted.requests[0].width, scripted.requests[0].height) == (512, 512)


@pytest.mark.parametrize("former", [False, True])
async def test_what_is_said_of_one_does_not_stand_under_the_next(quick, scripted, tab, former):
    await tab.open(quick.url)
    if former:
        await tab.draw()
        scripted.finish()
        await tab.until_drawn()
    await tab.draw()
    await tab.until_said("stage-name", "Loading")
    await tab.page.click("#cancel")
    await tab.until_said("said", "Cancelled.")
    await tab.page.click("#generate")
    await tab.until_said("stage-name", "Loading")
    assert await tab.text("said") == ""


async def test_the_form_is_the_same_after_a_reload_with_what_it_has_no_field_for(kept, scripted, tab):
    await kept.begin(guidance=3.5, negativePrompt="snow")
    scripted.finish()
    await tab.open(kept.url)
    await tab.until_drawn_in_gallery(1)
    await tab.page.click(".card")
    await tab.page.click("#reuse")
    await tab.page.fill("#prompt", "a fox")
    await tab.page.reload()
    await tab.ready()
    assert "guidance 3.5" in await tab.text("carried")
    await tab.page.click("#generate")
    await tab.until_said("stage-name", "Loading")
    request = scripted.requests[1]
    assert (request.prompt, request.negative_prompt, request.guidance) == ("a fox", "snow", 3.5)


class TwoModels(OneModel):
    current = "red"

    async def list(self) -> list[ModelEntry]:
        return [ModelEntry(name, None, Path(f"/{name}.gguf"), None, 0, {}) for name in ("red", "blue")]


async def test_who_chose_no_model_follows_the_server_over_a_reload(scripted, home, tab):
    models = TwoModels()
    async with serving(scripted, home.generations_dir, models=models) as served:
        await tab.open(served.url)
        await tab.page.fill("#prompt", "typed while red was the current one")
        models.current = "blue"
        await tab.page.reload()
        await tab.ready()
        assert await tab.page.input_value("#model") == "blue"
        await tab.page.select_option("#model", "red")
        await tab.page.reload()
        await tab.ready()
        assert await tab.page.input_value("#model") == "red"


async def test_what_the_server_refuses_is_said_as_it_words_it(quick, scripted, tab):
    await tab.open(quick.url)
    await tab.page.evaluate("form.noValidate = true")
    await tab.draw(size=65)
    said = await tab.until_said("failure", "width")
    assert "multiples of 8" in said
    await tab.page.fill("#width", "64")
    await tab.page.fill("#height", "64")
    await tab.page.click("#generate")
    await tab.until_said("stage-name", "Loading")
    assert await tab.text("failure") == ""


async def test_failures_are_shown_with_what_to_do(quick, scripted, tab):
    await tab.open(quick.url)
    assert await tab.page.get_attribute("#failure", "role") == "alert"
    for error in (
        NoImageError("It drew nothing.", hint="Ask again."),
        EngineNotFoundError("There is no engine.", hint="Run: sdmanager engine build"),
        ModelNotFoundError("The model is gone.", hint="Run: sdmanager models pull sd-turbo"),
    ):
        await tab.draw()
        scripted.finish(error)
        await tab.until_said("failure", error.message, error.hint)
        assert await tab.text("progress") == ""
    await tab.page.click("#generate")
    scripted.finish()
    await tab.until_drawn()
    assert await tab.text("failure") == ""


async def test_a_page_that_is_loaded_again_takes_up_what_is_drawn(quick, scripted, tab):
    await tab.open(quick.url)
    await tab.draw("a fox in the snow")
    scripted.tell(progress(2), preview(2))
    await tab.until("picture.src.startsWith('data:')")
    await tab.page.reload()
    await tab.ready()
    await tab.until_said("detail", "step 2 of 4")
    await tab.until("picture.src.startsWith('data:')")
    assert await tab.page.input_value("#prompt") == "a fox in the snow"
    scripted.finish()
    await tab.until_drawn()
    assert scripted.most == 1
    assert len(scripted.requests) == 1


@pytest.fixture
async def cut(tmp_path):
    path = tmp_path / "page.html"
    path.write_bytes(document().html)
    async with cutting_proxy(path) as proxy:
        yield proxy


async def test_a_dropped_connection_is_said_and_taken_up_again(cut, scripted, home, tab):
    async with serving(scripted, home.generations_dir, policy={"allow_origin": [cut.origin]}) as served:
        cut.target = served.server.port
        cut.cuts = [2]
        await tab.open(cut.origin)
        await tab.draw()
        await tab.until_said("stage-name", "Loading")
        scripted.tell(progress(1))
        await tab.until_said("banner", "connection to the server is lost")
        scripted.tell(progress(3), preview(3))
        await tab.until_said("detail", "step 3 of 4")
        await tab.until("banner.hidden")
        scripted.finish()
        await tab.until_drawn()
        streams = [seen for path, seen in cut.asked if path.endswith("/events")]
        assert streams[0] is None
        assert streams[1] == "2"


async def test_a_server_that_stopped_is_said_and_found_again(cut, scripted, home, tab, tmp_path, request):
    policy = {"policy": {"allow_origin": [cut.origin]}}
    async with serving(scripted, home.generations_dir, **policy) as first:
        cut.target = first.server.port
        await tab.open(cut.origin)
        await tab.draw()
        await tab.until_said("stage-name", "Loading")
        unused = socket.socket()
        request.addfinalizer(unused.close)
        unused.bind(
            ("127.0.0.1", 0)
        )  # and does not listen: nobody answers there, and nobody else gets the port
        cut.target = unused.getsockname()[1]
        cut.cut()
        await tab.until_said("banner", "lost", "sdmanager serve")
        # What is asked for meanwhile is drawn once the server is back.
        await tab.draw("a fox")
    async with serving(scripted, tmp_path / "other", queue_size=1, **policy) as second:
        cut.target = second.server.port
        await tab.until("banner.hidden")
        await tab.until_said("stage-name", "Loading")
        scripted.finish()
        await tab.until_drawn()
        assert [request.prompt for request in scripted.requests] == ["a lighthouse", "a fox"]


async def test_an_answer_that_was_lost_is_asked_for_again_and_drawn_once(quick, scripted, tab):
    lost = []

    async def lose(route):
        if route.request.method == "POST" and not lost:
            lost.append(await route.fetch())
            await route.abort()
        else:
            await route.continue_()

    await tab.open(quick.url)
    await tab.page.route(f"**{GENERATIONS}", lose)
    await tab.draw()
    await tab.until_said("stage-name", "Loading")
    scripted.finish()
    await tab.until_drawn()
    assert lost[0].status == 201
    assert len(scripted.requests) == 1


async def test_a_prompt_is_text_and_nothing_else(quick, scripted, tab):
    evil = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>\"'>"
    await tab.open(quick.url)
    await tab.draw(evil)
    scripted.tell(preview(1))
    await tab.until("picture.src.startsWith('data:')")
    scripted.finish(NoImageError(evil, hint=evil))
    await tab.until_said("failure", evil)
    await tab.page.click("#generate")
    scripted.finish()
    await tab.until_drawn()
    await tab.page.click(".card")
    await tab.until_said("viewer-prompt", evil)
    assert await tab.page.title() == "sdmanager"
    assert (
        await tab.page.evaluate("document.querySelectorAll('main script, [onerror], dialog script').length")
        == 0
    )
