import * as tf from '@tensorflow/tfjs-core';

import {BioClipError, throwIfAborted, within} from './errors.js';
import {addressOf, messageOf} from './origin.js';
import type {LoadOptions} from './types.js';

const WASM = ['', '-simd', '-threaded-simd'].map((kind) => `tfjs-backend-wasm${kind}.wasm`);

/** The address of each WebAssembly file by its name. */
export const wasmFiles = (address: (name: string) => string): Record<string, string> =>
  Object.fromEntries(WASM.map((name) => [name, address(name)]));

/** Flag of the WebAssembly backend: whether it loads the file with threads. */
const THREADED = 'WASM_HAS_MULTITHREAD_SUPPORT';

/** Milliseconds in which a backend must start, on a weak signal too; and threads, before one is tried. */
const START_LIMIT = 60_000;
const THREADS_LIMIT = 20_000;

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

async function start({backend = 'wasm', wasmPaths, threads = 1, signal}: LoadOptions): Promise<void> {
  throwIfAborted(signal);
  if (!(Number.isInteger(threads) && threads > 0)) {
    throw new BioClipError('argument', `threads is ${threads}, not a positive whole number`);
  }
  if (backend === 'wasm' && tf.getBackend() !== 'wasm') await prepareWasm(wasmPaths, threads);
  if (!tf.findBackendFactory(backend)) {
    throw new BioClipError(
      'backend',
      `TensorFlow.js has no backend ${backend} here: import '@tensorflow/tfjs-backend-${backend}' before loading, or ` +
        "use 'wasm'",
    );
  }
  const problem = backend === 'wasm' ? await startWasm(threads) : await problemOf(backend, START_LIMIT);
  if (problem !== null) {
    const hint = backend === 'wasm' ? '; are its .wasm files where wasmPaths says?' : '';
    throw new BioClipError('backend', `the TensorFlow.js backend ${backend} does not start: ${problem}${hint}`);
  }
}

/** Say where the files are and how many threads there will be, unless the backend runs already. */
async function prepareWasm(wasmPaths: LoadOptions['wasmPaths'], threads: number): Promise<void> {
  const wasm = await import('@tensorflow/tfjs-backend-wasm');
  if ('wasm' in tf.engine().registry) return;
  if (wasmPaths) {
    wasm.setWasmPaths(typeof wasmPaths === 'string' ? wasmFiles((name) => addressOf(wasmPaths, name)) : wasmPaths);
  }
  wasm.setThreadsCount(threads);
  const isIsolated = globalThis.crossOriginIsolated === true;
  if (threads > 1 && !isIsolated) warn(threads, 'the page is not cross-origin isolated');
  // By itself the backend takes threads wherever a page may have them.
  tf.env().set(THREADED, threads > 1 && isIsolated);
}

const warn = (threads: number, reason: string) =>
  console.warn(`react-bio-clip: ${threads} threads do not start here (${reason}); one is used`);

/**
 * Start WebAssembly. Its threads get a function of the backend as text; if a bundler has renamed what that function
 * refers to, they fail, and the backend itself waits for them for ever.
 */
async function startWasm(threads: number): Promise<string | null> {
  const isThreaded = tf.getBackend() !== 'wasm' && tf.env().getBool(THREADED);
  if (!isThreaded) return problemOf('wasm', START_LIMIT);
  const {failure, release} = failureOfThreads();
  const problem = await Promise.race([problemOf('wasm', THREADS_LIMIT), failure]);
  if (problem === null) {
    release();
    return null;
  }
  warn(threads, problem);
  tf.env().set(THREADED, false);
  return problemOf('wasm', START_LIMIT);
}

/**
 * Wait for the failure of a thread, whose script is a blob: the browser tells of it, and the backend throws that event
 * again. Neither goes further, or the page would take it for a failure of the worker in which the backend runs.
 */
function failureOfThreads(): {failure: Promise<string>; release: () => void} {
  let release = () => {};
  const failure = new Promise<string>((resolve) => {
    const listener = (event: ErrorEvent) => {
      const isTold = !event.error && event.filename.startsWith('blob:'); // an error of this script itself has `error`
      if (!isTold && !(event.error instanceof ErrorEvent)) return;
      event.preventDefault();
      resolve(event.message);
    };
    globalThis.addEventListener('error', listener);
    release = () => globalThis.removeEventListener('error', listener);
  });
  return {failure, release};
}

/** Why a backend does not start within `limit` milliseconds, or null if it does. */
async function problemOf(backend: string, limit: number): Promise<string | null> {
  try {
    const isSet = await within(tf.setBackend(backend), limit, `it has not answered for ${limit / 1000} s`);
    return isSet ? null : 'this browser may lack it';
  } catch (error) {
    return messageOf(error);
  }
}
