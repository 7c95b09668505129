/** Messages between page and worker. Every call has a number, which its replies repeat. */

import type {BioClipErrorCode} from './errors.js';
import type {Answer, BundleInfo, Bundled, ClassifyOptions, LoadOptions, Pixels, Progress} from './types.js';

export interface LoadRequest {
  kind: 'load';
  source: string | Bundled;
  options: Pick<LoadOptions, 'backend' | 'wasmPaths' | 'threads' | 'integrity' | 'publicKey'>;
}

export interface ImageRequest {
  kind: 'classify' | 'embed';
  /** Those of one observation; `embed` has one. */
  images: (ImageBitmap | Blob | Pixels)[];
  options: Omit<ClassifyOptions, 'signal'>;
}

export interface PreloadRequest {
  kind: 'preload';
  names: readonly string[] | undefined;
}

export type Request = {call: number} & (
  | LoadRequest
  | ImageRequest
  | PreloadRequest
  | {kind: 'abort'}
  | {kind: 'dispose'}
);

export interface Loaded {
  info: BundleInfo;
  sha256: string;
  backend: string;
}

/** An error as a message; `code` and `file` are null for an error that is no BioClipError. */
export interface ErrorReply {
  message: string;
  name: string;
  code: BioClipErrorCode | null;
  file: string | null;
}

/** `received` tells at once that a script which answers is there; loading may take long. */
export type Reply = {call: number} & (
  | {received: true}
  | {progress: Progress}
  | {value: Loaded | Answer | Float32Array | null}
  | {error: ErrorReply}
);

/** A worker as its page sees it, a worker's own scope, or one end of a MessageChannel. */
export interface Port {
  postMessage(message: unknown, transfer: Transferable[]): void;
  addEventListener(type: 'message', listener: (event: MessageEvent) => void): void;
  start?(): void;
}
