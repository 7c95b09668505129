/** The kind of fault, for programs; messages are for people and may change. */
export type BioClipErrorCode =
  /** An argument or option of a call. */
  | 'argument'
  /** The TensorFlow.js backend. */
  | 'backend'
  /** The bundle: of another version, or its files do not belong together. */
  | 'bundle'
  /** A file that is not the one that the bundle lists. */
  | 'damaged'
  /** A model that was disposed of. */
  | 'disposed'
  /** Something that this application or engine lacks. */
  | 'environment'
  /** The image. */
  | 'image'
  /** A bundle.json that is not the one asked for. */
  | 'integrity'
  /** A bundle.json that was not signed with the key asked for. */
  | 'signature'
  /** A text encoder of another teacher than the bundle's. */
  | 'teacher'
  /** Something that does not answer. */
  | 'timeout'
  /** A file that cannot be fetched or read. */
  | 'unreachable'
  /** The worker. */
  | 'worker';

/** An unusable bundle, image or environment. `file` names the file of the bundle concerned, or is null. */
export class BioClipError extends Error {
  readonly code: BioClipErrorCode;
  readonly file: string | null;

  constructor(code: BioClipErrorCode, message: string, file: string | null = null, cause?: unknown) {
    super(message, {cause});
    this.name = 'BioClipError';
    this.code = code;
    this.file = file;
  }
}

/** The reason of an aborted signal; React Native has neither `reason` nor DOMException. */
function reasonOf(signal: AbortSignal): unknown {
  if (signal.reason !== undefined) return signal.reason;
  return Object.assign(new Error('aborted'), {name: 'AbortError'});
}

export function throwIfAborted(signal?: AbortSignal): void {
  if (signal?.aborted) throw reasonOf(signal);
}

/** Settle as `work` does, or reject as soon as the signal is aborted. */
export function abortable<T>(work: Promise<T>, signal?: AbortSignal): Promise<T> {
  if (!signal) return work;
  return new Promise((resolve, reject) => {
    const stop = () => reject(reasonOf(signal));
    if (signal.aborted) stop();
    signal.addEventListener('abort', stop, {once: true});
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', stop));
  });
}

/** Settle as `work` does, or reject with an error of code timeout after `limit` milliseconds. */
export function within<T>(work: Promise<T>, limit: number, message: string, file: string | null = null): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new BioClipError('timeout', message, file)), limit);
    work.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

/** A controller that aborts when `signal` does, until `release`. Phones in use lack AbortSignal.any. */
export function controllerUnder(signal?: AbortSignal): {controller: AbortController; release: () => void} {
  const controller = new AbortController();
  const forward = () => controller.abort(signal?.reason);
  if (signal?.aborted) forward();
  signal?.addEventListener('abort', forward);
  return {controller, release: () => signal?.removeEventListener('abort', forward)};
}
