/** Loads the model: beside the page, it runs in a worker; within a page of one file, in the page itself. */

import simd from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm?url';
import plain from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm.wasm?url';
import {loadBioClip, loadInWorker} from 'react-bio-clip';
import type {BioClip, LoadOptions, Source} from 'react-bio-clip';
import type {Loader} from 'react-bio-clip/react';

const absolute = (url: string) => new URL(url, document.baseURI).href;

export const IS_ONE_FILE = import.meta.env.MODE === 'single';
const WASM = 'tfjs-backend-wasm';

export const OPTIONS: LoadOptions = {
  publicKey: import.meta.env.PUBLIC_KEY, // which make.mjs was given, or undefined
  wasmPaths: {
    [`${WASM}.wasm`]: absolute(plain),
    [`${WASM}-simd.wasm`]: absolute(simd),
    [`${WASM}-threaded-simd.wasm`]: absolute(simd), // never loaded: the page uses one thread, but an entry must be there
  },
};

/** The bundle beside the page or in it. A new value is loaded anew: after a failure. */
export const source = (): Source => (IS_ONE_FILE ? (name) => inThisPage(name) : new URL(absolute('./model/')));

/** Load in the page: browsers start no worker for a page from a file. */
export const load: Loader<Source> = IS_ONE_FILE ? loadBioClip : inWorker;

let started: Worker | undefined;

async function inWorker(from: Source, options: LoadOptions): Promise<BioClip> {
  started ??= new Worker(new URL('../../src/worker.ts', import.meta.url), {type: 'module'});
  try {
    return await loadInWorker(started, from, options);
  } catch (error) {
    if (!options.signal?.aborted) {
      started.terminate(); // the next attempt fetches its script again
      started = undefined;
    }
    throw error;
  }
}

async function inThisPage(name: string): Promise<ArrayBuffer> {
  const files: Record<string, string> = JSON.parse(document.getElementById('bundle')?.textContent ?? '{}');
  const file = files[name];
  if (file === undefined) throw new Error(`${name} is not in this page`);
  return (await fetch(`data:application/octet-stream;base64,${file}`)).arrayBuffer();
}
