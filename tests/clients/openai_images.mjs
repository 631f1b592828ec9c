// Everything that the Node SDK can ask of images; what it gets is printed as JSON.
// Arguments: base URL, URL of a server that is busy, a PNG file.

import { File } from "node:buffer";
import fs from "node:fs";
import OpenAI, { toFile } from "openai";

globalThis.File ??= File; // Node 18 has it, but not as a global

const [baseURL, busyURL, file] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "sk-local", timeout: 120_000 });
const small = { prompt: "a lighthouse", size: "256x256", steps: 4, seed: 7 };
const seen = {};

function kind(b64) {
  const bytes = Buffer.from(b64, "base64");
  if (bytes.subarray(1, 4).toString() === "PNG") return "png";
  return bytes[0] === 0xff ? "jpeg" : "webp";
}

async function failure(asking) {
  try {
    await asking;
    return null;
  } catch (error) {
    return { name: error.constructor.name, status: error.status ?? null, code: error.code ?? null, param: error.param ?? null };
  }
}

async function told(stream) {
  const events = [];
  for await (const event of stream) {
    events.push([event.type, event.partial_image_index ?? null, event.b64_json ? kind(event.b64_json) : null]);
  }
  return events;
}

const made = await client.images.generate({ model: "dall-e-3", n: 2, output_format: "jpeg", ...small });
seen.generate = made.data.map((image) => [kind(image.b64_json), image.seed, image.url ?? null]);
const body = { ...small, stream: true, partial_images: 2 };
seen.post_stream = await told(await client.post("/images/generations", { body, stream: true }));
const version = JSON.parse(fs.readFileSync("node_modules/openai/package.json")).version;
seen.version = version;
seen.stream = version.startsWith("4.") ? null : await told(await client.images.generate(body));
const image = await toFile(fs.createReadStream(file), "in.png", { type: "image/png" });
seen.edit = (await client.images.edit({ image, prompt: "a cat", steps: 2 })).data.map((each) => kind(each.b64_json));
const again = await toFile(fs.createReadStream(file), "in.png", { type: "image/png" });
seen.variation = (await client.images.createVariation({ image: again, n: 1, steps: 2 })).data.map((each) => kind(each.b64_json));
seen.models = [];
for await (const model of client.models.list()) seen.models.push(model.id);
seen.invalid = await failure(client.images.generate({ ...small, size: "big" }));
seen.missing = await failure(client.images.generate({ ...small, model: "no-such-model" }));
seen.busy = await failure(new OpenAI({ baseURL: busyURL, apiKey: "x", maxRetries: 0 }).images.generate(small));
console.log(JSON.stringify(seen));
