import {abortable, BioClipError, throwIfAborted, within} from './errors.js';
import {is, listOf, pixelsOf} from './pixels.js';
import {checkOptions} from './tree.js';
import type {Answer, BioClip, CallOptions, ClassifyOptions, ImageInput, LoadOptions, Source} from './types.js';
import type {ErrorReply, ImageRequest, Loaded, LoadRequest, Port, PreloadRequest, Reply} from './worker-protocol.js';

// biome-ignore lint/suspicious/noExplicitAny: each call has a type of answer of its own, which `ask` states
type Waiting = {resolve: (value: any) => void; reject: (error: unknown) => void; options: LoadOptions};

/** Milliseconds until the script of a worker has been fetched and answers, on a weak signal too. */
const PATIENCE = 60_000;
const SILENT =
  "the worker has not answered for 60 s: does its script import 'react-bio-clip/worker', and can it be fetched?";

/**
 * Load a bundle in a worker, so that neither loading nor inference holds up the page. The worker's script imports
 * 'react-bio-clip/worker'. The source is an address or the files themselves, not a function. A worker holds one bundle;
 * the caller terminates it.
 */
export async function loadInWorker(worker: Port, source: Source, options: LoadOptions = {}): Promise<BioClip> {
  if (typeof source === 'function')
    throw new BioClipError('argument', 'a function cannot be sent to a worker: give an address');
  const waiting = new Map<number, Waiting>();
  let calls = 0;
  let broken: unknown = null;
  let hear: (value?: unknown) => void;
  const heard = new Promise((resolve) => {
    hear = resolve;
  });

  worker.addEventListener('message', ({data}: {data: Reply}) => {
    hear();
    const call = waiting.get(data.call);
    if (!call || 'received' in data) return; // aborted, or only told that it was heard
    if ('progress' in data) {
      call.options.onProgress?.(data.progress);
      return;
    }
    waiting.delete(data.call);
    if ('value' in data) call.resolve(data.value);
    else call.reject(errorOf(data.error));
  });
  worker.start?.();
  if (typeof Worker !== 'undefined' && worker instanceof Worker) {
    worker.addEventListener('error', (event) => {
      broken = new BioClipError('worker', `the worker failed: ${event.message || 'its script cannot be loaded'}`);
      for (const {reject} of waiting.values()) reject(broken);
      waiting.clear();
    });
  }

  async function ask<T>(
    request: LoadRequest | ImageRequest | PreloadRequest,
    given: LoadOptions,
    transfer: Transferable[] = [],
  ): Promise<T> {
    throwIfAborted(given.signal);
    if (broken) throw broken;
    const call = ++calls;
    const reply = new Promise<T>((resolve, reject) => {
      waiting.set(call, {resolve, reject, options: given});
      worker.postMessage({call, ...request}, transfer);
    });
    try {
      return await abortable(reply, given.signal);
    } finally {
      if (waiting.delete(call)) worker.postMessage({call, kind: 'abort'}, []); // aborted before the answer came
    }
  }

  const {backend, wasmPaths, threads, integrity, publicKey} = options;
  const where = typeof source === 'string' || source instanceof URL ? absolute(source) : source;
  const asked = {backend, wasmPaths, threads, integrity, publicKey};
  const request: LoadRequest = {kind: 'load', source: where, options: asked};
  const loading = ask<Loaded>(request, options);
  await within(Promise.race([loading, heard]), PATIENCE, SILENT);
  const loaded = await loading;
  let disposed = false;

  function checkLoaded(): void {
    if (disposed) throw new BioClipError('disposed', 'this classifier has been disposed of; load it again');
  }

  async function send<T>(
    kind: ImageRequest['kind'],
    images: readonly ImageInput[],
    given: ClassifyOptions,
  ): Promise<T> {
    checkLoaded();
    const {signal, ...rest} = given;
    throwIfAborted(signal);
    const sent = await Promise.all(images.map(sendable));
    const transfer = sent.flatMap((one) => one.transfer);
    return ask<T>({kind, images: sent.map(({content}) => content), options: rest}, {signal}, transfer);
  }

  return {
    ...loaded,
    embed: (image, given: CallOptions = {}) => send<Float32Array>('embed', [image], given),
    classify: async (image, given = {}) => {
      checkOptions(loaded.info, given);
      return send<Answer>('classify', listOf(image), given);
    },
    async preload(names, given = {}) {
      checkLoaded();
      await ask<null>({kind: 'preload', names}, given);
    },
    dispose() {
      if (!disposed) worker.postMessage({call: ++calls, kind: 'dispose'}, []);
      disposed = true;
    },
  };
}

/** Resolve an address against the page: a worker has another base. */
function absolute(source: string | URL): string {
  return globalThis.document ? new URL(source, document.baseURI).href : String(source);
}

/** Turn elements into bitmaps, which transfer without a copy; copy pixels, which belong to the caller. */
async function sendable(
  image: ImageInput,
): Promise<{content: ImageRequest['images'][number]; transfer: Transferable[]}> {
  if (is(image, 'Blob')) return {content: image, transfer: []};
  const element =
    is(image, 'HTMLImageElement') ||
    is(image, 'HTMLVideoElement') ||
    is(image, 'HTMLCanvasElement') ||
    is(image, 'OffscreenCanvas') ||
    is(image, 'ImageBitmap');
  if (element) {
    const bitmap = await createImageBitmap(image).catch((error) => {
      throw new BioClipError('image', `the image has no pixels: has it been loaded? (${error.message})`, null, error);
    });
    return {content: bitmap, transfer: [bitmap]};
  }
  const {data, width, height} = await pixelsOf(image);
  return {content: {data, width, height}, transfer: []};
}

function errorOf({message, name, code, file}: ErrorReply): Error {
  if (code) return new BioClipError(code, message, file);
  return Object.assign(new Error(message), {name});
}
