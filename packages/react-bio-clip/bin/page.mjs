/** What runs in the page of browser.mjs, bundled with all it imports. */

import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-webgl';

import {useBackend} from '../dist/core/backend.js';
import {openBundle} from '../dist/core/bundle.js';
import {findAll} from '../dist/core/engine.js';
import {measureLatency} from '../dist/core/latency.js';
import {originOf} from '../dist/core/origin.js';
import {pixelsOf} from '../dist/core/pixels.js';

let bundle;

/** The image that the server has at hand: a file for the browser to decode, or RGB pixels. */
async function image({width, height}) {
  const response = await fetch('/image', {cache: 'no-store'});
  if (width) return {data: new Uint8Array(await response.arrayBuffer()), width, height};
  return pixelsOf(await response.blob());
}

async function load(backend) {
  const start = performance.now();
  await useBackend({backend, wasmPaths: '/wasm/'});
  bundle = await openBundle(await originOf('/bundle/'));
  return {info: bundle.info, milliseconds: performance.now() - start};
}

async function classify(size, top) {
  const {embedding, logits, answer} = await findAll(bundle, await image(size), top);
  return {embedding: [...embedding], logits: [...logits], answer};
}

const latency = async (size, runs) => measureLatency(bundle, await image(size), runs);

/** Errors as values: their messages would arrive with the stack of the page. */
const caught =
  (work) =>
  (...values) =>
    work(...values).then(
      (value) => ({value}),
      (error) => ({error: error.message}),
    );

globalThis.bioclip = {load: caught(load), classify: caught(classify), latency: caught(latency)};
