/** Messages between page and worker. Every call has a number, which its replies repeat. */

import type {Answer, BundleInfo, ClassifyOptions, Pixels, Progress, Bundled} from './types.js';

export interface LoadRequest {
  kind: 'load';
  source: string | Bundled;
  options: {backend?: string; wasmPaths?: string | Record<string, string>};
}

export interface ImageRequest {
  kind: 'classify' | 'embed';
  image: ImageBitmap | Blob | Pixels;
  options: Omit<ClassifyOptions, 'signal'>;
}

export type Request = {call: number} & (LoadRequest | ImageRequest | {kind: 'abort'} | {kind: 'dispose'});

export interface Loaded {
  info: BundleInfo;
  backend: string;
}

export type Reply = {call: number} & (
  | {progress: Progress}
  | {value: Loaded | Answer | Float32Array}
  | {error: {message: string; name: string; file: string | null}}
);

/** A worker as its page sees it, a worker's own scope, or one end of a MessageChannel. */
export interface Port {
  postMessage(message: unknown, transfer: Transferable[]): void;
  addEventListener(type: 'message', listener: (event: MessageEvent) => void): void;
  start?(): void;
}
