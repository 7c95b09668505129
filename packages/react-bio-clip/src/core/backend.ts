import * as tf from '@tensorflow/tfjs-core';

import {BioClipError, throwIfAborted} from './errors.js';
import {addressOf, messageOf} from './origin.js';
import type {LoadOptions} from './types.js';

const WASM = ['', '-simd', '-threaded-simd'].map((kind) => `tfjs-backend-wasm${kind}.wasm`);

/** The address of each WebAssembly file by its name. */
export const wasmFiles = (address: (name: string) => string): Record<string, string> =>
  Object.fromEntries(WASM.map((name) => [name, address(name)]));

let last: Promise<unknown> = Promise.resolve();

/**
 * Set the TensorFlow.js backend. Only WebAssembly is imported here; an application imports any other one itself, so that
 * nothing unused is downloaded. Starts wait for each other: TensorFlow.js abandons one when a second one begins.
 */
export function startBackend(options: LoadOptions): Promise<void> {
  const result = last.then(() => start(options));
  last = result.catch(() => {});
  return result;
}

async function start({backend = 'wasm', wasmPaths, signal}: LoadOptions): Promise<void> {
  throwIfAborted(signal);
  if (backend === 'wasm' && tf.getBackend() !== 'wasm') {
    const wasm = await import('@tensorflow/tfjs-backend-wasm');
    const started = 'wasm' in tf.engine().registry;
    if (wasmPaths && !started) {
      wasm.setWasmPaths(typeof wasmPaths === 'string' ? wasmFiles((name) => addressOf(wasmPaths, name)) : wasmPaths);
    }
  }
  if (!tf.findBackendFactory(backend)) {
    throw new BioClipError(
      `TensorFlow.js has no backend ${backend} here: import '@tensorflow/tfjs-backend-${backend}' before loading, or ` +
        "use 'wasm'",
    );
  }
  let set = false;
  let reason = 'this browser may lack it';
  try {
    set = await tf.setBackend(backend);
  } catch (error) {
    reason = messageOf(error);
  }
  if (!set) {
    const hint = backend === 'wasm' ? '; are its .wasm files where wasmPaths says?' : '';
    throw new BioClipError(`the TensorFlow.js backend ${backend} does not start: ${reason}${hint}`);
  }
}
