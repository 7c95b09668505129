/** An unusable bundle or image. `file` names the file of the bundle concerned, or is null. */
export class BioClipError extends Error {
  readonly file: string | null;

  constructor(message: string, file: string | null = null, cause?: unknown) {
    super(message, {cause});
    this.name = 'BioClipError';
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
