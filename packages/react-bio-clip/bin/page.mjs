/** The script of browser.mjs's page, bundled with all its imports. */

import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-webgl';

import {startBackend} from '../dist/core/backend.js';
import {openBundle} from '../dist/core/bundle.js';
import {computeAll} from '../dist/core/engine.js';
import {measureLatency} from '../dist/core/latency.js';
import {originOf} from '../dist/core/origin.js';
import {pixelsOf} from '../dist/core/pixels.js';

const NAMED = 0x9246; // UNMASKED_RENDERER_WEBGL, of the extension WEBGL_debug_renderer_info

let bundle;
let spent; // milliseconds of work in the page so far, without waiting for browser.mjs

/** Fetch the current image from the server: a file that the browser decodes, or RGB pixels. */
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

/** Name of the WebGL renderer: a graphics processor, or SwiftShader, which is software. */
function renderer() {
  const context = document.createElement('canvas').getContext('webgl2');
  return context.getExtension('WEBGL_debug_renderer_info') ? context.getParameter(NAMED) : null;
}

async function classify(size, top) {
  const start = performance.now();
  const {embedding, logits, answer} = await computeAll(bundle, await image(size), top);
  spent += performance.now() - start;
  return {embedding: [...embedding], logits: [...logits], answer, at: spent};
}

const latency = async (size, runs) => measureLatency(bundle, await image(size), runs);

/** Return errors as values: thrown ones would arrive with the stack of the page. */
const caught =
  (work) =>
  (...values) =>
    work(...values).then(
      (value) => ({value}),
      (error) => ({error: error.message}),
    );

globalThis.bioclip = {load: caught(load), classify: caught(classify), latency: caught(latency)};
spent = performance.now();
