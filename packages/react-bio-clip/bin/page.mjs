/** What runs in the page of browser.mjs, bundled with all it imports. */

import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-webgl';

import {startBackend} from '../dist/core/backend.js';
import {openBundle} from '../dist/core/bundle.js';
import {findAll} from '../dist/core/engine.js';
import {measureLatency} from '../dist/core/latency.js';
import {originOf} from '../dist/core/origin.js';
import {pixelsOf} from '../dist/core/pixels.js';

const NAMED = 0x9246; // UNMASKED_RENDERER_WEBGL, of the extension WEBGL_debug_renderer_info

let bundle;
let spent; // milliseconds that the page has worked so far; not those in which it waits for browser.mjs

/** The image that the server has at hand: a file for the browser to decode, or RGB pixels. */
async function image({width, height}) {
  const response = await fetch('/image', {cache: 'no-store'});
  if (width) return {data: new Uint8Array(await response.arrayBuffer()), width, height};
  return pixelsOf(await response.blob());
}

async function load(backend) {
  const start = performance.now();
  await startBackend({backend, wasmPaths: '/wasm/'});
  bundle = await openBundle(await originOf('/bundle/'));
  const milliseconds = performance.now() - start;
  spent += milliseconds;
  return {info: bundle.info, milliseconds, renderer: backend === 'webgl' ? renderer() : null};
}

/** What computes WebGL here: a graphics processor, or SwiftShader, which is a program. */
function renderer() {
  const context = document.createElement('canvas').getContext('webgl2');
  return context.getExtension('WEBGL_debug_renderer_info') ? context.getParameter(NAMED) : null;
}

async function classify(size, top) {
  const start = performance.now();
  const {embedding, logits, answer} = await findAll(bundle, await image(size), top);
  spent += performance.now() - start;
  return {embedding: [...embedding], logits: [...logits], answer, at: spent};
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
spent = performance.now();
